"""Smoothing of a track across its ticks, coordinate by coordinate; nothing is smoothed across a break.

A track is an array (n, 4) of ``u = (cx, cy, log w, log h)``, one row a tick: centre and size move independently, and a
size smoothed as a logarithm stays above zero. With z observed, D the second differences and W the weights of the ticks,

    min_x  sum_k omega_k (x_k - z_k)^2 + lambda sum_k (x_(k+1) - 2 x_k + x_(k-1))^2   =>   x = (W + lambda D'D)^-1 W z

(Whittaker 1923). A tick without a box has the weight 0 and is filled in. Huber weights keep a single wrong box from
pulling its neighbours. Teleports, flicker and sudden disappearance are anomalies themselves: smoothing that levels them
would hide what the judge is asked about, hence the breaks.

That tracks are smoothed across seconds is published (arXiv 2606.29023, abstract); how, is not: all of this is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np

from reward_model.grounding import spatial_iou
from reward_model.schema import BOX_SCALE, Box

#: Turning point of Huber's weight in standard deviations: 95 % efficient where the noise is normal.
HUBER = 1.345
#: A jump of the centre by more than this share of the frame's diagonal, between boxes that do not touch, is a break.
BREAK_SHARE = 0.25
_DIAGONAL = math.hypot(BOX_SCALE, BOX_SCALE)


def to_track(boxes: Sequence[Box | None]) -> np.ndarray:
    """(n, 4) of centre and log size; NaN where there is no box.

    Example:
        >>> to_track([Box(450, 450, 550, 550)]).round(3).tolist()
        [[500.0, 500.0, 4.605, 4.605]]
    """
    rows = [
        (math.nan,) * 4
        if b is None
        else ((b.xmin + b.xmax) / 2, (b.ymin + b.ymax) / 2, math.log(b.xmax - b.xmin), math.log(b.ymax - b.ymin))
        for b in boxes
    ]
    return np.array(rows, float).reshape(-1, 4)


def to_box(row: np.ndarray) -> Box:
    """The box of one row of a track on the 0-1000 grid: clipped, rounded, never empty."""
    cx, cy, width, height = row[0], row[1], math.exp(min(row[2], 10.0)), math.exp(min(row[3], 10.0))
    x0, y0, x1, y1 = (
        round(min(max(float(v), 0.0), BOX_SCALE))
        for v in (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    )
    x0, y0 = min(x0, BOX_SCALE - 1), min(y0, BOX_SCALE - 1)
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def smooth(values: np.ndarray, weights: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """The minimiser above for one coordinate.

    Args:
        values: (n,), anything where the weight is 0.
        weights: (n,) omega, at least 0; with one observed value all are that one.
        strength: lambda, at least 0. 0 leaves what is observed and interpolates what is not.

    Example:
        >>> smooth(np.array([0.0, 0, 10, 0, 0]), np.ones(5)).round(4).tolist()
        [0.4167, 2.5, 4.1667, 2.5, 0.4167]
    """
    values, weights = np.asarray(values, float), np.asarray(weights, float)
    seen = np.flatnonzero(weights > 0)
    if len(seen) == 0:
        raise ValueError("a track needs at least one box")
    at = np.arange(len(values))
    if len(seen) <= 2 or strength == 0:  # a line, which nothing bends
        return np.interp(at, seen, values[seen])
    known = np.where(weights > 0, values, 0.0)
    second = np.diff(np.eye(len(values)), 2, axis=0)
    return np.linalg.solve(np.diag(weights) + strength * second.T @ second, weights * known)


def smooth_robustly(values: np.ndarray, seen: np.ndarray, strength: float = 1.0, *, rounds: int = 2) -> np.ndarray:
    """:func:`smooth` with Huber's weights, found in ``rounds`` from the residuals of the round before.

    Args:
        values: (n,) one coordinate.
        seen: (n,) whether the tick has a box.
    """
    weights = seen.astype(float)
    for _ in range(rounds):
        off = np.abs(values - smooth(values, weights, strength))
        scale = 1.4826 * float(np.median(off[seen]))
        if scale <= 0:
            break
        weights = np.where(seen, np.minimum(1.0, HUBER * scale / np.maximum(off, 1e-12)), 0.0)
    return smooth(values, weights, strength)


def breaks(boxes: Sequence[Box | None], cuts: Collection[int] = ()) -> list[int]:
    """Ticks that begin a new segment: the box of the tick before the jump and that after it do not touch and lie more
    than :data:`BREAK_SHARE` of the diagonal apart, or the model has flagged the tick (``cuts``).

    Example:
        >>> breaks([Box(0, 0, 100, 100), None, Box(800, 800, 900, 900)])
        [2]
    """
    seen = [(k, box) for k, box in enumerate(boxes) if box is not None]
    return [k for (j, a), (k, b) in pairwise(seen) if _jumps(a, b) or any(j < cut <= k for cut in cuts)]


def _jumps(a: Box, b: Box) -> bool:
    shift = math.hypot(a.xmin + a.xmax - b.xmin - b.xmax, a.ymin + a.ymax - b.ymin - b.ymax) / 2
    return shift > BREAK_SHARE * _DIAGONAL and spatial_iou(a, b) == 0


def strength_of(values: np.ndarray) -> float:
    """lambda from a complete coordinate itself, at most 1: the variance of its noise over that of the motion's second
    differences, which makes :func:`smooth` the likeliest track. 0 below five ticks, where nothing tells noise from a
    bend.

    Fourth differences of a smooth motion are small and those of noise of variance v have 70 v; second differences of
    noise have 6 v. A fixed lambda of 1 cuts the corners of a thing that turns within ten ticks. Medians, so that
    single wrong boxes do not count as motion.
    """
    if len(values) < 5:
        return 0.0
    noise = _variance(np.diff(values, 4)) / 70
    motion = max(_variance(np.diff(values, 2)) - 6 * noise, 1e-12)
    return min(1.0, noise / motion)


def _variance(values: np.ndarray) -> float:
    return float(np.median(values**2) / 0.4549)  # the median of a chi-squared variable of one degree of freedom


def whittaker(track: np.ndarray) -> np.ndarray:
    """The smoother above with Huber's weights, each coordinate as strongly as :func:`strength_of` finds."""
    seen, full = ~np.isnan(track[:, 0]), unsmoothed(track)
    return np.stack([smooth_robustly(z, seen, strength_of(f)) for z, f in zip(track.T, full.T, strict=True)], axis=1)


def whittaker_fixed(track: np.ndarray) -> np.ndarray:
    """The same with lambda = 1 throughout."""
    seen = ~np.isnan(track[:, 0])
    return np.stack([smooth_robustly(column, seen) for column in track.T], axis=1)


def unsmoothed(track: np.ndarray) -> np.ndarray:
    """The track as it is, with a line through ticks without a box."""
    seen = ~np.isnan(track[:, 0])
    return np.stack([smooth(column, seen, 0.0) for column in track.T], axis=1)


def moving_average(track: np.ndarray) -> np.ndarray:
    """The mean of each tick and its neighbours, after missing ones are filled in; of the ends, of two."""
    full = unsmoothed(track)
    padded = np.concatenate([full[:1] * np.nan, full, full[:1] * np.nan])
    return np.nanmean(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def kalman(track: np.ndarray) -> np.ndarray:
    """Rauch-Tung-Striebel smoother of a thing whose velocity changes at random: the noise of a box and of a change of
    velocity are equal, which makes it :func:`smooth` with lambda = 1 and a vague start.
    """
    return np.stack([_kalman(column) for column in track.T], axis=1)


def _kalman(values: np.ndarray) -> np.ndarray:
    # State (x_k, x_(k-1)): x_(k+1) = 2 x_k - x_(k-1) + noise of variance 1; observed x_k + noise of variance 1.
    step, noise = np.array([[2.0, -1.0], [1.0, 0.0]]), np.diag([1.0, 0.0])
    seen = ~np.isnan(values)
    start = values[seen][0]
    mean, spread = np.array([start, start]), np.eye(2) * 1e7
    means, spreads, ahead = [], [], []
    for value, known in zip(values, seen, strict=True):
        if known:
            gain = spread[:, 0] / (spread[0, 0] + 1)
            mean, spread = mean + gain * (value - mean[0]), spread - np.outer(gain, spread[0])
        means.append(mean)
        spreads.append(spread)
        mean, spread = step @ mean, step @ spread @ step.T + noise
        ahead.append((mean, spread))
    out = [means[-1]]
    for k in range(len(values) - 2, -1, -1):
        back = spreads[k] @ step.T @ np.linalg.inv(ahead[k][1])
        out.append(means[k] + back @ (out[-1] - ahead[k][0]))
    return np.array([m[0] for m in out[::-1]])


#: Smoothers by their names in ``judge.json``.
SMOOTHERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": unsmoothed,
    "whittaker": whittaker,
    "whittaker_fixed": whittaker_fixed,
    "moving_average": moving_average,
    "kalman": kalman,
}


def smooth_track(boxes: Sequence[Box | None], smoother: str = "whittaker", cuts: Collection[int] = ()) -> np.ndarray:
    """(n, 4): the track with every tick filled in and smoothed within its segments.

    Args:
        boxes: one a tick, None where there is none; at least one is a box.
        smoother: a name of :data:`SMOOTHERS`. Segments with up to two boxes are left as they are.
        cuts: ticks before which the model says that the thing jumps.
    """
    track = to_track(boxes)
    edges = [0, *breaks(boxes, cuts), len(boxes)]
    parts = []
    for start, end in pairwise(edges):
        part = track[start:end]
        seen = ~np.isnan(part[:, 0])
        parts.append((SMOOTHERS[smoother] if seen.sum() > 2 else unsmoothed)(part))
    return np.concatenate(parts)
