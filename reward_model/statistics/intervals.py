"""Confidence intervals: Wilson's for a share and the bootstrap for anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


def wilson(successes: int, num: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval of a share; it is never empty at 0 or 1 and stays inside [0, 1].

    Example:
        >>> low, high = wilson(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4902, 0.9433)
    """
    if not 0 <= successes <= num or num < 1:
        raise ValueError(f"wilson needs 0 <= successes <= num and num >= 1, got {successes} of {num}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = successes / num, z * z / num
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / num + spread / num / 4) ** 0.5
    # At the ends the exact bound is the share itself; rounding would leave it a hair inside.
    return Interval(centre - half if successes else 0.0, centre + half if successes < num else 1.0)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    num: int,
    *,
    strata: ArrayLike | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of any statistic of ``num`` items.

    Args:
        statistic: maps (num,) indices, drawn with replacement, to a number.
        num: number of items.
        strata: (num,) labels; items are drawn within their label, so that no class is ever empty.
        seed: the same seed gives the same interval.

    Example:
        >>> values = np.arange(100.0)
        >>> low, high = bootstrap(lambda k: values[k].mean(), 100)
        >>> low < 49.5 < high
        True
    """
    _check(num, num_resamples, level)
    labels = np.zeros(num, int) if strata is None else np.asarray(strata)
    if labels.shape != (num,):
        raise ValueError(f"strata must have shape ({num},), got {labels.shape}")
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng = np.random.default_rng(seed)

    def redrawn() -> np.ndarray:
        # What rng.choice(group, len(group)) draws, without its checks, which take longer than the draw.
        parts = [group[rng.integers(0, len(group), len(group))] for group in groups]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    values = [statistic(redrawn()) for _ in range(num_resamples)]
    return _percentiles(values, level)


def mean_interval(values: Sequence[float] | np.ndarray, *, num_resamples: int = 1000, seed: int = 0) -> Interval:
    """Bootstrap interval (95 %) of the mean of (N,) values.

    Raises:
        ValueError: if there are no values or no resamples.

    Example:
        >>> low, high = mean_interval([0.0, 1.0, 1.0])
        >>> low < 2 / 3 < high
        True
    """
    array = np.asarray(values, float)
    num, level = len(array), 0.95
    _check(num, num_resamples, level)
    rng, at_once = np.random.default_rng(seed), max(1, 1_000_000 // num)
    # The draws and means of bootstrap(), many resamples at a time: ten times as fast.
    means = [
        array[rng.integers(0, num, (min(at_once, num_resamples - start), num))].mean(axis=1)
        for start in range(0, num_resamples, at_once)
    ]
    return _percentiles(np.concatenate(means), level)


def _check(num: int, num_resamples: int, level: float) -> None:
    if num < 1 or num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap needs items, resamples and 0 < level < 1, got {num}, {num_resamples} and {level}")


def _percentiles(values: ArrayLike, level: float) -> Interval:
    """The middle ``level`` of resampled values."""
    low, high = np.quantile(np.asarray(values, float), [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))
