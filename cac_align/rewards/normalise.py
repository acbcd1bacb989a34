"""Rewards of different scales and spreads brought together: pure functions over scores in which None is unknown."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

Scores = Sequence[float | None]

#: Groups whose standard deviation is smaller count as equal: what is left is rounding, not preference.
MIN_SPREAD = 1e-6


def weighted_mean(values: Scores, weights: Sequence[float]) -> float | None:
    """Mean of the known values, with weights renormalised to sum to 1; None if no weighted value is known.

    >>> weighted_mean([1.0, 0.0, None], [3, 1, 4])
    0.75
    """
    known = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None]
    total = sum(w for _, w in known)
    return sum(v * w for v, w in known) / total if total > 0 else None


def group_zscores(scores: Scores, groups: Sequence[Hashable]) -> list[float | None]:
    """Each score minus the mean of its group, over the group's standard deviation (with divisor n).

    Args:
        scores: one per video; None stays None and counts for nothing.
        groups: which group each video belongs to, such as its prompt.

    Returns:
        Mean 0 and variance 1 in every group; all 0 in a group of equal scores.

    >>> group_zscores([0.25, 0.75, None, 0.9], ["a", "a", "a", "b"])
    [-1.0, 1.0, None, 0.0]
    """
    members: dict[Hashable, list[float]] = {}
    for score, group in zip(scores, groups, strict=True):
        if score is not None:
            members.setdefault(group, []).append(score)
    moments = {group: _mean_and_spread(values) for group, values in members.items()}
    return [
        None if score is None else _standardised(score, *moments[group])
        for score, group in zip(scores, groups, strict=True)
    ]


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


def _standardised(score: float, mean: float, spread: float) -> float:
    return 0.0 if spread < MIN_SPREAD else (score - mean) / spread


def per_reward_scores(
    parts: Sequence[Scores], weights: Sequence[float], groups: Sequence[Hashable]
) -> list[float | None]:
    """Every reward standardised in its groups, then averaged, so that each weighs by its weight and not by its spread
    (GDPO, arXiv 2601.05242, without the whitening of the whole batch that ends it there). With one reward the same as
    :func:`group_zscores`.

    Args:
        parts: the scores of each reward, in any scale.
        weights: weights of the rewards.
        groups: groups of the videos.

    >>> per_reward_scores([[0, 0, 1, 1], [0, 0.1, 0, 0.1]], [1, 1], "aaaa")
    [-1.0, 0.0, 0.0, 1.0]
    """
    return mean_of_parts([group_zscores(scores, groups) for scores in parts], weights)


def mean_of_parts(parts: Sequence[Scores], weights: Sequence[float]) -> list[float | None]:
    """:func:`weighted_mean` of the parts, video by video."""
    return [weighted_mean(values, weights) for values in zip(*parts, strict=True)]


def normal_cdf(z: float) -> float:
    """The part of a normal distribution below ``z``: rises from 0 to 1, 0.5 at 0.

    >>> round(normal_cdf(1.0), 4)
    0.8413
    """
    return 0.5 * math.erfc(-z / math.sqrt(2))
