"""Frame indices: stride grids, windows on them, and the clip of turn two.

Grids are inclusive strides, so 81 frames at 16 fps give the paper's 21 frames at 4 fps (0, 4, ..., 80; section 3.2);
other samplers give 20.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reward_model.schema import FrameRange
from reward_model.video.clip import VideoError, check_fps

#: Frames per second of the two turns (the paper's) and the fewest and most frames of turn two's clip (this project's):
#: the defaults of judges and data tools alike; a checkpoint's ``judge.json`` may say otherwise.
SCAN_FPS, ZOOM_FPS = 4.0, 8.0
MIN_ZOOM_FRAMES, MAX_ZOOM_FRAMES = 4, 48


def sample_indices(num_frames: int, fps: float, target_fps: float) -> list[int]:
    """Native indices of the inclusive stride grid at ``target_fps``: 0, s, 2s, ... with s = fps / target_fps, never
    less than 1.

    >>> len(sample_indices(81, 16, 4)), sample_indices(81, 16, 4)[-1]
    (21, 80)
    """
    if num_frames < 1:
        raise VideoError(f"num_frames={num_frames} must be at least 1")
    stride = max(check_fps(fps) / check_fps(target_fps), 1.0)
    count = math.floor((num_frames - 1) / stride + 1e-9) + 1
    return [min(round(k * stride), num_frames - 1) for k in range(count)]


def native_window(
    window: FrameRange, indices: Sequence[int], num_frames: int | None = None, *, margin: str = "half"
) -> FrameRange:
    """The native frames a window of sampled frames stands for.

    Args:
        window: sampled frames, inside ``range(len(indices))``.
        indices: the grid the window was seen on.
        num_frames: length of the video; by default the grid's last frame ends it.
        margin: ``"none"``: from its first frame to its last, the crop of the paper; ``"half"``: from half a stride
            before the first to half a stride after the last, where what was seen may have begun and ended.
    """
    if window.end >= len(indices):
        raise ValueError(f"window {window} is outside a clip of {len(indices)} frames")
    if margin not in ("half", "none"):
        raise ValueError(f"margin={margin!r} must be 'half' or 'none'")
    half = (indices[1] - indices[0]) // 2 if margin == "half" and len(indices) > 1 else 0
    last = (num_frames or indices[-1] + 1) - 1
    return FrameRange(max(indices[window.start] - half, 0), min(indices[window.end] + half, last))


def zoom_indices(
    window: FrameRange,
    num_frames: int,
    fps: float,
    target_fps: float = ZOOM_FPS,
    *,
    min_frames: int = MIN_ZOOM_FRAMES,
    max_frames: int = MAX_ZOOM_FRAMES,
) -> list[int]:
    """Native indices of the clip turn two looks at: the ``target_fps`` grid inside a native window.

    The window is snapped to the grid (at least one frame), widened evenly until it holds ``min_frames`` of them (or the
    video ends), and thinned evenly to ``max_frames``, first and last kept.
    """
    if not 1 <= min_frames <= max_frames:
        raise ValueError(f"zoom needs 1 <= min_frames <= max_frames, got {min_frames} and {max_frames}")
    grid = sample_indices(num_frames, fps, target_fps)
    inside = [k for k, n in enumerate(grid) if n in window]
    if not inside:
        middle = (window.start + window.end) / 2
        inside = [min(range(len(grid)), key=lambda k: abs(grid[k] - middle))]
    first, last = inside[0], inside[-1]
    while last - first + 1 < min(min_frames, len(grid)):
        if last + 1 < len(grid):
            last += 1
        if last - first + 1 < min_frames and first > 0:
            first -= 1
    return thinned(grid[first : last + 1], max_frames)


def thinned(indices: Sequence[int], max_frames: int | None) -> list[int]:
    """At most ``max_frames`` of ``indices``, evenly spread, first and last kept; None: all.

    >>> thinned(range(0, 101, 10), 3)
    [0, 50, 100]
    """
    if max_frames is None or len(indices) <= max_frames:
        return list(indices)
    return [indices[round(i)] for i in np.linspace(0, len(indices) - 1, max_frames)]
