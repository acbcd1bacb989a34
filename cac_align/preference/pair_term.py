"""The loss of preference pairs on a policy with an adapter: flow-matching DPO against the same model without it.

The equations are those of :mod:`cac_align.flow_grpo.maths.preference`. Both videos of a pair are noised with the same
noise at the same level, as in the public code of Diffusion-DPO, and go through the transformer in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.learner.data_term import ClipTerm, Draw
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.learner.nft import forward_noise, noised
from cac_align.flow_grpo.maths.preference import PairLoss, contrast_weights, flow_dpo_loss
from cac_align.flow_grpo.sampler.clips import ClipLatents
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.flow_grpo.sampler.experts import ExpertVelocity
from cac_align.flow_grpo.sampler.policy import GuidedVelocity
from cac_align.latent_cells import LatentGrid
from cac_align.preference.config import PreferenceConfig
from cac_align.preference.training_pairs import TrainingPair, run_findings

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


class PairTerm(ClipTerm):
    """The loss of some pairs.

    Args:
        clips: latents of the chosen videos of all pairs, then of the rejected ones in the same order.
        texts: embeddings of their prompts.
        policy: velocity in training, wrapped.
        scheduler: scheduler of the model.
        bare: the policy without wrapper, for the reference: the model without adapter.
        beta: see :func:`~cac_align.flow_grpo.maths.preference.flow_dpo_loss`.
        cells: weights of localised DPO for each pair, (T, H, W) of mean 1; None: all cells alike.
        batch: pairs of an update, over all processes.
        rows: pairs of a forward.
        seed: seed of the run.

    Raises:
        ValueError: if the two videos of a pair have different prompts, a video or weights are without a partner, or the
            model's shift depends on the size of the video.
    """

    def __init__(
        self,
        clips: ClipLatents,
        texts: TextEmbeddings,
        policy: Callable[..., torch.Tensor],
        scheduler: SchedulerMixin,
        *,
        bare: GuidedVelocity | ExpertVelocity,
        beta: float,
        cells: Sequence[torch.Tensor] | None = None,
        batch: int = 1,
        rows: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(clips, texts, policy, scheduler, batch=batch, rows=rows, seed=seed)
        self.bare, self.beta, self.cells = bare, beta, cells
        if len(clips) % 2:
            raise ValueError(f"{len(clips)} videos are not pairs; give the chosen ones, then as many rejected ones")
        if cells is not None and len(cells) != len(self):
            raise ValueError(f"cells are given for {len(cells)} of {len(self)} pairs; give weights for each")
        for k in range(len(self)):
            chosen, rejected = clips.clips[k].prompt, clips.clips[len(self) + k].prompt
            if chosen != rejected:
                raise ValueError(f"pair {k} has the prompts {chosen!r} and {rejected!r}; a pair shares its prompt")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clips) // 2

    def loss(self, draws: Sequence[Draw], device: torch.device) -> PairLoss:
        """The loss of some pairs, (R,), with gradient; guidance takes no part.

        Args:
            draws: of :func:`~cac_align.flow_grpo.learner.data_term.draws_of`; ``clip`` is the pair.
            device: device of the policy.
        """
        places = [draw.clip for draw in draws]
        clean = torch.stack([self.clips[k + side] for side in (0, len(self)) for k in places]).to(device)  # (2R, ...)
        noise = forward_noise([draw.seed for draw in draws], 0, clean[: len(draws)]).repeat(2, 1, 1, 1, 1)
        sigma = self.sigmas(draws).to(device).repeat(2)  # (2R,)
        x, timestep = noised(clean, noise, sigma), sigma * self.scheduler.config.num_train_timesteps
        condition = self.texts.condition([self.clips.clips[k].prompt for k in places] * 2, None, device)
        with torch.no_grad(), adapter_off(*self.bare.transformers.values()):
            reference = self.bare(x, timestep, condition)
        velocity = self.policy(x, timestep, condition)
        weights = None if self.cells is None else torch.stack([self.cells[k] for k in places])[:, None].to(device)
        sides = (_halves(tensor) for tensor in (velocity, reference, noise - clean))
        return flow_dpo_loss(*sides, beta=self.beta, weights=weights)


def _halves(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    chosen, rejected = tensor.chunk(2)
    return chosen, rejected


def pair_weights(
    pairs: Sequence[TrainingPair], config: PreferenceConfig, spatial_factor: int
) -> list[torch.Tensor] | None:
    """The cell weights of localised DPO for each pair; None without localisation.

    Args:
        pairs: pairs that were checked.
        config: settings.
        spatial_factor: pixels per latent cell.

    Raises:
        ValueError: if no pair says where its videos differ.
    """
    if not config.localised:
        return None
    grid = LatentGrid(config.num_frames, config.height, config.width, spatial_factor=spatial_factor)
    found = [contrast_weights(*run_findings(p, config), grid, floor=config.localised_floor) for p in pairs]
    if not any(weights.min() < weights.max() for weights in found):
        raise ValueError(
            f"localised=True finds nothing in pairs={config.pairs!r}: no pair has a window or a box in one video that "
            "the other has not; make pairs of videos that a judge with windows has seen, or set localised: false"
        )
    return found
