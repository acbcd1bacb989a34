"""Time stamps -> a constant rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reward_model.video.clip import VideoError
from reward_model.video.limits import ENCODE, MAX_FPS, repair

#: Longest video at a varying rate: more than four hours at 30 frames per second.
MAX_MOMENTS = 500_000
#: Frames may lie this far from a constant rate, in frames: a dropped one moves the others by half a frame.
JITTER = 0.75


def timeline(
    path: Path, count: int, seconds: np.ndarray | None, stated: float | None, base: float | None = None
) -> tuple[int, float | None, np.ndarray | None]:
    """Frames of constant rate for stored frames at given moments.

    Args:
        count: stored frames.
        seconds: when each is shown, ascending from 0; None: the file has no time stamps.
        stated: frames per second of the header, None if there are none.
        base: the rate that all moments are multiples of, if the file knows one.

    Returns:
        The number of frames, their rate, and which stored frame each shows (None: its own).

    Raises:
        VideoError: the moments of a varying rate span more than :data:`MAX_MOMENTS` frames.
    """
    believed = stated if stated and 0 < stated <= MAX_FPS else None
    if seconds is None or count < 2 or seconds[-1] <= 0:
        return count, believed, None
    for rate in (believed, (count - 1) / float(seconds[-1])):
        if rate and np.abs(seconds * rate - np.arange(count)).max() <= JITTER:
            return count, rate if rate <= MAX_FPS else None, None
    gaps = np.diff(seconds)
    gaps = np.sort(gaps[gaps > 0])
    short = gaps[len(gaps) // 5]
    common = 1 / float(gaps[np.abs(gaps - short) <= short / 4].mean())
    fps = base if base and abs(base / common - 1) < 0.1 else common
    fps = min(max(fps, 1.0), 120.0)
    moments = int(seconds[-1] * fps + 0.25) + 1
    if moments > MAX_MOMENTS:
        raise VideoError(
            f"{str(path)!r} holds {count} frames over {seconds[-1]:.0f} seconds at a varying rate; expected at most "
            f"{MAX_MOMENTS / fps:.0f} seconds. Write the rate anew: {repair(path, '-vf', 'fps=16', *ENCODE)}"
        )
    shown = np.searchsorted(seconds, (np.arange(moments) + 0.25) / fps, side="right") - 1
    return moments, fps, shown
