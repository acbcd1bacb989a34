"""Losses on recorded steps: ``grpo``, ``guard``, ``dppo``, how far two policies are apart, and what to log about them.

Losses are per sample, (B,), before any mean, so that per-step weights and gradient accumulation stay with the caller.
Ratios are taken in float64: clip ranges go down to 1e-6, and the float32 numbers next to 1 are 1e-7 apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from cac_align.flow_grpo.maths.kernels import batch_mean, guard_log_ratio, log_ratio

PolicyObjective = Literal["grpo", "guard", "dppo"]


@dataclass(frozen=True)
class Objective:
    """``loss`` (B,) float64 carries the gradient; ``log_ratio`` (B,) does not.

    ``stopped`` (B,) bool marks samples whose gradient is off: clipped on the side that binds, or dropped by DPPO.
    """

    loss: torch.Tensor
    log_ratio: torch.Tensor
    stopped: torch.Tensor


def grpo(
    log_ratio: torch.Tensor,
    advantages: torch.Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
) -> Objective:
    """The clipped surrogate, max(-A r, -A clip(r)), of each sample (Flow-GRPO).

    Args:
        log_ratio: (B,) new minus old log-prob: from :func:`~cac_align.flow_grpo.maths.kernels.log_ratio`, which is more
            accurate than the difference of two log-probs.
        advantages: (B,).
        clip_range, clip_range_high: the ratio is kept between 1 - clip_range and 1 + clip_range_high (by default the
            same). Log-probs are means over elements, so 1e-3 is wide.
    """
    high = clip_range if clip_range_high is None else clip_range_high
    if not (0 < clip_range < 1 and high > 0):
        raise ValueError(f"clip_range={clip_range} must lie in (0, 1), and clip_range_high={high} above 0")
    gain = advantages.to(device=log_ratio.device, dtype=torch.float64)  # (B,)
    ratio = log_ratio.double().exp()  # (B,)
    # The larger loss: past the range a good step is not made likelier still, but a bad one can always be taken back.
    loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1 - clip_range, 1 + high))  # (B,)
    with torch.no_grad():
        stopped = ((ratio > 1 + high) & (gain > 0)) | ((ratio < 1 - clip_range) & (gain < 0))
    return Objective(loss, log_ratio.detach(), stopped)


def guard(
    guard_ratio: torch.Tensor,
    advantages: torch.Tensor,
    *,
    step_size: float,
    clip_range: float,
    clip_range_high: float | None = None,
) -> Objective:
    """GRPO-Guard: the surrogate on the normalised ratio, divided by the step size h.

    Its gradient weighs steps by 1 + s^2 (1 - sigma) / (2 sigma), for the ``flow`` kernel the constant 1 + eta^2 / 2.

    Args:
        guard_ratio: (B,) of :func:`~cac_align.flow_grpo.maths.kernels.guard_log_ratio`.
        step_size: h = sigma - sigma_next.
        clip_range: Guard's own scale; 2e-6 in the public recipe.
    """
    if not step_size > 0:
        raise ValueError(f"step_size={step_size} must be above 0; pass sigma - sigma_next")
    plain = grpo(guard_ratio, advantages, clip_range=clip_range, clip_range_high=clip_range_high)
    # A velocity moves the mean by about h, so long steps would have the larger gradients.
    return Objective(plain.loss / step_size, plain.log_ratio, plain.stopped)


def dppo(
    log_ratio: torch.Tensor,
    divergence: torch.Tensor,
    advantages: torch.Tensor,
    *,
    max_divergence: float = 1e-5,
) -> Objective:
    """Flow-DPPO: no clip; a sample is dropped if it has gone far from the old policy and its update would take it
    further.

    Args:
        log_ratio: (B,).
        divergence: (B,) mean(shift^2) / (2 std^2) between new and old policy.
        max_divergence: from here on a sample is far.
    """
    if not max_divergence > 0:
        raise ValueError(f"max_divergence={max_divergence} must be above 0")
    gain = advantages.to(device=log_ratio.device, dtype=torch.float64)  # (B,)
    ratio = log_ratio.double().exp()  # (B,)
    with torch.no_grad():
        away = ((gain > 0) & (ratio > 1)) | ((gain < 0) & (ratio < 1))  # (B,): already on the side it is pushed to
        stopped = away & (divergence >= max_divergence)
    return Objective(torch.where(stopped, torch.zeros_like(ratio), -gain * ratio), log_ratio.detach(), stopped)


def policy_objective(
    name: PolicyObjective,
    *,
    sample_next: torch.Tensor,
    mean: torch.Tensor,
    old_mean: torch.Tensor,
    std: torch.Tensor | float,
    step_size: float,
    advantages: torch.Tensor,
    clip_range: float = 1e-3,
    max_divergence: float = 1e-5,
    weights: torch.Tensor | None = None,
    constants: bool = True,
) -> Objective:
    """One of the three by name, from the tensors of a recorded step.

    Args:
        sample_next, mean, old_mean: (B, ...) next latents as drawn, mean under the current and the sampling policy.
        std: standard deviation of the step.
        step_size: sigma - sigma_next.
        advantages: (B,).
        clip_range: of ``grpo`` and ``guard``; max_divergence: of ``dppo``.
        weights: cell weights of localised credit; weights of 1 give bit-identical results.
        constants: of the log-prob of ``grpo``, see :func:`~cac_align.flow_grpo.maths.kernels.log_prob`.
    """
    if name not in get_args(PolicyObjective):
        raise ValueError(f"objective {name!r} is unknown; choose one of {', '.join(get_args(PolicyObjective))}")
    tensors = (sample_next, mean, old_mean, std, weights)
    if name == "guard":
        return guard(guard_log_ratio(*tensors), advantages, step_size=step_size, clip_range=clip_range)
    if name == "grpo":
        return grpo(log_ratio(*tensors, constants=constants), advantages, clip_range=clip_range)
    change = log_ratio(*tensors)
    far = mean_divergence(mean.detach(), old_mean, std, weights)
    return dppo(change, far, advantages, max_divergence=max_divergence)


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
        std: standard deviation of the step, above 0.
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


def ratio_metrics(log_ratio: torch.Tensor, clip_range: float | None = None) -> dict[str, float]:
    """Monitors of the ratios of a step, from the log-ratios of all its samples and steps.

    Args:
        log_ratio: any shape.
        clip_range: None leaves the clip fractions out.

    Returns:
        ``approx_kl`` = mean(log_ratio^2) / 2; ``log_ratio_mean``, which is below 0 for the raw ratio;
        ``log_ratio_abs_max``; quantiles of ratio - 1, which in decimals would all read 1.000; ``clip_fraction`` and its
        two sides, whatever the sign of the advantage.
    """
    values = log_ratio.detach().double().flatten()
    if not len(values):
        raise ValueError("log_ratio is empty; there is nothing to measure")
    found = {
        "approx_kl": values.square().mean().item() / 2,
        "log_ratio_mean": values.mean().item(),
        "log_ratio_abs_max": values.abs().max().item(),
    }
    change = torch.expm1(values)  # ratio - 1, of which exp() - 1 would keep few digits
    for level in (0.05, 0.5, 0.95):
        found[f"ratio_minus_1_q{round(level * 100):02d}"] = torch.quantile(change, level).item()
    if clip_range is not None:
        found["clip_fraction_low"] = (change < -clip_range).double().mean().item()
        found["clip_fraction_high"] = (change > clip_range).double().mean().item()
        found["clip_fraction"] = found["clip_fraction_low"] + found["clip_fraction_high"]
    return found
