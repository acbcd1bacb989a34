"""From hidden states to the loss: log-probabilities of tokens, and equations 8 to 11 as pure functions of tensors.

Shapes: (P, G) is prompts by rollouts, (T,) is any flat list of generated tokens. Of a model only the head is seen.
Three things are easy to get wrong, so they are said once: one advantage serves all tokens of both turns; ``1 / |y|``
counts the tokens of both turns together; a rollout that ended after turn one weighs as much as any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear

from reward_model.engine.replaced_forward import replaced_forward

ScaleRewards = Literal["group", "batch", "none"]
SaliencyRepair = Literal["none", "scale_advantage", "mean_only"]
#: Positions projected to the vocabulary at once.
HEAD_CHUNK = 1024


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


# --- log-probabilities of tokens, without ever holding all logits -----------------------------------------------------
#
# The vocabulary is large (151,936 words: 1024 positions are 0.6 GB in fp32), so positions are projected in chunks, and
# the backward pass projects each chunk again. All chunks are one call of the head and one node of the graph: hooks that
# gather sharded weights for a call and release them after its gradient (FSDP2, ZeRO-3) then see a single call.


def token_scores(
    head: nn.Linear, states: torch.Tensor, tokens: torch.Tensor, *, temperature: float = 1.0, chunk: int = HEAD_CHUNK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (T,) of each token, and the entropy (T,) of its distribution (no gradient), both fp32 or wider.

    Args:
        head: hidden states to logits, without bias.
        states: (T, H).
        tokens: (T,) indices into the vocabulary.
        temperature: logits are divided by it.
        chunk: positions projected at once.
    """

    def scores(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _Scores.apply(hidden, head.weight, tokens, temperature, chunk)

    with replaced_forward(head, scores):
        return head(states)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, entropies = [], []
        for part, wanted in zip(states.split(chunk), tokens.split(chunk), strict=True):
            logits = linear(part, weight)
            ctx.dtype = logits.dtype  # autocast's, where it is on: the backward pass runs outside of it
            log_all = _log_softmax(logits, temperature)
            values.append(log_all.gather(1, wanted[:, None])[:, 0])
            entropies.append(-(log_all.exp() * log_all).sum(-1))
        ctx.save_for_backward(states, weight, tokens)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(values), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        """d log p(w) / d logits = onehot(w) - p, over the temperature."""
        states, weight, tokens = ctx.saved_tensors
        cast = weight.to(ctx.dtype)
        for_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if ctx.needs_input_grad[1] else None
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), ctx.chunk):
                here = slice(start, start + ctx.chunk)
                part, grad = states[here].to(ctx.dtype), grads[0][here, None] / ctx.temperature
                change = -_log_softmax(linear(part, cast), ctx.temperature).exp() * grad
                change.scatter_add_(1, tokens[here, None], grad.to(change.dtype))
                change = change.to(ctx.dtype)
                if for_states is not None:
                    for_states[here] = change @ cast
                if for_weight is not None:
                    for_weight += change.T @ part
        return for_states, None if for_weight is None else for_weight.to(weight.dtype), None, None, None


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits.to(_wide(logits.dtype)) / temperature, dim=-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
