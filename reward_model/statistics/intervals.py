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
    if num < 1 or num_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap needs items, resamples and 0 < level < 1, got {num}, {num_resamples} and {level}")
    labels = np.zeros(num, int) if strata is None else np.asarray(strata)
    if labels.shape != (num,):
        raise ValueError(f"strata must have shape ({num},), got {labels.shape}")
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([rng.choice(group, len(group)) for group in groups])) for _ in range(num_resamples)
    ]
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(low), float(high))


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
    return bootstrap(lambda k: float(array[k].mean()), len(array), num_resamples=num_resamples, seed=seed)
