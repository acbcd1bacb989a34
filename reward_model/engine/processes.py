"""Numbers that all processes of a training share: gathered, summed, the largest. A single process keeps its own."""

from __future__ import annotations

from typing import Any

import torch


def gathered(accelerator: Any, value: torch.Tensor) -> torch.Tensor:
    """Tensors of all processes one after another along the first axis, on the CPU."""
    if accelerator.num_processes == 1:
        return value
    found: torch.Tensor = accelerator.gather(value.to(accelerator.device)).cpu()
    return found


def summed(accelerator: Any, values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the CPU."""
    if accelerator.num_processes == 1:
        return values
    found: torch.Tensor = accelerator.reduce(values.to(accelerator.device), "sum").cpu()
    return found


def largest(accelerator: Any, value: int) -> int:
    """The largest of a number over all processes."""
    return int(gathered(accelerator, torch.tensor([value])).max())
