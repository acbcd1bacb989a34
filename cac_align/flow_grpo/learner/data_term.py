"""The data term: an ordinary flow-matching loss on videos that are as they should be, beside that of the objective.

A reward that can be cheated pulls the generator away from videos as people make them; a term that goes on training it
on such videos pulls back (DDRL, arXiv 2512.04332, which anchors the policy to data instead of to a reference model and
adds the diffusion loss to the reward's). How many videos an update takes and what the term weighs are this project's.
First the pure functions, then :class:`DataTerm`. Alone, on the winners of pairs, its loss is supervised fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.learner.nft import forward_noise, forward_sigmas, noised
from cac_align.flow_grpo.learner.rvm import shifted, static_shift
from cac_align.flow_grpo.maths.objectives import velocity_divergence
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.sampler.clips import ClipLatents
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


def flow_matching_loss(velocity: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Mean of ``(v - (noise - clean))^2`` over each sample, (B,): the loss that flow-matching models are made with.

    Args:
        velocity: (B, ...) of the model at (1 - sigma) clean + sigma noise; carries the gradient.
        clean: (B, ...) latents of the videos.
        noise: (B, ...) what they were noised with.
    """
    wide = velocity if velocity.dtype == torch.float64 else velocity.float()
    return velocity_divergence(wide, noise.to(wide) - clean.to(wide))


@dataclass(frozen=True)
class Draw:
    """One video of an update: its place in the list and the seed of its noise level and noise. One that is not
    ``counted`` fills up a forward, for a process with fewer than the others.
    """

    clip: int
    seed: int
    counted: bool = True


def draws_of(update: int, batch: int, num_clips: int, seed: int) -> list[Draw]:
    """The videos of an update: every video once, in an order of its own each time round.

    A function of the number of updates done: a run that goes on has nothing to catch up with.

    Args:
        update: updates done before.
        batch: videos of an update.
        num_clips: videos there are.
        seed: seed of the run.

    >>> [d.clip for k in range(2) for d in draws_of(k, 3, 6, 0)]
    [2, 5, 3, 0, 1, 4]
    """
    found = []
    for number in range(update * batch, (update + 1) * batch):
        round_, place = divmod(number, num_clips)
        generator = torch.Generator().manual_seed(derive_seed(seed, "data order", round_))
        clip = int(torch.randperm(num_clips, generator=generator)[place])
        found.append(Draw(clip, derive_seed(seed, "data draw", number)))
    return found


def draws_of_process(draws: list[Draw], process: int, processes: int, rows: int) -> list[list[Draw]]:
    """A process's forwards: every so-manieth video in batches of ``rows``; all processes get equally many batches of
    equal sizes.
    """
    each = -(-len(draws) // processes)
    mine = draws[process::processes]
    spare = draws[0]
    mine += [Draw(spare.clip, spare.seed, counted=False)] * (each - len(mine))
    return [mine[k : k + rows] for k in range(0, each, rows)]


class ClipTerm:
    """A loss on encoded videos: which are drawn in an update, and at which noise levels. Levels are uniform in time
    under the model's own shift; guidance takes no part.

    Args:
        clips: latents of the videos.
        texts: embeddings of their prompts.
        policy: velocity in training, wrapped.
        scheduler: scheduler of the model, or the stochastic one in front of it.
        batch: draws of an update, over all processes.
        rows: draws of a forward.
        seed: seed of the run.

    Raises:
        ValueError: if the model's shift depends on the size of the video.
    """

    def __init__(
        self,
        clips: ClipLatents,
        texts: TextEmbeddings,
        policy: Callable[..., torch.Tensor],
        scheduler: SchedulerMixin,
        *,
        batch: int,
        rows: int,
        seed: int,
    ) -> None:
        self.clips, self.texts, self.policy, self.scheduler = clips, texts, policy, scheduler
        self.batch, self.rows, self.seed = batch, rows, seed
        self.shift = static_shift(scheduler)

    def __len__(self) -> int:
        """Number of what may be drawn: videos, or pairs of them."""
        return len(self.clips)

    def share(self, update: int, process: int, processes: int) -> list[list[Draw]]:
        """The forwards of a process in an update, see :func:`draws_of_process`."""
        return draws_of_process(draws_of(update, self.batch, len(self), self.seed), process, processes, self.rows)

    def sigmas(self, draws: Sequence[Draw]) -> torch.Tensor:
        """Noise level of each draw, (R,)."""
        return shifted(forward_sigmas([draw.seed for draw in draws], 0), self.shift)

    def timesteps(self, draws: Sequence[Draw]) -> torch.Tensor:
        """Conditions of the transformer, (R,), which decide on its expert."""
        return self.sigmas(draws) * self.scheduler.config.num_train_timesteps


class DataTerm(ClipTerm):
    """The loss of the data term; arguments as of :class:`ClipTerm`."""

    def loss(self, draws: Sequence[Draw], device: torch.device) -> torch.Tensor:
        """The loss of some videos, (R,), with gradient."""
        clean = torch.stack([self.clips[draw.clip] for draw in draws]).to(device)  # (R, C, T, H, W)
        sigma = self.sigmas(draws).to(device)  # (R,)
        noise = forward_noise([draw.seed for draw in draws], 0, clean)
        prompts = [self.clips.clips[draw.clip].prompt for draw in draws]
        condition = self.texts.condition(prompts, None, device)
        timestep = sigma * self.scheduler.config.num_train_timesteps
        return flow_matching_loss(self.policy(noised(clean, noise, sigma), timestep, condition), clean, noise)
