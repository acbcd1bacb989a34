"""Background behind a thing: from other frames if they show it, else from the picture beside it.

Both fills keep one choice for the whole window, so that the filled place does not flicker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reward_model.data.corruptions.base import CorruptionError, Rect, clip_rect
from reward_model.data.corruptions.blend import rim_error, soft_mask
from reward_model.data.corruptions.footage import Footage, sample_rect
from reward_model.data.corruptions.track import Track
from reward_model.schema import FrameRange

#: Difference at the rim (root mean square) up to which a fill is believed to be the same place, grey levels.
GOOD_RIM, USABLE_RIM = 9.0, 30.0
#: How much larger than the tracked region the filled one may be: its rim must lie on the background.
GROWS = (1.25, 1.6, 2.0)
MAX_SOURCES = 9


@dataclass(frozen=True)
class Plate:
    """A fill for the region in every frame of a window. ``kind``: "time" (seen in other frames) or "beside"."""

    footage: Footage
    kind: str
    picture: np.ndarray | None = None
    rect: Rect | None = None
    reference: int = 0
    shift: tuple[int, int] = (0, 0)

    def read(self, index: int, rect: Rect) -> np.ndarray:
        """Background behind ``rect`` of frame ``index``, (h, w, 3) float32."""
        if self.picture is None or self.rect is None:
            motion = np.eye(3)
            motion[:2, 2] = self.shift
            inside = sample_rect(self.footage.frames[index], motion, rect)
            return inside if inside.shape[:2] == (rect.height, rect.width) else _shifted(self, index, rect)
        motion = self.footage.full_camera(index, self.reference)
        moved = motion.copy()
        moved[:2, 2] -= (self.rect.left, self.rect.top)
        return sample_rect(self.picture, moved, rect)


def make_plate(track: Track, window: FrameRange) -> tuple[Plate, float]:
    """The best fill for the region in ``window``, and how much larger than the region it is.

    Raises:
        CorruptionError: if neither another frame nor the surroundings fit its rim.
    """
    best: tuple[float, Plate | None, float] = (np.inf, None, 1.0)
    for grow in GROWS:
        rim, plate = _time_plate(track, window, grow)
        if rim > GOOD_RIM:
            other_rim, other = _beside(track, window, grow)
            # A guess from beside is worth less than a sight of the place itself.
            rim, plate = (rim, plate) if rim <= 1.5 * other_rim else (other_rim, other)
        if rim < 0.9 * best[0]:
            best = rim, plate, grow
    rim, plate, grow = best
    if plate is None or rim > USABLE_RIM:
        raise CorruptionError(
            "no frame and no surroundings show what is behind the region, so it cannot be removed; "
            "use footage with a plainer background, a smaller region, or another kind"
        )
    return plate, grow


def _time_plate(track: Track, window: FrameRange, grow: float) -> tuple[float, Plate | None]:
    """The median of other frames, each without the place where the thing is in it."""
    footage, middle = track.footage, (window.start + window.end) // 2
    rect = _hull([_carried(track, k, middle, grow) for k in window.frames()], footage.frames.shape)
    others = [round(float(v)) for v in np.linspace(0, len(footage.frames) - 1, 24)]
    places = {k: _carried(track, k, middle, 1.15) for k in others if k not in window}
    chosen = sorted(places, key=lambda k: (round(_overlap(places[k], rect), 1), abs(k - middle)))[:MAX_SOURCES]
    views = []
    for k in chosen:
        view = footage.view(k, middle, rect)
        hole = places[k]
        rows = slice(max(hole.top - rect.top, 0), max(hole.bottom - rect.top, 0))
        view[rows, max(hole.left - rect.left, 0) : max(hole.right - rect.left, 0)] = np.nan
        views.append(view)
    if not views:
        return np.inf, None
    # Where no frame is free of the thing there is nothing to take a median of.
    unseen = np.isnan(np.stack([v[..., 0] for v in views])).all(0)
    if unseen.any():
        return np.inf, None
    picture = np.clip(np.nanmedian(np.stack(views), axis=0) + 0.5, 0, 255).astype(np.uint8)
    plate = Plate(footage, "time", picture, rect, middle)
    samples = sorted({window.start, middle, window.end})
    return float(np.mean([_rim_error(track, k, grow, lambda r, k=k: plate.read(k, r)) for k in samples])), plate  # type: ignore[misc]


def _beside(track: Track, window: FrameRange, grow: float) -> tuple[float, Plate | None]:
    """The same frame, shifted: sideways first, because ground, walls and sky continue that way."""
    footage = track.footage
    width, height = footage.frames.shape[2], footage.frames.shape[1]
    samples = sorted({window.start, (window.start + window.end) // 2, window.end})
    best: tuple[float, Plate | None] = (np.inf, None)
    for ax, ay in (
        (1.1, 0),
        (-1.1, 0),
        (1.5, 0),
        (-1.5, 0),
        (2, 0),
        (-2, 0),
        (1.1, 0.3),
        (-1.1, 0.3),
        (0, 1.1),
        (0, -1.1),
    ):
        shift = round(ax * grow * track.size[0]), round(ay * grow * track.size[1])
        plate = Plate(footage, "beside", shift=shift)
        errors = []
        for k in samples:
            r = track.rect(k, grow)
            if not (
                r.left + shift[0] >= 0
                and r.right + shift[0] <= width
                and r.top + shift[1] >= 0
                and r.bottom + shift[1] <= height
            ):
                errors.append(np.inf)
                break
            errors.append(_rim_error(track, k, grow, lambda q, k=k, p=plate: p.read(k, q)))  # type: ignore[misc]
        error = float(np.mean(errors)) * (1 + 0.3 * abs(ay))
        if error < best[0]:
            best = error, plate
    return best


def _rim_error(track: Track, index: int, grow: float, read: Callable[[Rect], np.ndarray]) -> float:
    """Mean absolute difference between frame and fill on the fading rim of the region."""
    rect = track.rect(index, grow * 1.1)
    mask = soft_mask(rect, track.centre[index], grow * 1.1 * track.size)
    return rim_error(track.footage.frames[index][rect.slices].astype(np.float32), read(rect), mask)


def _carried(track: Track, index: int, reference: int, grow: float) -> Rect:
    """The region of a frame, in the pixels of the reference frame (it may lie outside the picture)."""
    motion = track.footage.full_camera(index, reference)
    half = grow * track.size / 2
    corners = np.array(
        [
            [track.centre[index][0] + a * half[0], track.centre[index][1] + b * half[1], 1]
            for a in (-1, 1)
            for b in (-1, 1)
        ]
    )
    placed = (motion @ corners.T)[:2]
    (left, top), (right, bottom) = np.floor(placed.min(1)).astype(int), np.ceil(placed.max(1)).astype(int)
    return Rect(int(left), int(top), int(right), int(bottom))


def _hull(rects: list[Rect], shape: tuple[int, ...]) -> Rect:
    """The rectangle around all, clipped to the picture."""
    left, top = min(r.left for r in rects), min(r.top for r in rects)
    return clip_rect(left, top, max(r.right for r in rects), max(r.bottom for r in rects), shape)


def _overlap(a: Rect, b: Rect) -> float:
    """Common area as a share of ``b``."""
    wide, high = min(a.right, b.right) - max(a.left, b.left), min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(wide, 0) * max(high, 0) / max(b.width * b.height, 1)


def _shifted(plate: Plate, index: int, rect: Rect) -> np.ndarray:
    """The shifted rectangle where it leaves the picture: edge pixels repeat."""
    frame = plate.footage.frames[index]
    rows = np.clip(np.arange(rect.top, rect.bottom) + plate.shift[1], 0, frame.shape[0] - 1)
    columns = np.clip(np.arange(rect.left, rect.right) + plate.shift[0], 0, frame.shape[1] - 1)
    return frame[rows[:, None], columns[None, :]].astype(np.float32)
