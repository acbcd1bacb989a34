"""Validity of a referee: its opinions of claims whose grades are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_model.evaluation.metrics.calibration import calibration_error
from reward_model.evidence.practice import Practice
from reward_model.evidence.referee import Opinion
from reward_model.evidence.score import RELEVANT
from reward_model.statistics.intervals import bootstrap, wilson
from reward_model.statistics.table import Estimate


@dataclass(frozen=True)
class Validity:
    """Figures of a referee, with 95 % intervals.

    Attributes:
        num: claims that it graded; ``unanswered`` and ``garbled`` count the others, which say nothing here, and those
            that count as 0.
        relevance_accuracy: share of the claims that it rightly calls relevant or not.
        localisation_rank: Spearman's correlation of its localisation with the IoU of the box, over relevant claims.
        calibration: expected calibration error of its relevance as a probability.
    """

    num: int
    unanswered: int
    garbled: int
    relevance_accuracy: Estimate
    localisation_rank: Estimate
    calibration: Estimate


def validity(
    practice: Sequence[Practice], opinions: Sequence[Opinion], *, num_resamples: int = 1000, seed: int = 0
) -> Validity:
    """The figures of a referee.

    Raises:
        ValueError: if there are not as many opinions as claims, or none was given.
    """
    if len(practice) != len(opinions):
        raise ValueError(f"there are {len(opinions)} opinions of {len(practice)} claims")
    pairs = [(p, o) for p, o in zip(practice, opinions, strict=True) if not o.error]
    if not pairs:
        reason = next((o.error for o in opinions), "there are no claims")
        raise ValueError(f"the referee graded none of {len(opinions)} claims: {reason}")
    relevant = np.array([p.relevance > 0 for p, _ in pairs])
    stated = np.array([o.relevance for _, o in pairs])
    right = (stated >= RELEVANT) == relevant
    located = np.array([(o.localisation, p.overlap) for p, o in pairs if p.relevance > 0 and p.overlap is not None])
    settings = {"num_resamples": num_resamples, "seed": seed}

    def error(chosen: np.ndarray) -> float:
        return calibration_error(stated[chosen], relevant[chosen])

    everything = np.arange(len(pairs))
    return Validity(
        len(pairs),
        len(opinions) - len(pairs),
        sum(o.garbled for _, o in pairs),
        Estimate(float(right.mean()), wilson(int(right.sum()), len(right))),
        _rank(located, settings),
        Estimate(error(everything), bootstrap(error, len(pairs), **settings)),
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation, ties ranked at their mean; 0 where one side is constant.

    Example:
        >>> rank_correlation(np.array([1, 2, 3]), np.array([10, 30, 20]))
        0.5
    """
    from scipy.stats import rankdata

    first, second = rankdata(a), rankdata(b)
    if len(first) < 2 or first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _rank(located: np.ndarray, settings: dict[str, int]) -> Estimate:
    """Of pairs (localisation, IoU), (N, 2); nothing of fewer than two."""
    if len(located) < 2:
        return Estimate(None)

    def rank(chosen: np.ndarray) -> float:
        return rank_correlation(located[chosen, 0], located[chosen, 1])

    num = len(located)
    return Estimate(
        rank(np.arange(num)), bootstrap(rank, num, num_resamples=settings["num_resamples"], seed=settings["seed"])
    )
