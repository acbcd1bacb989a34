"""Physical Violations: something that falls stops in mid-air, hangs there, and goes on."""

from __future__ import annotations

import numpy as np

from reward_model.data.corruptions.base import About, CorruptionError, annotate, settle
from reward_model.data.corruptions.patch_time import Result, replay
from reward_model.data.corruptions.track import Track
from reward_model.schema import AnomalyType, FrameRange

#: Least fall in the window, as a share of the picture's height and of the region's own height.
MIN_FALL, MIN_OWN_FALL = 0.06, 0.2
#: Least speed of the fall, in picture heights per second, and how far it may go sideways for each pixel down. What is
#: slower or flatter walks, floats or is carried: if it stops, nothing is wrong.
MIN_SPEED, MAX_SLANT = 0.15, 2.0


def hover(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The thing is held where the window starts for two thirds of it, then catches up with its true path.

    Raises:
        CorruptionError: if the region does not fall, far or fast enough, the camera's motion taken out.
    """
    sideways, fall = own_travel(track, window)
    height = track.footage.frames.shape[1]
    seconds = len(window) / track.footage.fps
    needed = max(MIN_FALL * height, MIN_OWN_FALL * float(track.size[1]), MIN_SPEED * height * seconds)
    if fall < needed or abs(sideways) > MAX_SLANT * fall:
        raise CorruptionError(
            f"the region moves {fall:.0f} pixels down and {abs(sideways):.0f} sideways in the window; {needed:.0f} "
            f"down and at most {MAX_SLANT:g} times as many sideways are needed to hold it in mid-air. Use footage with "
            "something that falls, jumps or is thrown, or another kind"
        )
    start, length = window.start, len(window)
    done = np.clip((np.arange(1, length + 1) / (length + 1) - 0.66) / 0.34, 0, 1) ** 1.5
    sources = [round(start - 1 + p * length) if start else round(p * length) for p in done]
    out, rects = settle(track.footage.frames, replay(track, window, sources, rng, about.grain))
    words = "stops falling and hangs in mid-air without support"
    return out, annotate(AnomalyType.PHYSICAL, rects, out.shape, name=about.name, words=words)


def own_travel(track: Track, window: FrameRange) -> tuple[float, float]:
    """Distance to the right and down that the region moves by itself in the window, in pixels."""
    motion = track.footage.full_camera(window.start, window.end)
    still = (motion @ [*track.centre[window.start], 1.0])[:2]
    right, down = track.centre[window.end] - still
    return float(right), float(down)


def fall_window(track: Track, span: FrameRange, length: int) -> FrameRange:
    """The window of ``length`` frames inside ``span`` in which the region falls farthest."""
    length = min(length, len(span))
    starts = range(span.start, span.end - length + 2)
    windows = [FrameRange(s, s + length - 1) for s in starts]
    return max(windows, key=lambda w: own_travel(track, w)[1])
