"""The frozen adapter under the trained one, such as that of a few-step distillation: read, checked, put in.

It is held against the transformer before anything is drawn: a file of another model would otherwise leave modules
without their share, and diffusers only logs that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.learner.lora import FROZEN, linear_modules
from cac_align.flow_grpo.learner.lora_convert import read_adapter
from reward_model.backends.source import located

if TYPE_CHECKING:
    from diffusers import ModelMixin


@dataclass(frozen=True)
class FrozenAdapter:
    """An adapter that fits a transformer.

    Attributes:
        source: file or folder, as it was named.
        tensors: ``<module>.lora_A.weight``, ``.lora_B.weight`` and perhaps ``.lora_B.bias``, by diffusers' names;
            alpha and the strength are multiplied in.
    """

    source: str
    tensors: dict[str, torch.Tensor]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, in order."""
        return tuple(sorted({v.shape[0] for name, v in self.tensors.items() if name.endswith(".lora_A.weight")}))

    @property
    def num_modules(self) -> int:
        return sum(name.endswith(".lora_A.weight") for name in self.tensors)

    @property
    def num_parameters(self) -> int:
        return sum(value.numel() for value in self.tensors.values())


def read_frozen(
    source: str, transformer: torch.nn.Module, weight: float = 1.0, setting: str = "frozen_adapter"
) -> FrozenAdapter:
    """The adapter of a file, seen to be one of this transformer, which may be on the meta device.

    Args:
        source: a safetensors file, or a folder with one, in any form that ``cac-align lora convert`` reads.
        transformer: model that it shall lie in.
        weight: strength.
        setting: that named it, for messages.

    Raises:
        ValueError: if there is no such adapter, or it belongs to another model. Its rank may differ.
    """
    tensors = check_adapter(source, transformer, f"{setting}={source!r}", ", or set it to null")
    strong = {n: v if ".lora_A." in n or weight == 1 else (v.float() * weight).to(v.dtype) for n, v in tensors.items()}
    return FrozenAdapter(source, strong)


def check_adapter(
    source: str, transformer: torch.nn.Module, called: str, otherwise: str = ""
) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, seen to be one of this transformer.

    Args:
        source, transformer: see :func:`read_frozen`.
        called: what messages call it.
        otherwise: end of their remedy, besides naming another one.

    Raises:
        ValueError: if there is no such adapter, or it belongs to another model.
    """
    try:
        adapter = read_adapter(located(source))
    except ValueError as error:
        raise ValueError(f"{called}: {error}") from error
    tensors = {name.removeprefix("transformer."): value for name, value in adapter.items()}
    shapes, other = linear_modules(transformer), f"{called} is one of another model:"
    remedy = f"name an adapter of this model{otherwise}"
    for name, value in tensors.items():
        module, _, kind = name.partition(".lora_")
        if module not in shapes:
            raise ValueError(f"{other} the transformer has no linear module {module!r}; {remedy}")
        rank = tensors[f"{module}.lora_A.weight"].shape[0]
        outputs, inputs = shapes[module]
        wanted = {"A.weight": (rank, inputs), "B.weight": (outputs, rank), "B.bias": (outputs,)}[kind]
        if tuple(value.shape) != wanted:
            raise ValueError(f"{other} {name} has the shape {tuple(value.shape)}, this one needs {wanted}; {remedy}")
    return tensors


def put_frozen(transformer: ModelMixin, adapter: FrozenAdapter) -> None:
    """Puts the adapter into the transformer, in its precision and without gradient.

    Raises:
        ValueError: if the transformer has an adapter already, which would lie under it.
    """
    if getattr(transformer, "peft_config", None):
        raise ValueError(
            f"the frozen adapter {adapter.source!r} must be the first adapter of the transformer, which has "
            f"{', '.join(transformer.peft_config)} already; fuse or unload it"
        )
    values = {f"transformer.{name}": value.to(transformer.dtype) for name, value in adapter.tensors.items()}
    transformer.load_lora_adapter(values, prefix="transformer", adapter_name=FROZEN)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(transformer.dtype)
