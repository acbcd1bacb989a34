"""Gradients of processes that each train on batches of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed, nn


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over processes, in one message; does nothing in a single process."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))
