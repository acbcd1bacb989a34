"""The adapter that is trained: put in and counted, switched off for the reference.

A frozen adapter may lie under it. It is a part of the base model: always on, never trained, in no checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import ModelMixin

#: Names of the two adapters in the transformer; ``default`` is that of peft.
TRAINED, FROZEN = "default", "frozen"


def add_lora(transformer: ModelMixin, *, r: int, alpha: int, targets: Sequence[str], seed: int = 0) -> list[str]:
    """Freezes the transformer and adds fp32 adapters; returns the names of the adapted modules.

    A is Gaussian, B is zero, so the model is unchanged at first. A frozen adapter under it stays as it is.

    Raises:
        ValueError: the targets match no module, or an adapter to be trained is there already.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    if set(getattr(transformer, "peft_config", None) or {}) - {FROZEN}:
        raise ValueError("the transformer has an adapter already; fuse or unload it before training another one")
    transformer.requires_grad_(False)
    names = matching_modules(transformer, targets)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # the frozen one, on purpose
        warnings.filterwarnings("ignore", message="TorchaoLoraLinear was instantiated")  # of merging, which is not done
        torch.manual_seed(seed)
        transformer.add_adapter(
            LoraConfig(r=r, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(targets))
        )
    if has_frozen(transformer):
        _switch(transformer, [FROZEN, TRAINED])
    cast_training_params(transformer, dtype=torch.float32)
    return names


def has_frozen(transformer: torch.nn.Module) -> bool:
    """True if a frozen adapter lies under the one that is trained."""
    return FROZEN in (getattr(transformer, "peft_config", None) or {})


def matching_modules(transformer: torch.nn.Module, targets: Sequence[str]) -> list[str]:
    """The linear modules whose name ends with one of ``targets``.

    Raises:
        ValueError: if there is none, or a target matches none; the message lists names that would.
    """
    linear = list(linear_modules(transformer))
    found = [n for n in linear if any(n == t or n.endswith(f".{t}") for t in targets)]
    unused = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in linear)]
    if unused:
        ends = sorted({n.split(".", 2)[-1] for n in linear if n.startswith("blocks.")} or set(linear))
        raise ValueError(
            f"lora_targets {unused} match no linear module of {type(transformer).__name__}; there are {', '.join(ends)}"
        )
    return found


def linear_modules(transformer: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every linear module by its name, whether an adapter is on it or not."""
    found = {}
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name:
            found[name.removesuffix(".base_layer")] = (module.out_features, module.in_features)
    return found


def lora_sizes(transformer: torch.nn.Module, *, r: int, targets: Sequence[str]) -> tuple[int, int]:
    """Counts the modules :func:`add_lora` would adapt and the parameters it would add, without adding any.

    Raises:
        ValueError: as :func:`matching_modules`.
    """
    names, shapes = matching_modules(transformer, targets), linear_modules(transformer)
    return len(names), sum(r * sum(shapes[name]) for name in names)


def lora_parameters(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, in a fixed order."""
    return {name: p for name, p in transformer.named_parameters() if "lora_" in name and f".{FROZEN}." not in name}


def adapters_of(transformers: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    """The trained parameters of a pipeline by name, in a fixed order; those of two experts begin with ``transformer.``
    and ``transformer_2.``.

    Args:
        transformers: by the name of the part.
    """
    if len(transformers) == 1:
        return lora_parameters(next(iter(transformers.values())))
    return {f"{part}.{k}": p for part, model in transformers.items() for k, p in lora_parameters(model).items()}


@contextmanager
def adapter_off(*transformers: ModelMixin) -> Iterator[None]:
    """The model, or each of its experts, as it was before training, with its frozen adapter if it has one; the trained
    adapters are always restored, also after an error.
    """
    try:
        for transformer in transformers:
            if has_frozen(transformer):
                _switch(transformer, [FROZEN])
            else:
                transformer.disable_adapters()
        yield
    finally:
        for transformer in transformers:
            if has_frozen(transformer):
                _switch(transformer, [FROZEN, TRAINED])
            else:
                transformer.enable_adapters()


def _switch(transformer: torch.nn.Module, names: list[str]) -> None:
    """Makes these adapters the active ones, in this order. peft would train every active adapter; only one is."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in transformer.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(names, inference_mode=True)
    for parameter in lora_parameters(transformer).values():
        parameter.requires_grad_(True)


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
