"""The adapter that is trained: put in and counted, switched off for the reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import ModelMixin


def add_lora(transformer: ModelMixin, *, r: int, alpha: int, targets: Sequence[str], seed: int = 0) -> list[str]:
    """Freezes the transformer and adds fp32 adapters; returns the names of the adapted modules.

    A is Gaussian, B is zero, so the model is unchanged at first.

    Raises:
        ValueError: the targets match no module, or an adapter is there already.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    if getattr(transformer, "peft_config", None):
        raise ValueError("the transformer has an adapter already; fuse or unload it before training another one")
    transformer.requires_grad_(False)
    names = matching_modules(transformer, targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(
            LoraConfig(r=r, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))
        )
    cast_training_params(transformer, dtype=torch.float32)
    return names


def matching_modules(transformer: torch.nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear modules whose name ends with one of ``targets``.

    Raises:
        ValueError: if there is none, or a target matches none; the message lists names that would.
    """
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    found = [n for n in linear if any(n == t or n.endswith(f".{t}") for t in targets)]
    unused = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in linear)]
    if unused:
        ends = sorted({n.split(".", 2)[-1] for n in linear if n.startswith("blocks.")} or set(linear))
        raise ValueError(
            f"lora_targets {unused} match no linear module of {type(transformer).__name__}; there are {', '.join(ends)}"
        )
    return found


def lora_sizes(transformer: torch.nn.Module, *, r: int, targets: Sequence[str]) -> tuple[int, int]:
    """Counts the modules :func:`add_lora` would adapt and the parameters it would add, without adding any.

    Raises:
        ValueError: as :func:`matching_modules`.
    """
    names = matching_modules(transformer, targets)
    shapes = [transformer.get_parameter(f"{name}.weight").shape for name in names]
    return len(names), sum(r * (rows + columns) for rows, columns in shapes)


def lora_parameters(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, in a fixed order."""
    return {name: p for name, p in transformer.named_parameters() if "lora_" in name}


@contextmanager
def adapter_off(transformer: ModelMixin) -> Iterator[None]:
    """The model as it was before training; the adapter is always restored, also after an error."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


@contextmanager
def weights_of(parameters: Sequence[torch.nn.Parameter], others: Sequence[torch.Tensor]) -> Iterator[None]:
    """Other values in the parameters (an average, an old policy), whose own values are always restored."""
    kept = [p.detach().clone() for p in parameters]
    try:
        _copy(others, parameters)
        yield
    finally:
        _copy(kept, parameters)


@torch.no_grad()
def _copy(values: Sequence[torch.Tensor], parameters: Sequence[torch.nn.Parameter]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
