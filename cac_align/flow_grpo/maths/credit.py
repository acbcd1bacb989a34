"""Localised credit: a judge's window and boxes as weights of latent cells.

A causal video VAE keeps the first frame alone and folds every four frames after it into one latent frame; a latent cell
covers 8 x 8 pixels. Weights have mean 1, so a video without findings, or with findings everywhere, is weighted exactly
as without localised credit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reward_model.schema import BOX_SCALE, Anomaly, Box, Verdict


@dataclass(frozen=True)
class LatentGrid:
    """Latent cells of a video of ``num_frames`` frames of ``height`` x ``width`` pixels.

    Args:
        temporal_factor, spatial_factor: frames and pixels per cell; 4 and 8 for Wan 2.1.
        first_frame_alone: causal VAE, 1 + temporal_factor * k frames.

    Raises:
        ValueError: a video that does not divide into cells.
    """

    num_frames: int
    height: int
    width: int
    temporal_factor: int = 4
    spatial_factor: int = 8
    first_frame_alone: bool = True

    def __post_init__(self) -> None:
        folded = self.num_frames - (1 if self.first_frame_alone else 0)
        if self.num_frames < 1 or folded % self.temporal_factor:
            first = "1 + " if self.first_frame_alone else ""
            raise ValueError(f"num_frames={self.num_frames} must be {first}a multiple of {self.temporal_factor}")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 1 or value % self.spatial_factor:
                raise ValueError(f"{name}={value} must be a multiple of {self.spatial_factor}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Latent (T, H, W)."""
        alone = 1 if self.first_frame_alone else 0
        frames = (self.num_frames - alone) // self.temporal_factor + alone
        return frames, self.height // self.spatial_factor, self.width // self.spatial_factor

    def latent_frame(self, frame: int) -> int:
        """The latent frame that holds a native frame."""
        if not 0 <= frame < self.num_frames:
            raise ValueError(f"frame {frame} lies outside a video of {self.num_frames} frames")
        if self.first_frame_alone:
            return 0 if frame == 0 else (frame - 1) // self.temporal_factor + 1
        return frame // self.temporal_factor


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
    heat = np.zeros(grid.shape)
    for anomaly in anomalies:
        for frame in anomaly.frames.frames():
            place = heat[grid.latent_frame(frame)]
            np.maximum(place, _cover(_boxes_near(anomaly.boxes, frame), grid), out=place)
    return normalised(torch.from_numpy(floor + (1 - floor) * heat))


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
        rows.append(anomaly_weights(_findings(verdict), grid, floor=floor))
    return torch.stack(rows)[:, None]


def _findings(verdict: Verdict | None) -> Sequence[Anomaly]:
    if verdict is None or verdict.status != "abnormal":
        return ()
    if verdict.anomalies or verdict.window is None:
        return verdict.anomalies
    from reward_model.schema import AnomalyType

    return (Anomaly(AnomalyType.OBJECT, verdict.window),)


def _boxes_near(boxes: Mapping[int, tuple[Box, ...]], frame: int) -> tuple[Box, ...]:
    filled = [k for k, found in boxes.items() if found]
    return boxes[min(filled, key=lambda k: (abs(k - frame), k))] if filled else ()


def _cover(boxes: Sequence[Box], grid: LatentGrid) -> np.ndarray:
    """Share of each cell that the boxes cover, (H, W); the largest where boxes overlap. No boxes cover everything."""
    _, rows, columns = grid.shape
    if not boxes:
        return np.ones((rows, columns))
    shares = [np.outer(_overlap(b.ymin, b.ymax, rows), _overlap(b.xmin, b.xmax, columns)) for b in boxes]
    return np.maximum.reduce(shares)


def _overlap(low: int, high: int, cells: int) -> np.ndarray:
    """Share of each of ``cells`` equal parts of the 0-1000 axis that lies between ``low`` and ``high``."""
    edges = np.arange(cells + 1) * (BOX_SCALE / cells)
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.clip(inside / (BOX_SCALE / cells), 0, 1)
