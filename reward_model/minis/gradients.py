"""Batches that processes share, and the mean of their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed, nn


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over processes, in one message; does nothing in a single process.

    A parameter that the batch of one process did not touch has a gradient of zero there; one that no process touched
    keeps None, so that optimisers leave it alone.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    # All parameters in all processes, whichever have gradients where: messages must be of one size and mean the same.
    trained = [p for p in parameters if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    touched = torch.tensor([p.grad is not None for p in trained], dtype=grads[0].dtype, device=grads[0].device)
    flat = torch.cat([*(g.flatten() for g in grads), touched])
    distributed.all_reduce(flat)
    *parts, touched = flat.split([*(g.numel() for g in grads), len(grads)])
    for parameter, grad, part, times in zip(trained, grads, parts, touched.tolist(), strict=True):
        parameter.grad = grad.copy_(part.view_as(grad)).div_(distributed.get_world_size()) if times else None


def share_of(batch: int) -> tuple[int, int]:
    """This process's rank and its part of a batch that all processes draw together; parts are equal, rounded up."""
    if not distributed.is_initialized():
        return 0, batch
    return distributed.get_rank(), -(-batch // distributed.get_world_size())
