"""Accuracy against the share of videos that is kept when the doubtful ones are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reward_model.statistics.intervals import Interval, wilson


@dataclass(frozen=True)
class Kept:
    """Some of the videos.

    Attributes:
        share: share of all videos that is kept, 0-1.
        accuracy, interval: of the kept ones; None of none.
        errors_left_out: share of all wrong answers that are not among them; None where nothing is wrong.
    """

    share: float
    accuracy: float | None
    interval: Interval | None
    errors_left_out: float | None


def kept(correct: Sequence[bool], keep: Sequence[bool]) -> Kept:
    """The answers that remain of all.

    >>> found = kept([True, False, True, False], [True, False, True, True])
    >>> found.share, round(found.accuracy, 3), found.errors_left_out
    (0.75, 0.667, 0.5)
    """
    if len(correct) != len(keep):
        raise ValueError(f"{len(correct)} answers and {len(keep)} choices; give one each")
    left = [c for c, k in zip(correct, keep, strict=True) if k]
    wrong = len(correct) - sum(correct)
    return Kept(
        share=len(left) / len(correct) if correct else 0.0,
        accuracy=sum(left) / len(left) if left else None,
        interval=wilson(sum(left), len(left)) if left else None,
        errors_left_out=1 - (len(left) - sum(left)) / wrong if wrong else None,
    )


def coverage(correct: Sequence[bool], doubts: Sequence[float], shares: Sequence[float]) -> list[Kept]:
    """The answers with the least doubt, for each share to be kept; equal doubts stay together, so more may be kept.

    Args:
        doubts: one per answer, any scale, higher is more doubtful.
        shares: in (0, 1].

    >>> [k.accuracy for k in coverage([True, True, False, True], [0.1, 0.2, 0.9, 0.3], [1.0, 0.75, 0.5])]
    [0.75, 1.0, 1.0]
    """
    ordered = sorted(doubts)
    found = []
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"share={share!r} must be above 0 and at most 1")
        limit = ordered[max(math.ceil(share * len(ordered) - 1e-9), 1) - 1] if ordered else 0.0
        found.append(kept(correct, [doubt <= limit for doubt in doubts]))
    return found
