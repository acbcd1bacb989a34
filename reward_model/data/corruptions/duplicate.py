"""Object or Human Distortion: an elongated part of the thing appears a second time beside itself and moves with it."""

from __future__ import annotations

import numpy as np

from reward_model.data.corruptions.base import About, CorruptionError, Edit, Rect, annotate, clip_rect, settle
from reward_model.data.corruptions.blend import soft_mask
from reward_model.data.corruptions.footage import sample_rect
from reward_model.data.corruptions.matte import thing_matte
from reward_model.data.corruptions.patch_time import Result
from reward_model.data.corruptions.track import Track
from reward_model.schema import AnomalyType, FrameRange

#: The copied part, as shares of the region: more than half its width, nearly its height.
PART = np.array([0.6, 0.9])


def duplicate(track: Track, window: FrameRange, rng: np.random.Generator, about: About) -> Result:
    """Repeats one side of the thing beside itself, leaning outwards like another limb.

    It is a Human Distortion (extra limbs, body splitting) where the caller says that what moves are people.
    """
    side, angle = _plan(track, window, rng)
    frames, edits, before = track.footage.frames, [], None
    for index in window.frames():
        rect, motion, alpha = _placed(track, index, side, angle)
        if before is not None and before.shape == alpha.shape:
            alpha = 0.5 * alpha + 0.5 * before  # a steady outline: the cut must not flicker
        before = alpha
        old = frames[index][rect.slices].astype(np.float32)
        mixed = old + alpha[..., None] * (sample_rect(frames[index], motion, rect) - old)
        pixels = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
        edits.append(Edit(index, rect, np.where(alpha[..., None] > 0.01, pixels, frames[index][rect.slices])))
    out, rects = settle(frames, edits)
    if about.people and track.moving:
        words = "has a part of the body twice, like an extra limb beside itself"
        return out, annotate(AnomalyType.HUMAN, rects, frames.shape, name=about.name, words=words)
    words = "is partly duplicated beside itself"
    return out, annotate(AnomalyType.OBJECT, rects, frames.shape, name=about.name, words=words)


def _plan(track: Track, window: FrameRange, rng: np.random.Generator) -> tuple[int, float]:
    """The side with room for the copy (-1 left, 1 right), and the angle it leans outwards by."""
    width = track.footage.frames.shape[2]
    centres, reach = track.centre[window.start : window.end + 1, 0], 0.8 * float(track.size[0])
    sides = [s for s in (-1, 1) if (centres + s * reach > 0).all() and (centres + s * reach < width).all()]
    if not sides:
        raise CorruptionError("there is no room beside the region for a copy; use a smaller region or another kind")
    side = int(rng.choice(sides))
    return side, -side * float(np.deg2rad(rng.uniform(10, 24)))


def _placed(track: Track, index: int, side: int, angle: float) -> tuple[Rect, np.ndarray, np.ndarray]:
    """Position of the copy in a frame, source of its pixels (3, 3), and their opacity (h, w)."""
    size = PART * track.size
    source = track.centre[index] + np.array([side * 0.28 * track.size[0], 0.0])
    target = source + np.array([side * 0.14 * track.size[0], 0.0])
    pivot = np.array([0.0, -size[1] / 2])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # A pixel p of the copy comes from turn^T (p - target - pivot) + pivot + source: it leans about its upper end.
    motion = np.eye(3)
    motion[:2, :2] = turn.T
    motion[:2, 2] = source + pivot - turn.T @ (target + pivot)
    half = size / 2 * 1.4
    (left, top), (right, bottom) = target - half, target + half
    rect = clip_rect(left, top, right, bottom, track.footage.frames.shape)
    origin, matte = thing_matte(track, index)
    part = matte * soft_mask(origin, source, 1.2 * size, 0.3)
    shifted = motion.copy()
    shifted[:2, 2] -= (origin.left, origin.top)
    # Outside the matte's rectangle its edge would repeat: a rim of zeros ends it.
    part[[0, -1]], part[:, [0, -1]] = 0, 0
    return rect, motion, sample_rect(part[..., None], shifted, rect)[..., 0]
