"""The weights of a policy in training, whole and under their names in a checkpoint, for an engine that follows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel


@torch.no_grad()
def policy_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every weight, adapters added to what they adapt; the policy stays as it is.

    Sharded weights are gathered one after the other, so all processes have to read to the end.

    Args:
        model: the bare judge or a peft model around it; its parameters may be shards of FSDP2 or DeepSpeed.
    """
    adapters = {id(m.get_base_layer().weight): m for m in model.modules() if hasattr(m, "get_base_layer")}
    for given, parameter in model.named_parameters():
        if ".lora_" in given:
            continue
        name = given.removeprefix("base_model.model.").replace("_checkpoint_wrapped_module.", "")
        adapter: Any = adapters.get(id(parameter))
        with _gathered([parameter, *_factors(adapter)]):
            value = _whole(parameter)
            if adapter is not None:
                down, up = (_whole(factor) for factor in _factors(adapter))
                value = value + adapter.scaling[_name(adapter)] * (up @ down)
        yield name.replace(".base_layer.", "."), value


def _name(adapter: LoraLayer) -> str:
    names = list(adapter.active_adapters)
    if len(names) != 1 or not isinstance(adapter.get_base_layer(), torch.nn.Linear):
        raise ValueError(f"one LoRA on linear layers can be followed, not {names} on {type(adapter).__name__}")
    return str(names[0])


def _factors(adapter: LoraLayer) -> list[torch.Tensor]:
    """The two factors of an adapter, (r, in) and (out, r); none where there is no adapter."""
    if adapter is None:
        return []
    name = _name(adapter)
    return [adapter.lora_A[name].weight, adapter.lora_B[name].weight]


def _gathered(parts: list[torch.Tensor]) -> AbstractContextManager[Any]:
    """Gathers the parts that DeepSpeed ZeRO-3 spreads, complete within the block."""
    if not any(hasattr(part, "ds_id") for part in parts):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parts)


def _whole(part: torch.Tensor) -> torch.Tensor:
    """A copy where the weight itself is a shard or soon gone."""
    if hasattr(part, "full_tensor"):
        return part.full_tensor()
    return part.detach().clone() if hasattr(part, "ds_id") else part.detach()
