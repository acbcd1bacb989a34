"""Latent cells of a video: the mapping of a judge's window and boxes onto them.

A causal video VAE keeps the first frame alone and folds every four frames after it into one latent frame; a latent cell
covers 8 x 8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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


def cell_cover(anomalies: Sequence[Anomaly], grid: LatentGrid) -> np.ndarray:
    """Share of every latent cell that anomalies cover, (T, H, W) in [0, 1]; the largest where several do.

    Frames of the window without boxes of their own take those of the nearest frame that has some; an anomaly without
    any box covers the whole picture of its window.

    Args:
        anomalies: with native frame indices.

    Raises:
        ValueError: a window beyond the video.
    """
    heat = np.zeros(grid.shape)
    for anomaly in anomalies:
        for frame in anomaly.frames.frames():
            place = heat[grid.latent_frame(frame)]
            np.maximum(place, _cover(_boxes_near(anomaly.boxes, frame), grid), out=place)
    return heat


def findings(verdict: Verdict | None) -> Sequence[Anomaly]:
    """Anomalies of an abnormal verdict, or its window as one where it names none; nothing of any other verdict."""
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
