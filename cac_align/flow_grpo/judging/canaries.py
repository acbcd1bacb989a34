"""Canaries of reward hacking: what a video loses when a generator learns to please the judge.

The obvious hack of an anomaly judge is a video in which nothing happens; others erase the background or the colours.
Each canary is a pure function of one video and falls when that happens. :func:`collapsed` says when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

#: Canaries that must not fall.
WATCHED = ("motion_energy", "edge_density", "colour_entropy", "first_last_drift")


def motion_energy(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames, 0 (static) to 1. Frames: (T, H, W, 3) uint8, T >= 2."""
    video = _checked(frames, 2).astype(np.float32)
    return float(np.abs(video[1:] - video[:-1]).mean() / 255)


def first_last_drift(frames: np.ndarray) -> float:
    """Mean absolute difference of the first and the last frame, 0 to 1: 0 for a loop or a still. T >= 2."""
    video = _checked(frames, 2)
    return float(np.abs(video[-1].astype(np.float32) - video[0]).mean() / 255)


def edge_density(frames: np.ndarray, threshold: float = 16.0) -> float:
    """Share of pixels whose brightness gradient exceeds ``threshold`` levels of 255 per pixel, 0 to 1."""
    grey = _checked(frames, 1).astype(np.float32).mean(-1)
    across = grey[:, :-1, 1:] - grey[:, :-1, :-1]
    down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    return float((np.hypot(across, down) > threshold).mean())


def colour_entropy(frames: np.ndarray, bins: int = 8) -> float:
    """Entropy of the joint colour histogram with ``bins`` levels per channel, in bits: 0 for one colour, 9 at most."""
    levels = _checked(frames, 1).reshape(-1, 3).astype(np.int64) * bins // 256
    counts = np.bincount(levels @ np.array([bins * bins, bins, 1]))
    share = counts[counts > 0] / counts.sum()
    return float(max(-(share * np.log2(share)).sum(), 0.0))


def canaries(frames: np.ndarray) -> dict[str, float]:
    """All canaries of one video.

    Args:
        frames: (T, H, W, 3) uint8, at least two frames of 2 x 2 pixels.

    Raises:
        ValueError: another shape or dtype.

    Example:
        >>> canaries(np.zeros((5, 16, 16, 3), np.uint8))["motion_energy"]
        0.0
    """
    measures = (motion_energy, edge_density, colour_entropy, first_last_drift)
    return {measure.__name__: measure(frames) for measure in measures}


def mean_canaries(videos: Sequence[np.ndarray]) -> dict[str, float]:
    """The mean of each canary over several videos."""
    if not videos:
        raise ValueError("no videos; canaries need at least one")
    each = [canaries(frames) for frames in videos]
    return {name: math.fsum(c[name] for c in each) / len(each) for name in each[0]}


def collapsed(
    history: Sequence[Mapping[str, float]],
    *,
    min_ratio: float = 0.5,
    max_failure_rate: float = 0.2,
    patience: int = 2,
) -> tuple[str, ...]:
    """Canaries that say the reward rises by hacking; empty while all is well.

    A canary has collapsed if, in each of the last ``patience`` evaluations, it stood below ``min_ratio`` of its value
    at the first evaluation while the reward stood above its own. ``judge_failure_rate``, where it is logged, has
    collapsed in the same way if it stood above ``max_failure_rate`` and above its first value.

    Args:
        history: one mapping per evaluation on the same prompts and seeds, the untrained model first: ``reward`` and any
            of the canaries and ``judge_failure_rate``.
        min_ratio: in (0, 1).
        max_failure_rate: share of videos the judge could not judge.
        patience: evaluations in a row.

    Raises:
        ValueError: a number out of range, or an evaluation without ``reward`` or with a value that is not finite.

    Example:
        >>> base = {"reward": 0.4, "motion_energy": 0.10}
        >>> still = {"reward": 0.9, "motion_energy": 0.01}
        >>> collapsed([base, still, still])
        ('motion_energy',)
    """
    if not 0 < min_ratio < 1 or patience < 1:
        raise ValueError(f"min_ratio={min_ratio} must lie in (0, 1) and patience={patience} be at least 1")
    for place, entry in enumerate(history):
        _check_evaluation(place, entry)
    if len(history) <= patience:
        return ()
    base, recent = history[0], history[-patience:]
    if not all(entry["reward"] > base["reward"] for entry in recent):
        return ()
    found = [
        name
        for name in WATCHED
        if name in base and all(name in entry and entry[name] < min_ratio * base[name] for entry in recent)
    ]
    failing = "judge_failure_rate"
    limit = max(max_failure_rate, base.get(failing, 0.0))
    if all(entry.get(failing, 0.0) > limit for entry in recent):
        found.append(failing)
    return tuple(found)


def _check_evaluation(place: int, entry: Mapping[str, float]) -> None:
    if "reward" not in entry:
        raise ValueError(f"evaluation {place} has no 'reward'; it has {sorted(entry)}")
    for name, value in entry.items():
        if not math.isfinite(value):
            raise ValueError(f"evaluation {place} has {name}={value}; leave out what was not measured")


def _checked(frames: np.ndarray, least: int) -> np.ndarray:
    video = np.asarray(frames)
    if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or min(video.shape[1:3]) < 2:
        raise ValueError(f"frames {video.shape} of {video.dtype} must be (T, H, W, 3) uint8 of at least 2 x 2 pixels")
    if len(video) < least:
        raise ValueError(f"{len(video)} frame is too few; motion needs at least {least}")
    return video
