"""Bounds of a cascade: beyond them a verdict that was read before any reasoning stands, at a stated error.

One thing can go wrong there: the early verdict is false where the full judge would have been right. Such a video is
*harmed*. The share of harmed videos only falls as a bound moves outwards, so the bound may be chosen on the same videos
it is tested on, without a correction for the choice (risk-controlling prediction sets, arXiv 2101.02703): it is the
innermost at which Clopper and Pearson's exact upper limit of that share is within the error.

Values are log-odds of normal. A video is called normal above one bound and abnormal below the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np


class CascadeCase(NamedTuple):
    """A labelled video: the log-odds of normal before reasoning, whether it is normal, and whether the full judge calls
    it normal; None: that could not judge it.
    """

    log_odds: float
    normal: bool
    judged_normal: bool | None


@dataclass(frozen=True)
class CascadeBounds:
    """Bounds that a calibration chose, and on what ground.

    Attributes:
        normal_above, abnormal_below: log-odds; None: no bound keeps the error, that side is always reasoned about.
        error: most videos of all, as a share, that may be harmed.
        confidence: probability with which the calibration keeps that promise.
        num_videos: videos it was made on.
        num_harmed: of those, the ones that these bounds harm.
        num_early: of those, the ones decided before reasoning.
    """

    normal_above: float | None
    abnormal_below: float | None
    error: float
    confidence: float
    num_videos: int
    num_harmed: int
    num_early: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def share_limit(count: int, num: int, confidence: float = 0.95) -> float:
    """Clopper and Pearson's upper limit of a share: the largest at which ``count`` or fewer of ``num`` still have a
    probability of ``1 - confidence``.

    Example:
        >>> round(share_limit(0, 1000), 6), round(share_limit(2, 1000), 6)
        (0.002991, 0.006282)
    """
    from scipy.stats import beta

    if not 0 <= count <= num or num < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"share_limit needs 0 <= count <= num, num >= 1 and a confidence in (0, 1), got {count} of {num} at "
            f"{confidence}"
        )
    return 1.0 if count == num else float(beta.ppf(confidence, count + 1, num - count))


def most_harmed(num: int, error: float, confidence: float = 0.95) -> int | None:
    """The most harmed videos among ``num`` that leave the upper limit of their share within ``error``; None: there are
    too few videos to promise it at all.

    Example:
        >>> most_harmed(1000, 0.005), most_harmed(500, 0.005)
        (1, None)
    """
    allowed = None
    for count in range(num):
        if share_limit(count, num, confidence) > error:
            break
        allowed = count
    return allowed


def fewest_videos(error: float, confidence: float = 0.95) -> int:
    """Fewest videos on which an error can be promised: with none harmed, ``(1 - error)^n <= 1 - confidence``.

    Example:
        >>> fewest_videos(0.005), fewest_videos(0.0025, 0.975)
        (598, 1474)
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - error))


def calibrate_cascade(
    cases: Sequence[CascadeCase], *, error: float = 0.005, confidence: float = 0.95, both_sides: bool = False
) -> CascadeBounds:
    """The innermost bounds at which at most a share ``error`` of all videos is harmed, with this confidence.

    Args:
        cases: labelled videos the judge was not trained on, drawn as those it will judge.
        error: in (0, 1); with ``both_sides`` each side gets half of it, and half of the remaining doubt.
        confidence: in (0, 1).
        both_sides: a bound for abnormal as well; otherwise only that for normal.

    Raises:
        ValueError: if a number is out of range, or there are too few videos to promise the error.

    Example:
        >>> cases = [CascadeCase(k / 100, normal=k >= 400, judged_normal=k >= 300) for k in range(1000)]
        >>> calibrate_cascade(cases).normal_above
        2.98
    """
    for name, value in (("error", error), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value} must lie between 0 and 1, exclusive")
    share, sure = (error / 2, 1 - (1 - confidence) / 2) if both_sides else (error, confidence)
    allowed = most_harmed(len(cases), share, sure) if cases else None
    if allowed is None:
        raise ValueError(
            f"{len(cases)} videos are too few to promise an error of {error:g} with confidence {confidence:g}: it "
            f"takes {fewest_videos(share, sure):,}; calibrate on more, or allow a larger error"
        )
    values = np.array([case.log_odds for case in cases])
    harmed_high, harmed_low = _harmed(cases)
    above = _innermost(values, harmed_high, allowed)
    below = _innermost(-values, harmed_low, allowed) if both_sides else None
    low = None if below is None else -below
    if above is not None and low is not None and low >= above:  # neither side limits the other: they meet in between
        above = low = (above + low) / 2
    early_high = values > above if above is not None else np.zeros(len(values), bool)
    early_low = values < low if low is not None else np.zeros(len(values), bool)
    return CascadeBounds(
        normal_above=above,
        abnormal_below=low,
        error=error,
        confidence=confidence,
        num_videos=len(cases),
        num_harmed=int((early_high & harmed_high).sum() + (early_low & harmed_low).sum()),
        num_early=int((early_high | early_low).sum()),
    )


def _harmed(cases: Sequence[CascadeCase]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) which videos an early "normal" harms, and which an early "abnormal": those the full judge has right."""
    high = [case.judged_normal is False and not case.normal for case in cases]
    low = [case.judged_normal is True and case.normal for case in cases]
    return np.array(high), np.array(low)


def _innermost(values: np.ndarray, harmed: np.ndarray, allowed: int) -> float | None:
    """The lowest bound that at most ``allowed`` harmed values lie above; None where no value lies above it."""
    worst = np.sort(values[harmed])[::-1]
    if len(worst) <= allowed:
        return float(values.min()) - 1.0
    bound = float(worst[allowed])  # of equal values all lie at the bound, none above it
    return bound if (values > bound).any() else None


class CascadePoint(NamedTuple):
    """A bound for normal on the curve of a calibration: the share of videos decided early, and of those harmed."""

    normal_above: float
    early: float
    harmed: float
    limit: float


def cascade_curve(cases: Sequence[CascadeCase], *, confidence: float = 0.95, points: int = 50) -> list[CascadePoint]:
    """Shares of videos decided early and harmed, for bounds at evenly spaced ranks of the values; the curve that a
    calibration chooses on.

    Args:
        cases: as of :func:`calibrate_cascade`.
        confidence: that of the upper limit beside the measured share.
        points: most points.
    """
    values = np.array([case.log_odds for case in cases])
    harmed = np.array([case.judged_normal is False and not case.normal for case in cases])
    bounds = np.unique(np.quantile(values, np.linspace(0, 1, points), method="lower"))
    num = len(cases)
    found = []
    for bound in bounds:
        early = values > bound
        count = int((early & harmed).sum())
        found.append(CascadePoint(float(bound), float(early.mean()), count / num, share_limit(count, num, confidence)))
    return found
