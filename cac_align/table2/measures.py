"""Measures of a small video that need no network: motion, drift, sharpness, and the independent rule's verdict.

They serve if VBench's networks have nothing to look at (32 x 32 pixels) and its weights are absent; they are different
measures, named differently. The rule is :mod:`reward_model.world.tracking`: it knows no judge, prompt or truth, and
is made for one object on a plain ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from cac_align.table2.columns import FAULTS
from reward_model.video.clip import resize_frames, shrunk_size
from reward_model.world.tracking import find_faults, tracked_motion

#: Bump when a value changes meaning; stored rows are then computed again.
REVISION = 1
#: Shorter side, in pixels, that videos have when they are compared with each other.
COMPARED_SIDE = 32
#: Keys of what a single frame does not have.
OF_CHANGES = ("world/motion", "world/appearance_drift")


def appearance_drift(frames: np.ndarray, bins: int = 8) -> float:
    """Change of the colours over the video, from 0 (none) to 1.

    One minus the Bhattacharyya coefficient of colour histograms, averaged over each frame with the first and with the
    one before, as VBench averages its similarities. Where things are does not matter, so motion alone does not count.
    """
    levels = (frames.astype(np.int64) * bins // 256) @ np.array([bins * bins, bins, 1])
    flat = levels.reshape(len(frames), -1)
    roots = np.stack([np.sqrt(np.bincount(f, minlength=bins**3) / f.size) for f in flat])
    to_first, to_last = roots[1:] @ roots[0], (roots[1:] * roots[:-1]).sum(1)
    return float(np.clip(1 - (to_first + to_last).mean() / 2, 0, 1))


def edge_sharpness(frames: np.ndarray) -> float:
    """Steepness of edges: the mean brightness gradient, each pixel weighted by its own gradient, as a share of full
    brightness per pixel; mean over frames, 0 for a frame of one colour. A blurred video has less; how much of the
    picture has edges does not matter.
    """
    grey = frames.astype(np.float64).mean(-1) / 255
    across, down = grey[:, :-1, 1:] - grey[:, :-1, :-1], grey[:, 1:, :-1] - grey[:, :-1, :-1]
    slope = np.hypot(across, down).reshape(len(frames), -1)
    total = slope.sum(1)
    return float(np.divide((slope**2).sum(1), total, out=np.zeros_like(total), where=total > 0).mean())


def diversity(videos: Sequence[np.ndarray]) -> list[float]:
    """Diversity of videos of one prompt: the mean absolute difference of each one's pixels from those of the others, in
    its place and at its time, as a share of full brightness; NaN for a single one. Videos with a shorter side above
    :data:`COMPARED_SIDE` pixels are compared as small copies of that size, so that grain does not count.

    Args:
        videos: (T, H, W, 3) uint8 each, of one shape.
    """
    if len(videos) < 2:
        return [float("nan")] * len(videos)
    size = shrunk_size(videos[0].shape[1:3], COMPARED_SIDE)
    small = [resize_frames(frames, size).astype(np.int16) for frames in videos]
    apart = np.zeros((len(small), len(small)))
    for i, j in combinations(range(len(small)), 2):
        apart[i, j] = apart[j, i] = np.abs(small[i] - small[j]).mean() / 255
    return (apart.sum(1) / (len(small) - 1)).tolist()


def world_values(frames: np.ndarray, fps: float) -> dict[str, float]:
    """All measures of this file; ``anomaly`` is 1 where the rule finds a fault, and each fault has its own entry."""
    faults = find_faults(frames)
    return {
        "motion": tracked_motion(frames, fps),
        "appearance_drift": appearance_drift(frames),
        "sharpness": edge_sharpness(frames),
        "anomaly": float(bool(faults)),
        **{f"fault {name}": float(name in faults) for name in FAULTS},
    }


def rule(
    videos: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, fps: float, **kwargs: object
) -> list[float]:
    """The rule as a reward: 1 where it objects to nothing, else 0. To watch a training with; do not train on it what it
    shall referee.
    """
    return [float(not find_faults(frames)) for frames in videos]
