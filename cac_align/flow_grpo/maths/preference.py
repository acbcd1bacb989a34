"""Losses on preference pairs for flow-matching models: direct preference optimisation, as pure functions.

Diffusion-DPO (arXiv 2311.12908, equation 14) bounds the likelihood of a video by its denoising error. For a model that
predicts the velocity ``u = noise - clean`` of ``x = (1 - sigma) clean + sigma noise``, the error is the mean of
``(v - u)^2``, as in Flow-DPO (arXiv 2501.13918), and the loss of a pair is::

    -log sigmoid(-beta / 2 * ((error(v_w) - error(r_w)) - (error(v_l) - error(r_l))))

with v of the trained model and r of the reference, w of the chosen video and l of the rejected one, at one sigma and
with one noise for both. Errors are means over elements and there is a factor of 1/2, as in the public code of
Diffusion-DPO, whose beta of some thousands belongs to that scale. Beta is the same at all noise levels; these are
weighted by how often they are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from cac_align.flow_grpo.maths.credit import normalised
from cac_align.flow_grpo.maths.objectives import velocity_divergence
from cac_align.latent_cells import LatentGrid, cell_cover
from reward_model.schema import Anomaly


@dataclass(frozen=True)
class PairLoss:
    """Loss of pairs, and what to log about it; all (B,). Only ``loss`` carries a gradient.

    Attributes:
        loss: -log sigmoid of the margin.
        margin: beta / 2 times how much more the trained model has gained on the chosen video than on the rejected one,
            against the reference; above 0 where the pair is told right.
        chosen_gain, rejected_gain: by how much the error fell below the reference's on either video. A rising margin
            with a negative ``chosen_gain`` comes from making the rejected video worse.
    """

    loss: torch.Tensor
    margin: torch.Tensor
    chosen_gain: torch.Tensor
    rejected_gain: torch.Tensor


def flow_dpo_loss(
    velocities: tuple[torch.Tensor, torch.Tensor],
    references: tuple[torch.Tensor, torch.Tensor],
    targets: tuple[torch.Tensor, torch.Tensor],
    *,
    beta: float,
    weights: torch.Tensor | None = None,
) -> PairLoss:
    """Loss of flow-matching DPO, each argument a tensor for the chosen and one for the rejected video.

    Args:
        velocities: (B, ...) of the trained model; carry the gradient.
        references: (B, ...) of the reference at the same noised latents.
        targets: (B, ...) noise - clean.
        beta: how closely the model is held to the reference, above 0.
        weights: cell weights of localised DPO, (B, 1, T, H, W) of mean 1, the same for both videos.

    Raises:
        ValueError: if ``beta`` is not above 0.

    Example:
        >>> zero, one = torch.zeros(1, 4), torch.ones(1, 4)
        >>> found = flow_dpo_loss((one, one), (zero, zero), (one, -one), beta=2.0)
        >>> found.chosen_gain.item(), found.rejected_gain.item(), found.margin.item()
        (1.0, -3.0, 4.0)
    """
    if not beta > 0:
        raise ValueError(f"beta={beta} must be above 0: it holds the model to its reference")
    gains = []
    for velocity, reference, target in zip(velocities, references, targets, strict=True):
        error = velocity_divergence(velocity, target, weights)
        with torch.no_grad():
            before = velocity_divergence(reference, target, weights)
        gains.append(before - error)
    chosen, rejected = gains
    margin = beta / 2 * (chosen - rejected)
    return PairLoss(-logsigmoid(margin), margin.detach(), chosen.detach(), rejected.detach())


def contrast_weights(
    chosen: Sequence[Anomaly], rejected: Sequence[Anomaly], grid: LatentGrid, *, floor: float = 0.0
) -> torch.Tensor:
    """Cell weights of localised DPO, (T, H, W) float32 of mean 1: where the judge's findings on the two videos differ.

    A cell weighs the difference of the areas that anomalies cover in it, at least ``floor``. Pairs without such a cell
    (no findings, or the same ones) are weighted alike everywhere, as without localisation.

    Args:
        chosen, rejected: anomalies of the two videos, with native frame indices.
        grid: cells of a video; both have the same.
        floor: in [0, 1]; 1 is uniform, 0 leaves only cells that differ.

    Raises:
        ValueError: if ``floor`` is out of range, or a window lies beyond the video.

    Example:
        >>> from reward_model.schema import AnomalyType, FrameRange
        >>> grid = LatentGrid(num_frames=9, height=16, width=16)
        >>> late = Anomaly(AnomalyType.OBJECT, FrameRange(5, 8))
        >>> contrast_weights([], [late], grid)[:, 0, 0].tolist()
        [0.0, 0.0, 3.0]
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must lie in [0, 1]; 1 gives uniform weights")
    differ = np.abs(cell_cover(chosen, grid) - cell_cover(rejected, grid))
    if not differ.any():
        return torch.ones(grid.shape)
    return normalised(torch.from_numpy(floor + (1 - floor) * differ))
