"""Muon: momentum whose update is orthogonalised, so that all directions of a matrix move at the same rate.

Why here: a mini model gets minutes, not days. After 60 CPU seconds of single frames the mini video autoencoder had a
mean squared error of 0.007 with Muon (lr 0.02) and 0.017 with AdamW (lr 3e-3). Keller Jordan,
https://kellerjordan.github.io/posts/muon/. ``torch.optim.Muon`` takes two-dimensional weights only and computes in
bfloat16, which a CPU emulates; here a convolution is a matrix (outputs x everything else).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# Quintic Newton-Schulz coefficients: they push singular values into about [0.7, 1.2] in five rounds.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalize(matrix: torch.Tensor, num_rounds: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: ``U V^T`` of ``U S V^T`` with singular values near 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    m = matrix.T if tall else matrix
    m = m / (m.norm() + 1e-8)
    for _ in range(num_rounds):
        gram = m @ m.T
        m = _A * m + (_B * gram + _C * gram @ gram) @ m
    return m.T if tall else m


class MuonAdamW(torch.optim.AdamW):
    """Muon for the parameter groups marked ``matrix=True``, AdamW for the others, in one optimizer: one state to save,
    one schedule.

    The Muon update is Nesterov momentum, orthogonalised and scaled by ``sqrt(max(1, outputs / inputs))``; its ``lr`` is
    the length of a step in spectral norm, 0.01-0.03 for mini models. Weight decay is decoupled in both.

    Args:
        groups: dictionaries with ``params``, ``lr`` and ``matrix``; other AdamW options as usual.
        momentum: decay of the running gradient of matrices.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **options: Any) -> None:
        super().__init__([{"momentum": momentum, **group} for group in groups], **options)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        groups = self.param_groups
        for group in groups:
            if group["matrix"]:
                for param in group["params"]:
                    if param.grad is not None:
                        self._step_matrix(param, group)
        self.param_groups = [group for group in groups if not group["matrix"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_matrix(self, param: torch.Tensor, group: dict[str, Any]) -> None:
        state, grad = self.state[param], param.grad
        assert grad is not None
        if "momentum_buffer" not in state:
            # AdamW expects the count in every state that it restores.
            state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(param))
        state["step"] += 1
        buffer = state["momentum_buffer"]
        buffer.lerp_(grad, 1 - group["momentum"])
        update = orthogonalize(grad.lerp(buffer, group["momentum"]).flatten(1))
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        param.mul_(1 - group["lr"] * group["weight_decay"])
        param.add_(update.view_as(param), alpha=-group["lr"] * scale)


def divide_parameters(
    named: Iterable[tuple[str, nn.Parameter]], *, lr: float, adam_lr: float, adam_names: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Groups for :class:`MuonAdamW`: weight matrices by Muon, the rest (norms, biases, tables, embeddings) by AdamW.

    Args:
        named: names and parameters; those with ``requires_grad=False`` are left out.
        lr: Muon's learning rate.
        adam_lr: AdamW's learning rate.
        adam_names: parts of parameter names that go to AdamW although they are matrices.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, param in named:
        if param.requires_grad:
            is_matrix = param.ndim >= 2 and min(param.shape[0], param[0].numel()) > 1
            (matrices if is_matrix and not any(part in name for part in adam_names) else rest).append(param)
    groups = ({"params": matrices, "lr": lr, "matrix": True}, {"params": rest, "lr": adam_lr, "matrix": False})
    return [group for group in groups if group["params"]]
