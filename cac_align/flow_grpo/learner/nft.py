"""DiffusionNFT (arXiv 2509.16117): reinforcement on the forward process, without trajectory or likelihood.

A finished video is noised to any sigma, and the velocity is pulled towards it by its optimality r and pushed away by
1 - r, both through mixtures of the trained and the old policy. The old policy draws the videos and follows the trained
one slowly. First the equations, then :class:`NFT`, the objective of the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cac_align.flow_grpo.learner.lora import weights_of
from cac_align.flow_grpo.learner.replay import Replay, StepLoss, anchor_weight
from cac_align.flow_grpo.maths.kernels import batch_mean
from cac_align.flow_grpo.maths.objectives import velocity_divergence
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.maths.schedule import read_schedule
from cac_align.flow_grpo.sampler.policy import Condition
from cac_align.flow_grpo.sampler.rollout import VideoRollout


def noised(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
    """x = (1 - sigma) clean + sigma noise; sigma a float or (B,)."""
    sigma = _column(sigma, clean)
    return (1 - sigma) * clean + sigma * noise


def optimality(advantages: torch.Tensor, clip: float = 5.0) -> torch.Tensor:
    """r = A / (2 clip) + 1/2, kept in [0, 1]: 1/2 for a sample as good as its group."""
    if not clip > 0:
        raise ValueError(f"clip={clip} must be above 0; pass the bound of the advantages")
    return (advantages / (2 * clip) + 0.5).clamp(0, 1)


def nft_loss(
    velocity: torch.Tensor,
    old_velocity: torch.Tensor,
    sample: torch.Tensor,
    clean: torch.Tensor,
    sigma: torch.Tensor | float,
    optimal: torch.Tensor,
    *,
    beta: float = 1.0,
    scale: float = 5.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """[r |x0+ - x0|^2 / w+ + (1 - r) |x0- - x0|^2 / w-] * scale / beta of each sample, (B,).

    x0+ and x0- are the clean predictions of v+ = beta v + (1 - beta) v_old and v- = (1 + beta) v_old - beta v; w is the
    mean absolute error of the prediction, detached and at least 1e-5. With r = 1/2 and v = v_old the gradient is 0.

    Args:
        velocity: (B, ...) of the policy in training; carries the gradient.
        old_velocity: (B, ...) of the policy that drew ``clean``, or its slow copy.
        sample: (B, ...) of :func:`noised`.
        clean: (B, ...) final latents of the rollout.
        sigma: float or (B,).
        optimal: (B,) of :func:`optimality`.
        beta: share of the new policy in the mixtures, above 0.
        scale: bound of the advantages, 5 in the public code.
        weights: cell weights of localised credit.
    """
    if not beta > 0:
        raise ValueError(f"beta={beta} must be above 0: it is the share of the trained policy in the mixtures")
    if bool(((optimal < 0) | (optimal > 1)).any()):
        raise ValueError("optimal must lie in [0, 1]; pass optimality(advantages), not advantages")
    wide = velocity if velocity.dtype == torch.float64 else velocity.float()
    old = old_velocity.detach().to(wide)
    x, target, r = sample.to(wide), clean.to(wide), optimal.to(wide)
    mixed = (beta * wide + (1 - beta) * old, (1 + beta) * old - beta * wide)
    towards, away = (_prediction_loss(v, x, target, _column(sigma, x), weights) for v in mixed)
    return (r * towards + (1 - r) * away) * scale / beta


def old_policy_decay(step: int, kind: int = 1) -> float:
    """Share of the old policy that stays at an update: old <- decay * old + (1 - decay) * new.

    Args:
        step: gradient updates done, as DiffusionNFT counts; with two updates a round it moves twice as fast as the
            rounds.
        kind: 0: none; 1: min(step / 1000, 0.5); 2: none until step 75, then up to 0.999.
    """
    if kind == 0:
        return 0.0
    if kind == 1:
        return min(0.001 * step, 0.5)
    if kind == 2:
        return 0.0 if step < 75 else min(0.0075 * (step - 75), 0.999)
    raise ValueError(f"decay kind {kind} must be 0, 1 or 2")


def _prediction_loss(
    velocity: torch.Tensor,
    sample: torch.Tensor,
    clean: torch.Tensor,
    sigma: torch.Tensor | float,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    error = sample - sigma * velocity - clean
    size = batch_mean(error.detach().abs()).clamp(min=1e-5)
    return batch_mean(error.square(), weights) / size


def _column(sigma: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor | float:
    if not isinstance(sigma, torch.Tensor):
        return sigma
    return sigma.to(like).reshape(-1, *[1] * (like.ndim - 1))


def forward_sigmas(seeds: Sequence[int], number: int, levels: Sequence[float] | None = None) -> torch.Tensor:
    """The noise level of the number-th training pass of each video, (R,) float32 in (0, 1]: a function of its seed.

    Args:
        seeds: seeds of the videos.
        number: number of the pass, from 0.
        levels: levels of the sampling schedule, as DiffusionNFT trains them: each video goes through them in an order
            of its own and meets none twice before it has met all. None: uniform in (0, 1).
    """
    if levels is None:
        values = [derive_seed(seed, "nft sigma", number) % 2**24 for seed in seeds]
        return (torch.tensor(values, dtype=torch.float32) + 0.5) / 2**24
    chosen = []
    for seed in seeds:
        round_, place = divmod(number, len(levels))
        order = torch.randperm(
            len(levels), generator=torch.Generator().manual_seed(derive_seed(seed, "nft levels", round_))
        )
        chosen.append(levels[int(order[place])])
    return torch.tensor(chosen, dtype=torch.float32)


def forward_noise(seeds: Sequence[int], number: int, like: torch.Tensor) -> torch.Tensor:
    """The noise of that pass, (R, ...) as ``like``."""
    drawn = [
        torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(derive_seed(seed, "nft noise", number)))
        for seed in seeds
    ]
    return torch.stack(drawn).to(like)


class NFT:
    """The objective ``nft``: a :class:`~cac_align.flow_grpo.learner.replay.StepObjective`.

    Guidance takes no part: the policy is the conditional model.

    Args:
        replay: policy and settings.
        parameters: the adapter's; ``old`` starts as a copy of them.
    """

    def __init__(self, replay: Replay, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.replay, self.parameters = replay, list(parameters)
        self.old: list[torch.Tensor] | None = [p.detach().clone() for p in self.parameters]

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
        """The loss at the k-th noise level of each video."""
        assert rollout.clean is not None and self.old is not None
        replay, config = self.replay, self.replay.config
        seeds = [rollout.specs[row].seed for row in rows]
        clean = rollout.clean[list(rows)].to(condition.positive.device)  # (R, C, T, H, W)
        sigma = self._sigmas(rollout, rows, k).to(clean.device)  # (R,)
        x = noised(clean, forward_noise(seeds, k, clean), sigma)
        timestep = sigma * replay.scheduler.config.num_train_timesteps
        unguided = condition.unguided()
        with torch.no_grad(), weights_of(self.parameters, self.old):
            before = replay.bare(x, timestep, unguided)
        velocity = replay.policy(x, timestep, unguided)
        clip = config.advantage_clip or 5.0
        wanted = optimality(advantages.to(clean.device), clip)
        given = 0
        if rollout.image is not None and rollout.image.first_frame and cells is not None:
            # A given first frame is not predicted: its error must not count in the loss's scale either.
            given, cells = 1, cells[:, :, 1:] * (1 - 1 / cells.shape[2])  # of mean 1 again
        v, old, noisy, target = (tensor[:, :, given:] for tensor in (velocity, before, x, clean))
        loss = nft_loss(v, old, noisy, target, sigma, wanted, beta=config.nft_beta, scale=clip, weights=cells)
        kl = nothing = torch.zeros(len(clean), device=clean.device)
        if config.beta:
            divergence = velocity_divergence(velocity, replay.reference_velocity(x, timestep, unguided))
            loss, kl = loss + anchor_weight(config.beta, anchors, clean.device) * divergence, divergence.detach()
        return StepLoss(loss, nothing, kl, nothing.bool())

    def _sigmas(self, rollout: VideoRollout, rows: Sequence[int], k: int) -> torch.Tensor:
        scheduled = self.replay.config.nft_sigmas == "schedule"
        levels = read_schedule(self.replay.scheduler).sigmas[:-1] if scheduled else None
        return forward_sigmas([rollout.specs[row].seed for row in rows], k, levels)

    def timesteps(self, rollout: VideoRollout, rows: Sequence[int], k: int) -> torch.Tensor:
        """Those of the k-th noise level of each video, (R,)."""
        return self._sigmas(rollout, rows, k) * self.replay.scheduler.config.num_train_timesteps

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """The sampling policy moves towards the trained one, by the number of updates done."""
        keep = old_policy_decay(updates, self.replay.config.nft_decay)
        for old, new in zip(self.old or [], self.parameters, strict=True):
            old.mul_(keep).add_(new.detach(), alpha=1 - keep)
