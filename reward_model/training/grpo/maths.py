"""Equations 8 to 11 as pure functions of tensors: advantages, clipped surrogate, KL estimate, weights of the loss.

Shapes: (P, G) is prompts by rollouts, (T,) is any flat list of generated tokens. Nothing here knows a model. Three
things are easy to get wrong, so they are said once: one advantage serves all tokens of both turns; ``1 / |y|`` counts
the tokens of both turns together; a rollout that ended after turn one weighs as much as any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

ScaleRewards = Literal["group", "batch", "none"]
SaliencyRepair = Literal["none", "scale_advantage", "mean_only"]


def group_advantages(
    rewards: torch.Tensor,
    *,
    scale_rewards: ScaleRewards = "group",
    saliency: torch.Tensor | None = None,
    saliency_repair: SaliencyRepair = "none",
    eps: float = 1e-4,
) -> torch.Tensor:
    """Equation 8: each reward against its own group.

    Args:
        rewards: (P, G); NaN marks a rollout that could not be scored. It takes no part in mean and std and has
            advantage 0; a group with fewer than two scored rollouts has advantage 0 throughout.
        scale_rewards: divide by the sample std (ddof 1) of the group, of all scored rewards, or by nothing.
        saliency: (P,) mean saliency of each sample, needed by ``scale_advantage``.
        saliency_repair: the z-score cancels the discount of Equation 6 (docs/method.md). ``scale_advantage`` multiplies
            it in again, ``mean_only`` leaves out the division; ``none`` is the paper.
        eps: added to the std.

    Returns:
        (P, G), of the dtype of ``rewards``.
    """
    if rewards.ndim != 2:
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}; expected (prompts, rollouts)")
    known = scored_rollouts(rewards)
    values = torch.where(known, rewards, torch.zeros_like(rewards))
    count = known.sum(1, keepdim=True).clamp(min=1)
    mean = values.sum(1, keepdim=True) / count
    deviation = torch.where(known, rewards - mean, torch.zeros_like(rewards))
    # Rewards that are all equal have a deviation of exactly 0, not the rounding error of their mean.
    equal = (torch.where(known, rewards, -torch.inf).amax(1) == torch.where(known, rewards, torch.inf).amin(1))[:, None]
    deviation = torch.where(equal, torch.zeros_like(deviation), deviation)
    advantages = deviation
    if scale_rewards not in ("group", "batch", "none"):
        raise ValueError(f"scale_rewards={scale_rewards!r} must be 'group', 'batch' or 'none'")
    if scale_rewards != "none" and saliency_repair != "mean_only":
        if scale_rewards == "group":
            std = (deviation.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        else:
            pool = rewards[known]
            std = pool.std() if len(pool) > 1 else pool.new_zeros(())
        advantages = deviation / (std + eps)
    if saliency_repair == "scale_advantage":
        if saliency is None:
            raise ValueError("saliency_repair='scale_advantage' needs the saliency of each prompt")
        advantages = advantages * saliency.to(advantages)[:, None]
    elif saliency_repair not in ("none", "mean_only"):
        raise ValueError(f"saliency_repair={saliency_repair!r} must be 'none', 'scale_advantage' or 'mean_only'")
    return advantages


def scored_rollouts(rewards: torch.Tensor) -> torch.Tensor:
    """(P, G) bool: the rollouts that count, which are the finite ones of groups that have at least two of them."""
    finite = rewards.isfinite()
    return finite & (finite.sum(1, keepdim=True) >= 2)


def zero_variance(rewards: torch.Tensor) -> torch.Tensor:
    """(P,) bool: groups whose scored rewards are all equal, which teach nothing but the KL term."""
    low = torch.where(rewards.isfinite(), rewards, torch.inf).amin(1)
    high = torch.where(rewards.isfinite(), rewards, -torch.inf).amax(1)
    return low >= high


def rollout_weights(num_tokens: torch.Tensor, scored: torch.Tensor, total: int | None = None) -> torch.Tensor:
    """``1 / (N |y|)`` of each rollout, 0 for one that was not scored.

    Args:
        num_tokens: (R,) generated tokens of both turns together.
        scored: (R,) bool.
        total: N, scored rollouts of the whole optimiser batch over all processes; by default those given here.

    Returns:
        (R,) float64.
    """
    count = int(scored.sum()) if total is None else total
    return scored / (num_tokens.double().clamp(min=1) * max(count, 1))


def clipped_surrogate(
    log_ratio: torch.Tensor, advantages: torch.Tensor, epsilon: float, epsilon_high: float | None = None
) -> torch.Tensor:
    """Equation 9 before its means: ``min(r A, clip(r, 1 - eps, 1 + eps) A)`` of each token, (T,)."""
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high))
    return torch.minimum(ratio * advantages, bounded * advantages)


def k3_divergence(log_rho: torch.Tensor) -> torch.Tensor:
    """Equation 11 before its means: ``rho - log rho - 1`` with ``rho = pi_ref / pi_theta``; never negative, (T,)."""
    return torch.expm1(log_rho) - log_rho


@dataclass(frozen=True)
class TokenTerms:
    """Terms of the loss for the tokens of one forward pass; all (T,). ``objective`` carries the gradient."""

    objective: torch.Tensor
    kl: torch.Tensor
    clipped_low: torch.Tensor
    clipped_high: torch.Tensor


def token_terms(
    log_probs: torch.Tensor,
    old: torch.Tensor,
    reference: torch.Tensor | None,
    advantages: torch.Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.04,
    correct_kl: bool = False,
) -> TokenTerms:
    """Equations 9 to 11 per token: clipped surrogate minus ``beta`` times the KL estimate.

    Args:
        log_probs, old, reference: (T,) log-probabilities of the sampled tokens under the current, the sampling and the
            reference policy, each on the token's own context. ``reference`` None leaves out the KL term.
        advantages: (T,) advantage of each token's rollout.
        epsilon, epsilon_high: clip range 1 - epsilon to 1 + epsilon_high (None: the same).
        correct_kl: multiply the KL estimate by the ratio, which makes it unbiased for tokens drawn from ``old`` when
            the policy has moved since (several inner updates).
    """
    log_ratio = log_probs - old
    objective = clipped_surrogate(log_ratio, advantages, epsilon, epsilon_high)
    kl = torch.zeros_like(log_probs)
    if reference is not None and beta != 0:
        kl = k3_divergence(reference - log_probs)
        if correct_kl:
            kl = kl * log_ratio.exp()
        objective = objective - beta * kl
    with torch.no_grad():
        ratio = log_ratio.exp()
        low = (ratio < 1 - epsilon) & (advantages < 0)
        high = (ratio > 1 + (epsilon if epsilon_high is None else epsilon_high)) & (advantages > 0)
    return TokenTerms(objective, kl.detach(), low, high)


def sampling_correction(old: torch.Tensor, drawn: torch.Tensor, clip_max: float) -> torch.Tensor:
    """``min(pi / mu, clip_max)`` of each token, (T,): how much the advantage of a token counts that another engine drew
    (truncated importance sampling: Yao et al. 2025, On the Rollout-Training Mismatch in Modern RL Systems). The ratio
    of Equation 10 stays that of two policies.

    Args:
        old, drawn: (T,) log-probabilities of the sampled tokens under the policy that is updated from and as they were
            drawn; equal ones give exactly 1.
        clip_max: largest weight of a token.
    """
    return (old - drawn).exp().clamp(max=clip_max)


def grpo_loss(objective: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """``- sum_t w_t objective_t``: exact for any split of the tokens into micro-batches, which only adds up."""
    return -(objective * weights).sum()
