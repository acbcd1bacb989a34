"""The loss of a training pass: recorded steps under the trained weights, beside the reference's, and their monitors.

:class:`StepObjective` is what the learner asks of an objective: :class:`Replay` answers for ``grpo``, ``guard`` and
``dppo``, :class:`~cac_align.flow_grpo.learner.nft.NFT` for ``nft``, :class:`~cac_align.flow_grpo.learner.rvm.RVM` for
``rvm``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.maths.kernels import guard_log_ratio, log_prob, log_ratio
from cac_align.flow_grpo.maths.objectives import (
    mean_divergence,
    policy_objective,
    ratio_metrics,
    velocity_divergence,
)
from cac_align.flow_grpo.sampler.policy import Condition
from cac_align.flow_grpo.sampler.rollout import VideoRollout
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from cac_align.flow_grpo.sampler.trajectory import StepRecord

if TYPE_CHECKING:
    from cac_align.flow_grpo.sampler.experts import ExpertVelocity
    from cac_align.flow_grpo.sampler.policy import GuidedVelocity

log = logging.getLogger(__name__)

#: From this share of the clip on, replay noise is worth a warning.
NOISE_SHARE = 0.1


@dataclass(frozen=True)
class StepLoss:
    """Of R videos: ``loss`` (R,) with gradient; ``log_ratio``, ``kl`` (R,) and ``stopped`` (R,) bool without.

    ``expert`` is the part of the pipeline that the pass trained, empty where there is but one.
    """

    loss: torch.Tensor
    log_ratio: torch.Tensor
    kl: torch.Tensor
    stopped: torch.Tensor
    expert: str = ""


class StepObjective(Protocol):
    """The loss of a training pass, and the policy that draws the videos.

    ``old`` are the adapter's values that videos are drawn with; None: the trained ones.
    """

    old: list[torch.Tensor] | None

    def step_loss(
        self,
        rollout: VideoRollout,
        rows: Sequence[int],
        k: int,
        advantages: torch.Tensor,
        condition: Condition,
        *,
        cells: torch.Tensor | None = None,
        anchors: torch.Tensor | None = None,
    ) -> StepLoss:
        """The loss of pass k over some videos of a rollout.

        Args:
            rollout: on the CPU.
            rows: R of its videos.
            k: from 0.
            advantages: (R,).
            condition: condition of these videos, on the policy's device.
            cells: (R, 1, T, H, W) weights of localised credit.
            anchors: (R,) factors of beta; None: 1 for each.

        Raises:
            ValueError: if the rows belong to both experts of a pipeline that has two.
        """
        ...

    def timesteps(self, rollout: VideoRollout, rows: Sequence[int], k: int) -> torch.Tensor:
        """Conditions of the transformer in pass k, (R,), which decide on its expert."""
        ...

    def follow(self, updates: int) -> None:
        """After a step: ``old`` moves towards the trained weights, by the number of updates done."""
        ...


class Replay:
    """Recomputes steps of rollouts; the objectives ``grpo``, ``guard`` and ``dppo``.

    Args:
        policy: the wrapped :class:`~cac_align.flow_grpo.sampler.policy.GuidedVelocity`, for passes with gradient.
        bare: the same without wrapper, for passes without.
        scheduler: the one that drew the rollouts, whose schedule is set.
        config: objective, clip, KL.
        step_weights: weight of each step of the schedule (not applied to the KL).
    """

    def __init__(
        self,
        policy: Callable[..., torch.Tensor],
        bare: GuidedVelocity | ExpertVelocity,
        scheduler: FlowSDEScheduler,
        config: FlowGRPOConfig,
        step_weights: Sequence[float],
    ) -> None:
        self.policy, self.bare, self.scheduler, self.config = policy, bare, scheduler, config
        self.step_weights = step_weights
        self.old: list[torch.Tensor] | None = None

    def step_loss(
        self,
        rollout: VideoRollout,
        rows: Sequence[int],
        k: int,
        advantages: torch.Tensor,
        condition: Condition,
        *,
        cells: torch.Tensor | None = None,
        anchors: torch.Tensor | None = None,
    ) -> StepLoss:
        """Objective and KL of the k-th recorded step."""
        config, device = self.config, condition.positive.device
        record = rollout.records[k]
        record = (record.select(rows) if len(rows) < len(record.rows) else record).to(device)
        assert record.mean is not None
        velocity = self.policy(record.latents, record.timestep, condition)  # (R, C, T, H, W)
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
            constants=config.log_prob_constants,
        )
        loss, kl = self.step_weights[record.step] * found.loss, torch.zeros(len(advantages), device=device)
        if config.beta:
            divergence = self._divergence(record, velocity, drawn.mean, drawn.std, condition)
            loss, kl = loss + anchor_weight(config.beta, anchors, device) * divergence, divergence.detach()
        return StepLoss(loss, found.log_ratio, kl, found.stopped)

    def timesteps(self, rollout: VideoRollout, rows: Sequence[int], k: int) -> torch.Tensor:
        """That of the k-th recorded step, (R,)."""
        return rollout.records[k].timestep.expand(len(rows))

    def follow(self, updates: int) -> None:
        """Videos are drawn with the trained weights: there is nothing to move."""

    def _divergence(
        self, record: StepRecord, velocity: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, condition: Condition
    ) -> torch.Tensor:
        """KL of the step to the model without adapter, (R,); gradients pass through ``velocity`` and ``mean``."""
        other = self.reference_velocity(record.latents, record.timestep, condition)
        if self.config.kl_space == "velocity":
            return velocity_divergence(velocity, other)
        return mean_divergence(mean, self.scheduler.transition_at(record.step, record.latents, other).mean, std)

    @torch.no_grad()
    def reference_velocity(self, latents: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        """The velocity of the model without adapter."""
        with adapter_off(*self.bare.transformers.values()):
            return self.bare(latents, timestep, condition)

    @torch.no_grad()
    def noise_floor(self, records: list[StepRecord], condition: Condition) -> dict[str, float]:
        """Distance of a replay at unchanged weights from the rollout, in the unit of the objective's limit.

        Returns:
            ``floor``: the largest |log ratio| (|guard log ratio|, divergence for dppo); ``limit``: ``clip_range`` or
            ``max_divergence``; ``log_prob``: the largest difference of two log-probs, as other code computes ratios,
            which adds the cancellation of fp32.
        """
        config, device = self.config, condition.positive.device
        constants = config.log_prob_constants
        floor = change = 0.0
        for record in (r.to(device) for r in records):
            assert record.mean is not None
            velocity = self.bare(record.latents, record.timestep, condition)
            drawn = self.scheduler.transition_at(record.step, record.latents, velocity)
            tensors = (record.next_latents, drawn.mean, record.mean, drawn.std)
            if config.objective == "dppo":
                found = mean_divergence(drawn.mean, record.mean, drawn.std)
            elif config.objective == "guard":
                found = guard_log_ratio(*tensors)
            else:
                found = log_ratio(*tensors, constants=constants)
            floor = max(floor, float(found.abs().max()))
            again = log_prob(record.next_latents, drawn.mean, drawn.std, constants=constants) - record.log_prob
            change = max(change, float(again.abs().max()))
        limit = config.max_divergence if config.objective == "dppo" else config.clip_range
        return {"floor": floor, "limit": limit, "log_prob": change}


def anchor_weight(beta: float, anchors: torch.Tensor | None, device: torch.device) -> torch.Tensor | float:
    """The weight of each video's anchor: beta, times its factor where there are some."""
    return beta if anchors is None else beta * anchors.to(device)


def judge_noise(floor: Mapping[str, float], policy: str) -> str:
    """A measured floor (:meth:`Replay.noise_floor`) in words, for the plan.

    Args:
        floor: ``floor``, ``limit``, ``log_prob``.
        policy: ``warn`` or ``refuse``.

    Raises:
        ValueError: with ``refuse``, the floor is above a tenth of the limit.
    """
    share = floor["floor"] / floor["limit"]
    if share > NOISE_SHARE:
        said = (
            f"replaying at unchanged weights moves the ratio by {floor['floor']:.3g}, {share:.0%} of its limit "
            f"{floor['limit']:g}: gradients are partly noise. Sample and train in equal batches (train_batch_size "
            "null), raise the limit, or use fp32"
        )
        if policy == "refuse":
            raise ValueError(f"{said}; noise_floor='warn' continues anyway")
        log.warning(said)
    log.debug("replay noise: %s", dict(floor))
    if not floor["floor"]:
        return "  noise floor none: replaying the recorded steps gives them back exactly"
    return f"  noise floor {share:.1%} of the clip: replaying at unchanged weights moves ratios by {floor['floor']:.2g}"


def columns_of(passes: Sequence[StepLoss]) -> list[list[float]]:
    """Log-ratios, KLs and stops of some passes, as plain numbers that processes can exchange."""
    names = ("log_ratio", "kl", "stopped")
    return [[float(v) for p in passes for v in getattr(p, name).double().flatten()] for name in names]


def policy_numbers(columns: Sequence[Sequence[float]], config: FlowGRPOConfig) -> dict[str, float]:
    """The monitors of :func:`columns_of`, those of all processes joined."""
    ratios, kl, stopped = (torch.tensor(column, dtype=torch.float64) for column in columns)
    numbers = {"policy/kl": float(kl.mean()), "policy/stopped": float(stopped.mean())}
    if config.on_finished_videos:
        return numbers
    clip = None if config.objective == "dppo" else config.clip_range
    return numbers | {f"ratio/{name}": value for name, value in ratio_metrics(ratios, clip).items()}
