"""Blocks of the frozen model in main memory, each copied to the device for its turn.

``enable_group_offload`` of diffusers serves pipelines that only draw: it swaps the data of a parameter back after the
forward pass, and a backward pass then finds it on the wrong device. Here the layer is lent a copy instead. What
autograd has kept of the copy lives until its backward pass is over, and no longer: with gradient checkpointing, where
a block's forward is computed again just before its backward, that is one block at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from cac_align.flow_grpo.learner.lora import lora_parameters

if TYPE_CHECKING:
    from diffusers import ModelMixin


class LentBlock:
    """Hooks of one block: copies of its frozen weights for the time of a forward pass.

    Args:
        block: a block of a transformer. Its frozen weights stay where they are.
        device: of the forward pass.
        trained: parameters that are trained, which are on the device for good.
    """

    def __init__(self, block: nn.Module, device: torch.device, trained: set[int]) -> None:
        self.device = device
        self.places = [
            (module, name, parameter)
            for module in block.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if id(parameter) not in trained
        ]
        block.register_forward_pre_hook(self.lend)
        # Also after an exception: checkpointing ends a recomputation with one, as soon as it has what it needs.
        block.register_forward_hook(self.take_back, always_call=True)

    def lend(self, *_: object) -> None:
        """Puts a copy in the place of each weight."""
        for module, name, parameter in self.places:
            module._parameters[name] = device_copy(parameter, self.device)

    def take_back(self, *_: object) -> None:
        """Puts the weights back."""
        for module, name, parameter in self.places:
            module._parameters[name] = parameter


def offload_blocks(transformer: ModelMixin, device: torch.device) -> list[LentBlock]:
    """Leaves the frozen weights of the blocks where they are, and moves all else to the device.

    Args:
        transformer: on the CPU, with its adapters.
        device: where it computes.
    """
    trained = {id(p) for p in lora_parameters(transformer).values()}
    inside = {id(p) for p in transformer.blocks.parameters()} - trained
    for module in transformer.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in inside:
                parameter.data = parameter.data.to(device)
            elif device.type == "cuda" and type(parameter) is nn.Parameter:
                parameter.data = parameter.data.pin_memory()
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    return [LentBlock(block, device, trained) for block in transformer.blocks]


def device_copy(parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    """A frozen copy on a device, which shares nothing with the parameter, quantised by torchao or not."""
    value = parameter.detach()
    same = value.device == device
    return nn.Parameter(value.clone() if same else value.to(device, non_blocking=True), requires_grad=False)
