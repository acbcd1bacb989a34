"""Shared parts of all operators: the error, the edit of one frame, and boxes measured from the pixels that changed.

An operator never draws a box by itself. It proposes edits; :func:`settle` puts them into a copy of the video, undoes
what nobody can see, and measures what is left. The annotation is therefore true of the pixels, whatever the operator
meant to do; boxes are tight and cover disjoint regions separately (paper, section B.1.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange

#: Changes below this many grey levels are undone: they are invisible and would make every box larger than what shows.
MIN_CHANGE = 4
#: The strongest twentieth of the edited pixels must change by this many levels, on the window's average frame.
VISIBLE_CHANGE = 16
#: Frame regions closer than this share of the shorter side count as one; disjoint ones get several boxes.
MERGE_GAP = 0.04
MAX_BOXES = 3


class CorruptionError(ValueError):
    """The video is unfit for this anomaly. The message says why and what to try instead."""


@dataclass(frozen=True)
class About:
    """Facts and wishes of the caller: the ``name`` of the affected thing, whether ``people`` are what moves, and
    whether resampled pixels get the ``grain`` of their surroundings.
    """

    name: str = "object"
    people: bool = False
    grain: bool = True


class Rect(NamedTuple):
    """Pixels ``left <= x < right`` and ``top <= y < bottom``."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True)
class Edit:
    """New ``pixels`` (h, w, 3) uint8 for the rectangle ``rect`` of frame ``frame``."""

    frame: int
    rect: Rect
    pixels: np.ndarray


def settle(frames: np.ndarray, edits: Sequence[Edit]) -> tuple[np.ndarray, dict[int, tuple[Rect, ...]]]:
    """A copy of the video with the edits in it, and the tight rectangles of what changed in each frame.

    Raises:
        CorruptionError: the edits change too little to be seen.
    """
    out = frames.copy()
    found: dict[int, tuple[Rect, ...]] = {}
    strengths = []
    for edit in edits:
        old = frames[edit.frame][edit.rect.slices]
        change = np.abs(edit.pixels.astype(np.int16) - old).max(-1)
        keep, boxes = _regions(change, round(MERGE_GAP * min(frames.shape[1:3])))
        strengths.append(float(np.percentile(change[keep], 95)) if keep.any() else 0.0)
        if not boxes:
            continue
        out[edit.frame][edit.rect.slices] = np.where(keep[..., None], edit.pixels, old)
        dx, dy = edit.rect.left, edit.rect.top
        found[edit.frame] = tuple(Rect(b.left + dx, b.top + dy, b.right + dx, b.bottom + dy) for b in boxes)
    if not found or np.mean(strengths) < VISIBLE_CHANGE:
        raise CorruptionError(
            f"the change would hardly show ({np.mean(strengths or [0]):.0f} of 255 grey levels, "
            f"{VISIBLE_CHANGE} needed): the region is too even or moves too little. Try another kind, seed or region"
        )
    return out, found


def annotate(
    kind: AnomalyType,
    rects: dict[int, tuple[Rect, ...]],
    shape: tuple[int, ...],
    *,
    name: str,
    words: str,
    window: FrameRange | None = None,
) -> Anomaly:
    """The record of an anomaly from measured rectangles.

    Args:
        kind: its type (section B.1.2).
        rects: what changed, by frame. Frames of the window that happen to look right take the rectangles of the
            nearest frame that does not: every frame of the range has a box (section B.1.3).
        shape: shape of the video, (T, H, W, 3).
        name: what the affected thing is called.
        words: what is wrong with it, a clause that follows the name.
        window: the frames it lasts, where these are not the changed ones, as for a thing that vanishes; boxes are then
            left as they are.
    """
    height, width = shape[1:3]
    boxes = {n: tuple(Box.from_pixels(*r, width, height) for r in rects[n]) for n in sorted(rects)}
    if window is None:
        window = FrameRange(min(boxes), max(boxes))
        boxes = {n: boxes[min(boxes, key=lambda k, n=n: abs(k - n))] for n in window.frames()}  # type: ignore[misc]
    place = place_words(boxes[min(boxes)])
    return Anomaly(kind, window, boxes, (name,), f"the {name} at the {place} {words}", f"the {name} at the {place}")


def place_words(boxes: Sequence[Box]) -> str:
    """Position of the boxes in words: "upper left", "centre", "lower right", ..."""
    x = (min(b.xmin for b in boxes) + max(b.xmax for b in boxes)) / 2
    y = (min(b.ymin for b in boxes) + max(b.ymax for b in boxes)) / 2
    row = "upper" if y < 370 else "lower" if y > 630 else ""
    column = "left" if x < 370 else "right" if x > 630 else ""
    return f"{row} {column or 'middle'}".strip() if row else column or "centre"


def clip_rect(left: float, top: float, right: float, bottom: float, shape: tuple[int, ...]) -> Rect:
    """The whole pixels a rectangle touches, clipped to frames of ``shape`` (T, H, W, 3)."""
    height, width = shape[1:3]
    return Rect(
        int(np.clip(np.floor(left), 0, width - 1)),
        int(np.clip(np.floor(top), 0, height - 1)),
        int(np.clip(np.ceil(right), 1, width)),
        int(np.clip(np.ceil(bottom), 1, height)),
    )


def _regions(change: np.ndarray, gap: int) -> tuple[np.ndarray, list[Rect]]:
    """Mask of the pixels that keep their change, (h, w) bool, and the tight rectangles around them."""
    changed = change >= MIN_CHANGE
    height, width = changed.shape
    step = max(1, gap // 2)
    coarse = np.zeros((-(-height // step) * step, -(-width // step) * step), bool)
    coarse[:height, :width] = changed
    cells = coarse.reshape(coarse.shape[0] // step, step, coarse.shape[1] // step, step).any((1, 3))
    labels, count = ndimage.label(cells, np.ones((3, 3)))
    fine = labels.repeat(step, 0).repeat(step, 1)[:height, :width] * changed
    sizes = np.bincount(fine.ravel(), minlength=count + 1)
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= max(4, 0.02 * sizes.sum()))
    keep = np.isin(np.arange(count + 1), kept)[fine] & changed
    found = ndimage.find_objects(np.where(keep, fine, 0))
    boxes = [Rect(int(c.start), int(r.start), int(c.stop), int(r.stop)) for r, c in filter(None, found)]
    return keep, _merge(boxes, gap)


def _merge(boxes: list[Rect], gap: int) -> list[Rect]:
    """Joins rectangles that overlap or nearly touch, and the closest ones until few are left."""
    boxes = list(boxes)
    while len(boxes) > 1:
        pairs = [(_distance(a, b), i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j]
        distance, i, j = min(pairs)
        if distance > gap and len(boxes) <= MAX_BOXES:
            break
        a, b = boxes[i], boxes.pop(j)
        boxes[i] = Rect(min(a.left, b.left), min(a.top, b.top), max(a.right, b.right), max(a.bottom, b.bottom))
    return sorted(boxes)


def _distance(a: Rect, b: Rect) -> int:
    across = max(a.left, b.left) - min(a.right, b.right)
    down = max(a.top, b.top) - min(a.bottom, b.bottom)
    return max(across, down)
