"""Test that a place moves by itself: the motion of small patches in it and around it, without the camera's motion.

One affine motion cannot follow a camera that walks past a wall: the wall then seems to move. But what lies around a
piece of wall moves like it, while what lies around a thing that moves by itself stays where the camera leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reward_model.data.corruptions.base import CorruptionError
from reward_model.data.corruptions.camera import standing, warp_grey
from reward_model.data.corruptions.footage import Footage
from reward_model.data.corruptions.matching import bell, match
from reward_model.data.corruptions.track import Track
from reward_model.schema import FrameRange

Area = tuple[float, float, float, float]
#: Motion is measured against an earlier and a later frame at these distances.
LAGS_S = (0.15, 0.3)
#: Least own motion in the longer lag, as a share of the picture's longer side: below it a thing hardly moves.
MIN_OWN = 0.004
#: The surroundings of what moves by itself move by at most this share of its own motion, or by less than this share of
#: the picture's longer side, which is the error of the measurement.
MAX_AROUND, MAX_ERROR = 0.25, 0.0025
#: Grey levels a patch must vary by, and the correlation it must be found again with, to say anything.
MIN_SPREAD, MIN_MATCH = 3.0, 0.6
#: Patches around a thing that must be found again, and be half of them at least, before they prove anything.
MIN_AROUND = 5
#: By how much the correlation must rise for a patch to have moved: a soft one fits nearly as well beside its place.
MIN_GAIN = 0.06


class OwnMotion(NamedTuple):
    """Pixels of the small copy: how far the place itself moves in the longer lag (``own``), how far its surroundings
    do (``around``), the latter as a ``share`` of the former over both lags, and the picture's longer ``side``.
    """

    own: float
    around: float
    share: float
    side: int

    @property
    def passed(self) -> bool:
        """True if the place moves with its surroundings: the camera passes it."""
        return self.share > MAX_AROUND and self.around > MAX_ERROR * self.side

    @property
    def enough(self) -> bool:
        """It moves so much that a person would say it moves."""
        return self.own >= MIN_OWN * self.side

    @property
    def problem(self) -> str:
        """The problem if :attr:`passed` or not :attr:`enough`: words that follow the name of a place."""
        if self.passed:
            return "moves only as its surroundings do, like all that a moving camera passes"
        way = f"{self.own / self.side:.1%} of the picture in {LAGS_S[-1]:g} s, {MIN_OWN:.1%} needed"
        return f"hardly moves by itself ({way})"


def own_motion(footage: Footage, index: int, box: Area) -> OwnMotion:
    """Motion of the ``box`` (xmin, ymin, xmax, ymax; pixels of the small copy) in a frame, and of its surroundings."""
    key = (index, box)
    if key not in footage.own_motions:
        footage.own_motions[key] = _measure(footage, index, box)
    return OwnMotion(*footage.own_motions[key])


def check_own_motion(track: Track, window: FrameRange) -> None:
    """Checks that the region moves by itself in the window: at its start, middle and end, taken together.

    Raises:
        CorruptionError: if it moves with its surroundings, or hardly.
    """
    motions = []
    for index in sorted({window.start, (window.start + window.end) // 2, window.end}):
        half, middle = track.size / 2 * track.footage.scale, track.centre[index] * track.footage.scale
        (left, top), (right, bottom) = middle - half, middle + half
        motions.append(own_motion(track.footage, index, (float(left), float(top), float(right), float(bottom))))
    own, around, share = (float(np.mean([m[k] for m in motions])) for k in range(3))
    motion = OwnMotion(own, around, share, motions[0].side)
    if motion.passed or not motion.enough:
        raise CorruptionError(f"the region {motion.problem}; use footage with a steadier camera, or another kind")


def _measure(footage: Footage, index: int, box: Area) -> tuple[float, float, float, int]:
    small = footage.small
    side = max(small.shape[1:])
    inside, outside = _spots(box, _patch_side(side))
    shares, own, around, proved = [], [0.0], [0.0], False
    for seconds in LAGS_S:
        lag = max(1, round(seconds * footage.fps))
        pairs = [k for k in (index - lag, index + lag) if 0 <= k < len(small)]
        found = [_pair(footage, index, k, inside, outside) for k in pairs]
        shares += [(ring or 0.0) / max(thing, 0.5) for thing, ring in found]
        proved |= _proved(small, index, [(k, ring) for k, (_, ring) in zip(pairs, found, strict=True)])
        if found:
            own, around = [thing for thing, _ in found], [ring or 0.0 for _, ring in found]
    if not proved and _at_edge(box, small.shape[2]):
        # Nothing around it says otherwise, and walls reach the edge of the picture: it moves as they do.
        return float(np.mean(own)), float(np.mean(own)), 1.0, side
    return float(np.mean(own)), float(np.mean(around)), float(np.mean(shares or [0.0])), side


def _proved(small: np.ndarray, index: int, rings: Sequence[tuple[int, float | None]]) -> bool:
    """True if a frame's surroundings are known to move or stand; a camera that stands still passes nothing."""
    return any(ring is not None or standing(small[index], small[k]) for k, ring in rings)


def _at_edge(box: Area, width: int) -> bool:
    """True if a box reaches the left, right or upper edge of the picture. People are often cut by the lower one."""
    return box[0] < 1 or box[1] < 1 or box[2] > width - 1


def _pair(
    footage: Footage, index: int, other: int, inside: np.ndarray, outside: np.ndarray
) -> tuple[float, float | None]:
    """Median motion of the patches inside and around, between two frames; None if the latter prove nothing."""
    here, there = footage.small[index], warp_grey(footage.small[other], footage.camera(index, other))
    reach = max(4, round(0.05 * max(here.shape)))
    # A patch of the thing that cannot be found again has gone or turned; one around it may just have been covered.
    thing = [reach if v is None else v for v in _motions(here, there, inside, reach)]
    ring = _motions(here, there, outside, reach)
    seen = [v for v in ring if v is not None]
    proof = len(seen) >= max(MIN_AROUND, len(ring) / 2)
    return float(np.median(thing or [0.0])), float(np.median(seen)) if proof else None


def _motions(here: np.ndarray, there: np.ndarray, spots: np.ndarray, reach: int) -> list[float | None]:
    """Motion of each patch; None if it is not found again. Even patches say nothing and are left out."""
    size = _patch_side(max(here.shape))
    weight = bell((size, size))
    found: list[float | None] = []
    corners = np.round(spots - size / 2).astype(int)
    within = ((corners >= 0) & (corners <= np.array(here.shape[::-1]) - size)).all(1)
    for corner in corners[within]:
        patch = here[corner[1] : corner[1] + size, corner[0] : corner[0] + size]
        if patch.std() < MIN_SPREAD:
            continue
        best = match(there, patch, weight, corner, reach)
        if best.guessed >= best.score - MIN_GAIN:
            found.append(0.0)
        else:
            found.append(float(np.hypot(*(best.corner - corner))) if best.score >= MIN_MATCH else None)
    return found


def _patch_side(side: int) -> int:
    return max(5, round(0.057 * side))


def _spots(box: Area, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles (n, 2) of the patches in a box, and of those in two rings around it."""
    low, high = np.array(box[:2]), np.array(box[2:])
    steps = np.linspace(0.2, 0.8, 5)
    inside = np.array([low + (high - low) * (x, y) for y in steps for x in steps])
    rings = []
    for gap in (0.5 * size + 2, 1.4 * size):
        x, y = (np.linspace(low[k] - gap, high[k] + gap, 6) for k in (0, 1))
        rings += [(v, w) for v in x for w in (y[0], y[-1])] + [(v, w) for w in y[1:-1] for v in (x[0], x[-1])]
    return inside, np.array(rings)
