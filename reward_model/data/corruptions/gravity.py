"""Physical Violations: something that falls or rises stops in mid-air, hangs there, and goes on."""

from __future__ import annotations

import numpy as np

from reward_model.data.corruptions.base import About, CorruptionError, annotate, settle
from reward_model.data.corruptions.patch_time import Result, replay
from reward_model.data.corruptions.region import Track
from reward_model.schema import AnomalyType, FrameRange

#: Least vertical travel in the window, as a share of the picture's height and of the region's own height.
MIN_FALL, MIN_OWN_FALL = 0.06, 0.2


def hover(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The thing is held where the window starts for two thirds of it, then catches up with its true path.

    Raises:
        CorruptionError: the region does not move up or down enough, the camera's motion taken out.
    """
    fall = vertical_travel(track, window)
    height = track.footage.frames.shape[1]
    needed = max(MIN_FALL * height, MIN_OWN_FALL * float(track.size[1]))
    if abs(fall) < needed:
        raise CorruptionError(
            f"the region moves {abs(fall):.0f} pixels up or down in the window, {needed:.0f} needed to hold it in "
            "mid-air; use footage with something that falls, jumps or is thrown, or another kind"
        )
    start, length = window.start, len(window)
    done = np.clip((np.arange(1, length + 1) / (length + 1) - 0.66) / 0.34, 0, 1) ** 1.5
    sources = [round(start - 1 + p * length) if start else round(p * length) for p in done]
    out, rects = settle(track.footage.frames, replay(track, window, sources, rng, about.grain))
    words = f"stops {'falling' if fall > 0 else 'rising'} and hangs in mid-air without support"
    return out, annotate(AnomalyType.PHYSICAL, rects, out.shape, name=about.name, words=words)


def vertical_travel(track: Track, window: FrameRange) -> float:
    """How far down (above zero) or up the region moves by itself in the window, in pixels."""
    motion = track.footage.full_camera(window.start, window.end)
    still = (motion @ [*track.centre[window.start], 1.0])[1]
    return float(track.centre[window.end][1] - still)


def fall_window(track: Track, span: FrameRange, length: int) -> FrameRange:
    """The window of ``length`` frames inside ``span`` with the largest vertical travel."""
    length = min(length, len(span))
    starts = range(span.start, span.end - length + 2)
    windows = [FrameRange(s, s + length - 1) for s in starts]
    return max(windows, key=lambda w: abs(vertical_travel(track, w)))
