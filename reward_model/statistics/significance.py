"""Paired tests of two judges on the same videos. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, permutation_test

from reward_model.statistics.intervals import Interval, bootstrap


class McNemar(NamedTuple):
    """Videos that only one of the two got right, and the exact two-sided p-value of their being equally many."""

    only_first: int
    only_second: int
    p_value: float


class Difference(NamedTuple):
    """First minus second, and its 95 % interval."""

    value: float
    interval: Interval


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's exact test: among the videos on which the two disagree, is either right more often than by a coin?

    Args:
        first, second: (N,) booleans, whether each judge was right about each video.

    Example:
        >>> mcnemar([True] * 6 + [False], [False] * 6 + [True])
        McNemar(only_first=6, only_second=1, p_value=0.125)
    """
    a, b = _pair(first, second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    num = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, num, 0.5).pvalue) if num else 1.0)


def paired_bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    first: ArrayLike,
    second: ArrayLike,
    *,
    strata: ArrayLike | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Difference of a statistic between two judges, both on the same redrawn videos.

    Args:
        statistic: maps (n,) values and (n,) indices of the videos they belong to, to a number.
        first, second: (N,) values of each judge.
        strata: as in :func:`~reward_model.evaluation.bootstrap`.

    Example:
        >>> mean = lambda values, videos: float(values.mean())
        >>> paired_bootstrap(mean, [1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
        Difference(value=0.5, interval=Interval(low=0.5, high=0.5))
    """
    a, b = _pair(first, second, float)

    def difference(k: np.ndarray) -> float:
        return statistic(a[k], k) - statistic(b[k], k)

    found = bootstrap(difference, len(a), strata=strata, num_resamples=num_resamples, seed=seed)
    return Difference(difference(np.arange(len(a))), found)


def paired_permutation(first: ArrayLike, second: ArrayLike, *, num_resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference under random exchange of the two judges, video by video; exact where
    there are few enough exchanges.

    Example:
        >>> paired_permutation([1, 1, 1, 1], [0, 0, 0, 0])
        0.125
    """
    a, b = _pair(first, second, float)
    # Videos on which both have the same value change nothing under exchange.
    changed = (a - b)[a != b]
    if not len(changed):
        return 1.0
    if len(changed) == 1:
        return 1.0  # both signs are equally far from zero
    found = permutation_test(
        (changed,),
        lambda d, axis=-1: d.mean(axis=axis),
        permutation_type="samples",
        n_resamples=num_resamples,
        batch=1000,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _pair(first: ArrayLike, second: ArrayLike, kind: type) -> tuple[np.ndarray, np.ndarray]:
    a: np.ndarray = np.asarray(first, kind)
    b: np.ndarray = np.asarray(second, kind)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(f"paired tests need the same videos of both, got shapes {a.shape} and {b.shape}")
    return a, b
