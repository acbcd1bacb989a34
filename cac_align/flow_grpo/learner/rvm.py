"""Reward-based velocity matching (arXiv 2608.23664): the velocity of a finished video, noised to any level, is drawn
towards the one that leads to it if the video is better than its group, and pushed away if it is worse.

Neither a trajectory nor a second copy of the policy is needed, and the loss is a sum over latent cells: weights of
localised credit are exact in it. First the equations, then :class:`RVM`, the objective of the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.learner.nft import forward_noise, forward_sigmas, noised
from cac_align.flow_grpo.learner.replay import Replay, StepLoss, anchor_weight
from cac_align.flow_grpo.maths.kernels import batch_mean
from cac_align.flow_grpo.maths.objectives import velocity_divergence
from cac_align.flow_grpo.maths.schedule import shift_of
from cac_align.flow_grpo.sampler.policy import Condition
from cac_align.flow_grpo.sampler.rollout import VideoRollout

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def shifted(t: torch.Tensor, shift: float) -> torch.Tensor:
    """sigma(t) = shift t / (1 + (shift - 1) t): the noise level at time t in [0, 1] of a model with that shift.

    Example:
        >>> shifted(torch.tensor([0.0, 0.25, 1.0]), 3.0).tolist()
        [0.0, 0.5, 1.0]
    """
    if not shift > 0:
        raise ValueError(f"shift={shift} must be above 0; 1 leaves times as they are")
    return shift * t / (1 + (shift - 1) * t)


def rvm_loss(
    velocity: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    advantages: torch.Tensor,
    *,
    reference: torch.Tensor | None = None,
    beta: torch.Tensor | float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """A scalar for each sample, (B,), never below 0, whose gradient with respect to the velocity v is, over n elements,

        [A (v - u) + beta (v - v_ref)] / n,    u = noise - clean.

    Its value is that of half the squared gradient and says nothing about progress.

    Args:
        velocity: (B, ...) of the policy at (1 - sigma) clean + sigma noise; carries the gradient.
        clean: (B, ...) final latents of the rollout.
        noise: (B, ...) what they were noised with.
        advantages: (B,) A, above 0 where the video is worth imitating.
        reference: (B, ...) v_ref, the velocity of the model without adapter; None: no anchor.
        beta: weight of the anchor, one for all or (B,).
        weights: cell weights of localised credit; they weigh the first term alone, since the anchor belongs everywhere.
    """
    wide = velocity if velocity.dtype == torch.float64 else velocity.float()
    v = wide.detach()
    pull = _column(advantages, v) * (v - (noise.to(v) - clean.to(v)))  # (B, C, T, H, W)
    # v - v.detach() is exactly 0 and has the gradient of v. Subtracting a shifted target from v, as one would write it
    # down, loses the digits that a small advantage leaves.
    move = wide - v
    loss = batch_mean((move + pull).square(), weights) / 2
    if reference is not None:
        size = torch.as_tensor(beta, dtype=v.dtype, device=v.device)
        loss = loss + size * velocity_divergence(wide, reference) / 2
    return loss


def static_shift(scheduler: SchedulerMixin) -> float:
    """The shift of a flow-matching scheduler, or of the one that a stochastic scheduler stands in front of; 1 for none.

    Raises:
        ValueError: if its shift depends on the size of the video.
    """
    base = getattr(scheduler, "base", scheduler)
    if getattr(base.config, "use_dynamic_shifting", False):
        raise ValueError(
            "the scheduler shifts by the size of the video (use_dynamic_shifting), and objective 'rvm' draws its noise "
            "levels by one shift: save the pipeline with a scheduler that has a static one"
        )
    shift = shift_of(base)
    return 1.0 if shift is None else shift


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


class RVM:
    """The objective ``rvm``: a :class:`~cac_align.flow_grpo.learner.replay.StepObjective`.

    Videos are drawn with the trained weights themselves. Guidance takes no part in training: the policy is the
    conditional model.

    Args:
        replay: policy and settings.
        updates: gives the optimiser updates done so far.
    """

    def __init__(self, replay: Replay, updates: Callable[[], int]) -> None:
        self.replay, self.updates = replay, updates
        self.shift = static_shift(replay.scheduler)
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
        """The loss at the k-th noise level of each video; levels are uniform in time, shifted as the model's are."""
        assert rollout.clean is not None
        replay, config = self.replay, self.replay.config
        seeds = [rollout.specs[row].seed for row in rows]
        clean = rollout.clean[list(rows)].to(condition.positive.device)  # (R, C, T, H, W)
        sigma = self._sigmas(rollout, rows, k).to(clean.device)  # (R,)
        noise = forward_noise(seeds, k, clean)
        x, timestep = noised(clean, noise, sigma), sigma * replay.scheduler.config.num_train_timesteps
        unguided = condition.unguided()
        velocity = replay.policy(x, timestep, unguided)
        gain = config.rvm_scale * advantages.to(clean.device)
        if self.updates() < config.rvm_positive_updates:
            gain = gain.clamp(min=0)
        reference = replay.reference_velocity(x, timestep, unguided) if config.beta else None
        beta = anchor_weight(config.beta, anchors, clean.device)
        loss = rvm_loss(velocity, clean, noise, gain, reference=reference, beta=beta, weights=cells)
        nothing = torch.zeros(len(clean), device=clean.device)
        kl = nothing if reference is None else velocity_divergence(velocity, reference).detach()
        return StepLoss(loss, nothing, kl, nothing.bool())

    def _sigmas(self, rollout: VideoRollout, rows: Sequence[int], k: int) -> torch.Tensor:
        return shifted(forward_sigmas([rollout.specs[row].seed for row in rows], k), self.shift)

    def timesteps(self, rollout: VideoRollout, rows: Sequence[int], k: int) -> torch.Tensor:
        """Those of the k-th noise level of each video, (R,)."""
        return self._sigmas(rollout, rows, k) * self.replay.scheduler.config.num_train_timesteps

    def follow(self, updates: int) -> None:
        """Videos are drawn with the trained weights: there is nothing to move."""
