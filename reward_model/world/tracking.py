"""A rule that is not a judge: follows the object of a world-style video by brightness alone and says when it
misbehaves.

It knows nothing of any model, prompt or truth, so it can referee between rewards: pixels that differ from the border's
colour are the object; its area, outline, number of pieces and position are compared with their own medians over the
video.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

#: Frames a fault must last; shorter ones are forgiven as noise of the measurement (0.19 s at 16 fps).
PATIENCE = 3


@dataclass(frozen=True)
class FrameMeasurements:
    """Measurements of the rule in each frame: (T,) arrays, lengths as fractions of the picture.

    ``area`` is the share of pixels the object covers, ``elongation`` the ratio of its principal axes (1 for a ball),
    ``pieces`` the number of separate parts, ``centre`` (T, 2) its middle (NaN where nothing is seen).
    """

    area: np.ndarray
    elongation: np.ndarray
    pieces: np.ndarray
    centre: np.ndarray


def track_object(frames: np.ndarray) -> FrameMeasurements:
    """Measures the moving object in frames (T, H, W, 3) uint8."""
    pictures = frames.astype(np.float32)
    border = np.concatenate([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], axis=1)
    contrast = np.linalg.norm(pictures - np.median(border, axis=1)[:, None, None], axis=-1)
    threshold = max(0.45 * float(np.percentile(contrast, 98)), 20.0)
    masks = contrast > threshold
    measured = [_measure(mask) for mask in masks]
    area, elongation, pieces, x, y = (np.array(v) for v in zip(*measured, strict=True))
    return FrameMeasurements(area, elongation, pieces, np.stack([x, y], axis=1))


def tracked_motion(frames: np.ndarray, fps: float) -> float:
    """Median speed of the tracked object's middle in pixels per second; 0 where no two neighbouring frames show it.

    The median, because the mean would count a jump or a sudden change of shape as motion, and a generator that learned
    to avoid them as one that moves less.

    Args:
        frames: (T, H, W, 3) uint8.
        fps: frames per second.
    """
    height, width = frames.shape[1:3]
    steps = np.diff(track_object(frames).centre * (width, height), axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    known = lengths[~np.isnan(lengths)]
    return float(np.median(known) * fps) if len(known) else 0.0


def _measure(mask: np.ndarray) -> tuple[float, float, int, float, float]:
    rows, columns = np.nonzero(mask)
    if len(rows) < 4:
        return 0.0, 1.0, 0, np.nan, np.nan
    # A pixel has its own extent: 1/12 is the variance of a unit square, which keeps thin shapes finite.
    spread = np.cov(np.stack([columns, rows])) + np.eye(2) / 12
    small, large = np.linalg.eigvalsh(spread)
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    pieces = int((sizes > 0.2 * len(rows)).sum()) if count else 0
    height, width = mask.shape
    return len(rows) / mask.size, float(np.sqrt(large / small)), pieces, columns.mean() / width, rows.mean() / height


def find_faults(frames: np.ndarray) -> list[str]:
    """The names of everything the rule objects to, empty for a well-behaved video.

    ``missing`` (no object at all), ``vanishes``, ``grows``, ``deforms``, ``splits``, ``jumps``; each but the jump must
    last :data:`PATIENCE` frames in a row.

    Example:
        >>> from reward_model.world import make_video
        >>> find_faults(make_video(3)[0]), find_faults(make_video(3, "split")[0])
        ([], ['splits'])
    """
    track = track_object(frames)
    seen = track.area > 0
    if seen.mean() < 0.25:
        return ["missing"]
    usual = float(np.median(track.area[seen]))
    step = np.linalg.norm(np.diff(track.centre, axis=0), axis=1)
    checks = {
        "vanishes": track.area < 0.4 * usual,
        "grows": track.area > 1.7 * usual,
        "deforms": (track.elongation > 1.6) & (track.pieces < 2),
        "splits": track.pieces > 1,
    }
    faults = [name for name, wrong in checks.items() if _longest_run(wrong) >= PATIENCE]
    return faults + ["jumps"] * bool(np.nanmax(step, initial=0.0) > 0.25)


def _longest_run(flags: np.ndarray) -> int:
    best = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        best = max(best, run)
    return best
