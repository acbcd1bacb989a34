"""Ticks: the instants k * delta at which a track is written, and the boxes of a track there.

Seconds count from the first frame of the clip, whose frame k is shown at ``times[k]``. A tick is an instant, not a
span: its box is the one at that moment.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward_model.schema import Box, FrameRange
from reward_model.tracks.smoothing import to_box, to_track

Key = TypeVar("Key", bound=Hashable)
#: Times are written with two decimals: half of the last one, and a hair.
TOLERANCE = 0.006


def frame_times(indices: Sequence[int], fps: float) -> tuple[float, ...]:
    """Seconds of native frames, from the first of them.

    Example:
        >>> frame_times([32, 34, 36], 16.0)
        (0.0, 0.125, 0.25)
    """
    return tuple((n - indices[0]) / fps for n in indices)


def ticks_within(start: float, end: float, step: float) -> tuple[float, ...]:
    """Ticks from ``start`` to ``end`` seconds, both included; the middle of the two, to two decimals, where there is
    none.

    Example:
        >>> ticks_within(0.38, 1.62, 0.5), ticks_within(0.62, 0.75, 0.5)
        ((0.5, 1.0, 1.5), (0.69,))
    """
    first, last = math.ceil((start - TOLERANCE) / step), math.floor((end + TOLERANCE) / step)
    return tuple(k * step for k in range(first, last + 1)) or (written_time((start + end) / 2),)


def written_time(seconds: float) -> float:
    """The time as it is written: two decimals, halves up.

    Example:
        >>> written_time(0.125), written_time(0.625)
        (0.13, 0.63)
    """
    return math.floor(seconds * 100 + 0.5 + 1e-6) / 100


def nearest_frame(seconds: float, times: Sequence[float]) -> int:
    """The frame that is shown nearest to an instant, the earlier of two."""
    return min(range(len(times)), key=lambda k: (abs(times[k] - seconds), k))


def tick_frames(frames: FrameRange, times: Sequence[float], step: float) -> tuple[int, ...]:
    """The frames nearest to the ticks of a range, each once.

    Example:
        >>> tick_frames(FrameRange(3, 9), [k / 8 for k in range(12)], 0.5)
        (4, 8)
    """
    ticks = ticks_within(times[frames.start], times[frames.end], step)
    inside = (min(max(nearest_frame(t, times), frames.start), frames.end) for t in ticks)
    return tuple(dict.fromkeys(inside))


def things(boxes: Mapping[Key, Sequence[Box]]) -> list[dict[Key, Box]]:
    """Boxes of several things at once as one track each: a box continues the nearest one before it.

    Args:
        boxes: by frame or tick, in order; any number each.

    Example:
        >>> a, b = Box(0, 0, 10, 10), Box(500, 500, 510, 510)
        >>> [sorted(t) for t in things({0: [a], 1: [b, a]})]
        [[0, 1], [1]]
    """
    tracks: list[dict[Key, Box]] = []
    last: list[Box] = []
    for key, found in boxes.items():
        taken: dict[int, int] = {}
        if last and found:
            apart = np.array([[_distance(a, b) for b in found] for a in last])
            taken = {int(b): int(a) for a, b in zip(*linear_sum_assignment(apart), strict=True)}
        for k, box in enumerate(found):
            if k in taken:
                tracks[taken[k]][key] = last[taken[k]] = box
            else:
                tracks.append({key: box})
                last.append(box)
    return tracks


def _distance(a: Box, b: Box) -> float:
    return math.hypot(a.xmin + a.xmax - b.xmin - b.xmax, a.ymin + a.ymax - b.ymin - b.ymax)


def at_ticks(
    track: Mapping[int, Box], times: Sequence[float], ticks: Sequence[float], step: float, *, between: bool = True
) -> dict[float, Box]:
    """The boxes of one thing at the given ticks: between two frames those of the line between them, in centre and log
    size; beyond its first and last frame that of the nearest one, at most half a step away. A tick that no frame with a
    box is near has none.

    Args:
        track: box by frame, in order.
        times: seconds of the frames.
        between: False takes the box of the nearest frame in place of a line, so that no box is a new one.
    """
    frames = list(track)
    seconds = [times[k] for k in frames]
    rows = to_track([track[k] for k in frames])
    found: dict[float, Box] = {}
    for tick in ticks:
        after = bisect_left(seconds, tick - 1e-9)
        nearby = [k for k in (after - 1, after) if 0 <= k < len(seconds)]
        near = min(nearby, key=lambda k: abs(seconds[k] - tick))
        if abs(seconds[near] - tick) > step / 2 + 1e-9:
            continue
        a, b = nearby[0], nearby[-1]
        share = min(max((tick - seconds[a]) / (seconds[b] - seconds[a]), 0.0), 1.0) if a != b else 0.0
        # Where the frame before is further away than a step, the line would lead through what nobody saw.
        line = between and a != b and seconds[b] - seconds[a] <= step + 1e-9
        found[tick] = to_box(rows[a] + share * (rows[b] - rows[a])) if line else track[frames[near]]
    return found


def expand_ticks(
    ticks: Sequence[float], track: np.ndarray, starts: Sequence[int], times: Sequence[float], frames: FrameRange
) -> dict[int, Box]:
    """The box on every frame of a range: between two ticks of one segment that of the line in centre and log size; that
    of the nearer tick where they belong to two; that of the first or last tick beyond them.

    Args:
        ticks: their seconds, rising.
        track: (n, 4), their centres and log sizes.
        starts: ticks that begin a new segment (:func:`reward_model.tracks.smoothing.breaks`).

    Example:
        >>> track = to_track([Box(450, 450, 550, 550), Box(500, 300, 900, 700)])
        >>> expand_ticks([0.0, 1.0], track, [], [0.0, 0.5, 1.0], FrameRange(0, 2))[1].as_list()
        [500, 400, 700, 600]
    """
    boxes: dict[int, Box] = {}
    for k in frames.frames():
        after = bisect_left(ticks, times[k])
        if after in (0, len(ticks)):
            row = track[min(after, len(ticks) - 1)]
        else:
            share = (times[k] - ticks[after - 1]) / (ticks[after] - ticks[after - 1])
            share = float(share > 0.5) if after in starts else share
            row = track[after - 1] + share * (track[after] - track[after - 1])
        boxes[k] = to_box(row)
    return boxes
