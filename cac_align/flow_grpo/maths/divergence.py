"""How far two policies are apart at a step: KL in the space of means, and its stand-in in the space of velocities."""

from __future__ import annotations

import torch

from cac_align.flow_grpo.maths.kernels import batch_mean


def mean_divergence(
    mean: torch.Tensor,
    other_mean: torch.Tensor,
    std: torch.Tensor | float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL of two Gaussians of equal std, averaged over elements: mean((mean - other)^2) / (2 std^2), (B,).

    Never negative, exactly 0 for equal means. Gradients pass through ``mean`` only: compute ``other_mean`` without.

    Args:
        mean, other_mean: (B, ...).
        std: of the step, above 0.
        weights: cell weights, see :func:`cac_align.flow_grpo.maths.kernels.batch_mean`.
    """
    spread = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    if not bool((spread > 0).all()):
        raise ValueError(
            f"std={spread.min().item()} must be above 0: two ODE steps have no KL; use velocity_divergence"
        )
    return batch_mean(((mean - other_mean.detach().to(mean)) / spread).square() / 2, weights)


def velocity_divergence(
    velocity: torch.Tensor, other_velocity: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """mean((v - other)^2), (B,): the same for every step, where :func:`mean_divergence` is c(sigma)^2 / 2 times this.

    Args:
        velocity, other_velocity: (B, ...); fp32 arithmetic at least.
    """
    wide = velocity if velocity.dtype == torch.float64 else velocity.float()
    return batch_mean((wide - other_velocity.detach().to(wide)).square(), weights)
