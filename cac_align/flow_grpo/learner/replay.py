"""Recorded steps under the present weights: mean and velocity, the reference's beside them, and the loss of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.maths.kernels import guard_log_ratio, log_prob, log_ratio
from cac_align.flow_grpo.maths.objectives import mean_divergence, policy_objective, ratio_metrics, velocity_divergence
from cac_align.flow_grpo.sampler.conditioning import ImageCondition
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from cac_align.flow_grpo.sampler.trajectory import StepRecord


@dataclass(frozen=True)
class StepLoss:
    """Of R videos: ``loss`` (R,) with gradient; ``log_ratio``, ``kl`` (R,) and ``stopped`` (R,) bool without."""

    loss: torch.Tensor
    log_ratio: torch.Tensor
    kl: torch.Tensor
    stopped: torch.Tensor


class Replay:
    """Recomputes steps of rollouts.

    Args:
        policy: the wrapped :class:`~cac_align.flow_grpo.sampler.policy.GuidedVelocity`, for passes with gradient.
        bare: the same without wrapper, for passes without.
        scheduler: the one that drew the rollouts, whose schedule is set.
        config: objective, clip, KL.
    """

    def __init__(
        self, policy: Callable[..., torch.Tensor], bare: Any, scheduler: FlowSDEScheduler, config: FlowGRPOConfig
    ) -> None:
        self.policy, self.bare, self.scheduler, self.config = policy, bare, scheduler, config

    def step_loss(
        self,
        record: StepRecord,
        advantages: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
        *,
        image: ImageCondition | None = None,
        weight: float = 1.0,
        cells: torch.Tensor | None = None,
    ) -> StepLoss:
        """Objective and KL of a recorded step.

        Args:
            record: on the policy's device, with its mean.
            advantages: (R,).
            positive, negative: (R, L, D) text embeddings.
            image: of image-to-video.
            weight: of this step among the steps (not applied to the KL).
            cells: (R, 1, T, H, W) weights of localised credit.
        """
        config, device = self.config, record.latents.device
        assert record.mean is not None
        velocity = self.policy(record.latents, record.timestep, positive, negative, image)
        drawn = self.scheduler.transition_at(record.step, record.latents, velocity)
        found = policy_objective(
            config.objective,  # type: ignore[arg-type]
            sample_next=record.next_latents,
            mean=drawn.mean,
            old_mean=record.mean,
            std=drawn.std,
            step_size=record.step_size,
            advantages=advantages.to(device),
            clip_range=config.clip_range,
            max_divergence=config.max_divergence,
            weights=cells,
        )
        loss, kl = weight * found.loss, torch.zeros(len(advantages), device=device)
        if config.beta:
            divergence = self.divergence(record, velocity, drawn.mean, drawn.std, positive, negative, image)
            loss, kl = loss + config.beta * divergence, divergence.detach()
        return StepLoss(loss, found.log_ratio, kl, found.stopped)

    def divergence(
        self,
        record: StepRecord,
        velocity: torch.Tensor,
        mean: torch.Tensor,
        std: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
        image: ImageCondition | None = None,
    ) -> torch.Tensor:
        """KL of the step to the model without adapter, (R,); gradients pass through ``velocity`` and ``mean``."""
        other = self.reference_velocity(record.latents, record.timestep, positive, negative, image)
        if self.config.kl_space == "velocity":
            return velocity_divergence(velocity, other)
        return mean_divergence(mean, self.scheduler.transition_at(record.step, record.latents, other).mean, std)

    @torch.no_grad()
    def reference_velocity(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
        image: ImageCondition | None = None,
    ) -> torch.Tensor:
        """The velocity of the model without adapter."""
        with adapter_off(self.bare.transformer):
            return self.bare(latents, timestep, positive, negative, image)

    @torch.no_grad()
    def noise_floor(
        self,
        records: list[StepRecord],
        positive: torch.Tensor,
        negative: torch.Tensor | None,
        image: ImageCondition | None = None,
    ) -> dict[str, float]:
        """How far a replay at unchanged weights is from the rollout, in the unit of the objective's limit.

        Returns:
            ``floor``: the largest |log ratio| (|guard log ratio|, divergence for dppo); ``limit``: ``clip_range`` or
            ``max_divergence``; ``log_prob``: the largest difference of two log-probs, as other code computes ratios,
            which adds the cancellation of fp32.
        """
        config, device = self.config, positive.device
        floor = change = 0.0
        for record in (r.to(device) for r in records):
            assert record.mean is not None
            velocity = self.bare(record.latents, record.timestep, positive, negative, image)
            drawn = self.scheduler.transition_at(record.step, record.latents, velocity)
            tensors = (record.next_latents, drawn.mean, record.mean, drawn.std)
            if config.objective == "dppo":
                found = mean_divergence(drawn.mean, record.mean, drawn.std)
            else:
                found = guard_log_ratio(*tensors) if config.objective == "guard" else log_ratio(*tensors)
            floor = max(floor, float(found.abs().max()))
            again = log_prob(record.next_latents, drawn.mean, drawn.std) - record.log_prob
            change = max(change, float(again.abs().max()))
        limit = config.max_divergence if config.objective == "dppo" else config.clip_range
        return {"floor": floor, "limit": limit, "log_prob": change}


def columns_of(passes: Sequence[StepLoss]) -> list[list[float]]:
    """Log-ratios, KLs and stops of some passes, as plain numbers that processes can exchange."""
    names = ("log_ratio", "kl", "stopped")
    return [[float(v) for p in passes for v in getattr(p, name).double().flatten()] for name in names]


def policy_numbers(columns: Sequence[Sequence[float]], config: FlowGRPOConfig) -> dict[str, float]:
    """The monitors of :func:`columns_of`, those of all processes joined."""
    ratios, kl, stopped = (torch.tensor(column, dtype=torch.float64) for column in columns)
    numbers = {"policy/kl": float(kl.mean()), "policy/stopped": float(stopped.mean())}
    if config.objective == "nft":
        return numbers
    clip = None if config.objective == "dppo" else config.clip_range
    return numbers | {f"ratio/{name}": value for name, value in ratio_metrics(ratios, clip).items()}
