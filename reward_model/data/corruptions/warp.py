"""Object (on people, Human) Distortion: the region bulges, twists or melts while the rest stays as it is.

The displacement fades to zero at the rim of the region, so nothing has to be blended.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import About, Edit, Rect, annotate, settle
from reward_model.data.corruptions.blend import missing_grain, smooth_step
from reward_model.data.corruptions.track import Track
from reward_model.schema import Anomaly, AnomalyType, FrameRange

#: A displacement: coordinates (u, v) in radii of the region, the fade (1 inside, 0 at the rim), strength in [0, 1].
Field = Callable[[np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]]


def bulge(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The middle of the region swells like a bubble."""
    return _deform(track, window, rng, _swell, 0.75, about, "swells and bulges out of its own shape")


def swirl(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The region is twisted about its middle."""
    sign = float(rng.choice([-1, 1]))
    return _deform(track, window, rng, _twist(sign), 1.0, about, "is twisted like a whirl")


def melt(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """The region's rows are pulled sideways in waves, as if it were soft."""
    phase = float(rng.uniform(0, 2 * np.pi))
    return _deform(track, window, rng, _waves(phase), 1.0, about, "loses its shape and melts into waves")


Result = tuple[np.ndarray, Anomaly]


def _swell(u: np.ndarray, v: np.ndarray, fade: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    pull = -0.62 * strength * fade
    return pull * u, pull * v


def _twist(sign: float) -> Field:
    def field(u: np.ndarray, v: np.ndarray, fade: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        angle = sign * 1.7 * strength * fade
        return np.cos(angle) * u - np.sin(angle) * v - u, np.sin(angle) * u + np.cos(angle) * v - v

    return field


def _waves(phase: float) -> Field:
    def field(u: np.ndarray, v: np.ndarray, fade: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        sideways = 0.32 * strength * fade * np.sin(phase + 5.5 * v + 0.8 * u)
        return sideways, 0.12 * strength * fade * np.sin(phase + 4.0 * u)

    return field


def _deform(
    track: Track,
    window: FrameRange,
    rng: np.random.Generator,
    field: Field,
    size: float,
    about: About,
    words: str,
) -> Result:
    frames = track.footage.frames
    edits = []
    for index in window.frames():
        # It grows over the first fifth of the window, from half its strength: visible from the first frame on.
        done = (index - window.start + 1) / max(1.0, 0.2 * len(window))
        edits.append(_warp_frame(track, index, field, size, min(1.0, 0.5 + 0.5 * done), rng, about.grain))
    out, rects = settle(frames, edits)
    # A deformed body is a Human Distortion, whatever deformed it.
    kind = AnomalyType.HUMAN if about.people and track.moving else AnomalyType.OBJECT
    return out, annotate(kind, rects, frames.shape, name=about.name, words=words)


def _warp_frame(
    track: Track, index: int, field: Field, size: float, strength: float, rng: np.random.Generator, grain: bool
) -> Edit:
    rect: Rect = track.rect(index, 1.15)
    frame = track.footage.frames[index]
    half = 1.15 * track.size / 2
    u = ((np.arange(rect.left, rect.right) + 0.5 - track.centre[index, 0]) / half[0])[None, :]
    v = ((np.arange(rect.top, rect.bottom) + 0.5 - track.centre[index, 1]) / half[1])[:, None]
    fade = smooth_step((1 - np.sqrt(u**2 + v**2)) / size)
    du, dv = field(u, v, fade, strength)
    y, x = np.mgrid[: rect.height, : rect.width].astype(np.float32)
    places = np.stack([y + dv * half[1] + rect.top, x + du * half[0] + rect.left]).astype(np.float32)
    # Read from a slightly larger part of the frame than is written: the field may reach across the rectangle's edge.
    low = np.floor(places.min((1, 2))).astype(int) - 1
    low = np.clip(low, 0, np.array(frame.shape[:2]) - 1)
    high = np.clip(np.ceil(places.max((1, 2))).astype(int) + 2, low + 1, frame.shape[:2])
    part = frame[low[0] : high[0], low[1] : high[1]].astype(np.float32)
    places -= low[:, None, None].astype(np.float32)
    warped = np.stack([ndimage.map_coordinates(part[..., c], places, order=1, mode="nearest") for c in range(3)], -1)
    old = frame[rect.slices]
    if grain:
        warped += fade[..., None] * missing_grain(old.astype(np.float32), warped, fade, rng)
    pixels = np.clip(warped + 0.5, 0, 255).astype(np.uint8)
    return Edit(index, rect, np.where(fade[..., None] > 0, pixels, old))
