"""DiffusionNFT in the trainer: finished videos noised again, under the trained and the sampling policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cac_align.flow_grpo.learner.lora import weights_of
from cac_align.flow_grpo.learner.replay import Replay, StepLoss
from cac_align.flow_grpo.maths.nft import nft_loss, noised, optimality
from cac_align.flow_grpo.maths.objectives import velocity_divergence
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.maths.schedule import read_schedule
from cac_align.flow_grpo.sampler.conditioning import ImageCondition


def forward_sigmas(seeds: Sequence[int], number: int, levels: Sequence[float] | None = None) -> torch.Tensor:
    """The noise level of the number-th training pass of each video, (R,) float32 in (0, 1]: a function of its seed.

    Args:
        seeds: of the videos.
        number: of the pass, from 0.
        levels: of the sampling schedule, as DiffusionNFT trains them: each video goes through them in an order of its
            own and meets none twice before it has met all. None: uniform in (0, 1).
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


def nft_step_loss(
    replay: Replay,
    clean: torch.Tensor,
    seeds: Sequence[int],
    number: int,
    advantages: torch.Tensor,
    positive: torch.Tensor,
    *,
    parameters: Sequence[torch.nn.Parameter],
    old: Sequence[torch.Tensor],
    image: ImageCondition | None = None,
    cells: torch.Tensor | None = None,
) -> StepLoss:
    """The NFT loss of R videos at one noise level each. Guidance takes no part: the policy is the conditional model.

    Args:
        replay: policy and settings.
        clean: (R, ...) final latents of the rollouts.
        seeds: of the videos.
        number: of the pass, from 0.
        advantages: (R,).
        positive: (R, L, D).
        parameters: the adapter's.
        old: the sampling policy's values of them.
        image: of image-to-video.
        cells: weights of localised credit.
    """
    config = replay.config
    levels = read_schedule(replay.scheduler).sigmas[:-1] if config.nft_sigmas == "schedule" else None
    sigma = forward_sigmas(seeds, number, levels).to(clean.device)
    x = noised(clean, forward_noise(seeds, number, clean), sigma)
    timestep = sigma * replay.scheduler.config.num_train_timesteps
    with torch.no_grad(), weights_of(parameters, old):
        before = replay.bare(x, timestep, positive, None, image)
    velocity = replay.policy(x, timestep, positive, None, image)
    clip = config.advantage_clip or 5.0
    loss = nft_loss(
        velocity,
        before,
        x,
        clean,
        sigma,
        optimality(advantages.to(clean.device), clip),
        beta=config.nft_beta,
        scale=clip,
        weights=cells,
    )
    kl = torch.zeros(len(clean), device=clean.device)
    if config.beta:
        other = replay.reference_velocity(x, timestep, positive, None, image)
        divergence = velocity_divergence(velocity, other)
        loss, kl = loss + config.beta * divergence, divergence.detach()
    nothing = torch.zeros(len(clean), device=clean.device)
    return StepLoss(loss, nothing, kl, nothing.bool())
