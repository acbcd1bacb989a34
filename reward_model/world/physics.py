"""A floor, gravity, a block: things that fall, bounce and slide as they should, or do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_model.world.canvas import Canvas, Layer
from reward_model.world.kinds import Fault

ACTIONS = ("bounces on the floor", "slides against a block")


@dataclass(frozen=True)
class Floor:
    """A strip along the bottom from ``level`` down."""

    level: float
    color: np.ndarray
    name: str = "floor"

    def layers(self, canvas: Canvas) -> list[Layer]:
        distance = np.broadcast_to(self.level - canvas.y, canvas.shape)
        return [Layer(canvas.fill(distance.astype(np.float32)), self.color)]

    def regions(self, canvas: Canvas) -> list[np.ndarray]:
        return []


def bounce_path(
    extent: float, floor: float, num_frames: int, fps: float, fault: Fault | None, rng: np.random.Generator
) -> np.ndarray:
    """(T, 2): a thing dropped on the floor, bouncing a little lower each time.

    ``float``: time stops for the thing half-way between floor and top. ``rebound``: one arc is far higher than the one
    before it and lasts a little longer than the fault.
    """
    room = floor - extent - (extent + 0.03)
    heights = np.clip(rng.uniform(0.55, 1.0) * rng.uniform(0.86, 0.97) ** np.arange(64), 0.12, 1) * room
    if fault is not None and fault.kind == "rebound":
        return _rebound(extent, floor, room, num_frames, fps, fault, rng)
    period = rng.uniform(0.9, 1.5)
    clock = np.arange(num_frames) / fps + rng.uniform(0, period)
    if fault is not None and fault.kind == "float":
        clock = _stop_clock(clock, heights, period, fault)
    height = _height(clock, heights, period)
    x = _drift(extent, num_frames, fps, rng)
    return np.stack([x, floor - extent - height], axis=1)


def _height(clock: np.ndarray, heights: np.ndarray, period: float) -> np.ndarray:
    """Height above the floor at times ``clock`` (s) of bounces whose first lasts ``period``; later ones are shorter
    as sqrt(height).
    """
    lengths = period * np.sqrt(heights / heights[0])
    ends = np.cumsum(lengths)
    arc = np.minimum(np.searchsorted(ends, clock, side="right"), len(heights) - 1)
    phase = (clock - (ends[arc] - lengths[arc])) / lengths[arc]
    return heights[arc] * 4 * phase * (1 - phase)


def _stop_clock(clock: np.ndarray, heights: np.ndarray, period: float, fault: Fault) -> np.ndarray:
    """The thing's own time, which stands still during the fault at a moment when it is on its way up or down."""
    lengths = period * np.sqrt(heights / heights[0])
    ends = np.cumsum(lengths)
    start = fault.frames.start
    arc = int(np.searchsorted(ends, clock[start], side="right"))
    # At 12-22 % or 78-88 % of an arc a thing is at 42-69 % of its height and moves fast: nothing hangs there.
    share = 0.12 + 0.1 * (fault.draw * 2 % 1)
    moment = ends[arc] - lengths[arc] * (share if fault.draw < 0.5 else 1 - share)
    out = clock + (moment - clock[start])
    out[start : fault.frames.end + 1] = moment
    step = clock[1] - clock[0]
    out[fault.frames.end + 1 :] = moment + step * np.arange(1, len(clock) - fault.frames.end)
    return np.maximum(out, 0)


def _rebound(
    extent: float, floor: float, room: float, num_frames: int, fps: float, fault: Fault, rng: np.random.Generator
) -> np.ndarray:
    """Low, even bounces, one far too high, low ones again. The fault is where it is above all that was before."""
    low, high = rng.uniform(0.28, 0.42) * room, rng.uniform(0.9, 1.0) * room
    # A parabola of height ``high`` is above ``low`` for this share of its time.
    above = np.sqrt(1 - 1.08 * low / high)
    frames = np.arange(num_frames)
    middle, length = (fault.frames.start + fault.frames.end) / 2, len(fault.frames) / above
    phase = (frames - (middle - length / 2)) / length
    arc = high * 4 * phase * (1 - phase)
    small = length * np.sqrt(low / high)
    away = np.where(phase < 0, -phase, phase - 1) * length / small % 1
    height = np.where((phase >= 0) & (phase <= 1), arc, low * 4 * away * (1 - away))
    return np.stack([_drift(extent, num_frames, fps, rng), floor - extent - height], axis=1)


def slide_path(
    extent: float,
    block: tuple[float, float],
    floor: float,
    num_frames: int,
    fault: Fault | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """(T, 2): a thing slides along the floor against a block (centre, half width), rests and slides back; or through
    it, touching it during the fault and no longer.
    """
    centre, half = block
    side = -1 if centre > 0.5 else 1
    contact = half + extent
    frames = np.arange(num_frames)
    if fault is not None:
        speed = 2 * contact / (len(fault.frames) + 1)
        offset = np.clip(-contact + speed * (frames - fault.frames.start + 1), -contact - 0.25, contact + 0.12)
        x = centre - side * offset
    else:
        arrival = rng.integers(num_frames // 5, 4 * num_frames // 5)
        speed = rng.uniform(0.15, 0.5) / 16
        before, after = arrival - frames, (frames - arrival) * rng.uniform(0.3, 0.9)
        gap = np.where(frames <= arrival, before, after) * speed
        x = centre + side * (contact + np.minimum(gap, rng.uniform(0.15, 0.35)))
    return np.stack([x, np.full(num_frames, floor - extent)], axis=1)


def _drift(extent: float, num_frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Sideways movement at a constant speed between the rims."""
    near, far = extent + 0.03, 1 - extent - 0.03
    seconds = np.arange(num_frames) / fps
    start = rng.uniform(near, far)
    return np.clip(start + rng.uniform(-0.12, 0.12) * seconds, min(near, far), max(near, far))
