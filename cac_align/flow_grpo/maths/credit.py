"""Localised credit: a judge's window and boxes as weights of latent cells (:mod:`cac_align.latent_cells`).

Weights have mean 1, so a video without findings, or with findings everywhere, is weighted exactly
as without localised credit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cac_align.latent_cells import LatentGrid, cell_cover, findings
from reward_model.schema import Anomaly, Verdict


def anomaly_weights(anomalies: Sequence[Anomaly], grid: LatentGrid, *, floor: float = 0.2) -> torch.Tensor:
    """Weight of every latent cell, (T, H, W) float32 of mean 1.

    A cell weighs ``floor`` where there is no anomaly and 1 where one covers it wholly, in between by the covered area,
    before all are divided by their mean. Frames of the window without boxes of their own take those of the nearest
    frame that has some; an anomaly without any box covers the whole picture of its window.

    Args:
        anomalies: with native frame indices; none gives weights of exactly 1.
        floor: in [0, 1]; 1 is uniform, 0 leaves only the anomalies.

    Raises:
        ValueError: ``floor`` out of range, or a window beyond the video.

    Example:
        >>> from reward_model.schema import AnomalyType, FrameRange
        >>> grid = LatentGrid(num_frames=9, height=16, width=16)
        >>> late = Anomaly(AnomalyType.OBJECT, FrameRange(5, 8))
        >>> anomaly_weights([late], grid, floor=0.5)[:, 0, 0].tolist()
        [0.75, 0.75, 1.5]
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor={floor} must lie in [0, 1]; 1 gives uniform weights")
    return normalised(torch.from_numpy(floor + (1 - floor) * cell_cover(anomalies, grid)))


def normalised(weights: torch.Tensor) -> torch.Tensor:
    """The weights over their mean, as float32; equal weights become exactly 1.

    Raises:
        ValueError: negative weights, or none above 0.
    """
    low, high = float(weights.min()), float(weights.max())
    if low < 0 or not high > 0:
        raise ValueError(f"weights from {low} to {high} must not be negative, and some must be above 0")
    # In float64 the mean of equal weights is off by 1e-13 at most, which float32 rounds to exactly 1.
    return (weights.double() / weights.double().mean()).float()


def without_first_frame(cells: torch.Tensor | None, grid: LatentGrid, num_videos: int) -> torch.Tensor:
    """Weights, (B, 1, T, H, W) float32 of mean 1, that leave out the first latent frame: where a pipeline is given that
    frame, what its sampler makes there reaches no video.

    Args:
        cells: weights of :func:`verdict_weights`; None: all alike. A video whose findings lie in the first frame alone
            weighs its other cells alike.
        grid: cells of a video.
        num_videos: B.

    Raises:
        ValueError: if there is no other frame.
    """
    if grid.shape[0] < 2:
        raise ValueError(f"num_frames={grid.num_frames} leaves nothing behind the first frame, which is given")
    found = torch.ones(num_videos, 1, *grid.shape) if cells is None else cells.clone()
    found[:, :, 0] = 0
    nothing = found.flatten(1).sum(1) == 0
    found[nothing, :, 1:] = 1
    return torch.stack([normalised(one) for one in found])


def verdict_weights(verdicts: Sequence[Verdict | None], grid: LatentGrid, *, floor: float = 0.2) -> torch.Tensor:
    """The weights of a batch, (B, 1, T, H, W) float32, to be multiplied with latents (B, C, T, H, W).

    An abnormal verdict weighs its anomalies, or its window where it names none; a normal verdict, a missing one and one
    without window weigh all cells alike.

    Raises:
        ValueError: a verdict about a video of another length.
    """
    rows = []
    for row, verdict in enumerate(verdicts):
        if verdict is not None and verdict.num_frames and verdict.num_frames != grid.num_frames:
            raise ValueError(
                f"verdict {row} is about {verdict.num_frames} frames, the latents stand for {grid.num_frames}; "
                "judge the frames that were generated"
            )
        rows.append(anomaly_weights(findings(verdict), grid, floor=floor))
    return torch.stack(rows)[:, None]
