"""Numbers that say how good a judge is, and how sure they are. Pure functions of arrays.

What could not be parsed is never dropped: it has its own column, and counts as a miss of its class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from reward_model.schema import Status

STATUSES: tuple[Status, Status] = ("normal", "abnormal")


class Interval(NamedTuple):
    """Both ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Confusion:
    """Counts of predictions by truth: ``counts[truth] = (said normal, said abnormal, unparsed)``."""

    counts: dict[Status, tuple[int, int, int]]

    def recall(self, status: Status) -> float | None:
        """Share of that class that was called so; an unparsed answer is a miss. None without such videos."""
        return _ratio(self._hits(status), sum(self.counts[status]))

    def precision(self, status: Status) -> float | None:
        """Share of the videos called so that are so. None if nothing was called so."""
        column = STATUSES.index(status)
        return _ratio(self._hits(status), sum(row[column] for row in self.counts.values()))

    def f1(self, status: Status) -> float | None:
        """Harmonic mean of recall and precision; 0 if both are 0, None if one is undefined."""
        recall, precision = self.recall(status), self.precision(status)
        if recall is None or precision is None:
            return None
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    @property
    def accuracy(self) -> float | None:
        """Share of all videos called right; an unparsed answer is wrong."""
        return _ratio(sum(self._hits(s) for s in STATUSES), sum(map(sum, self.counts.values())))

    @property
    def num_unparsed(self) -> int:
        return sum(row[2] for row in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        columns = ("normal", "abnormal", "unparsed")
        rates = {s: {"recall": self.recall(s), "precision": self.precision(s), "f1": self.f1(s)} for s in STATUSES}
        return {**{s: dict(zip(columns, row, strict=True)) | rates[s] for s, row in self.counts.items()}}

    def _hits(self, status: Status) -> int:
        return self.counts[status][STATUSES.index(status)]


def confusion(truth: Sequence[Status], predicted: Sequence[Status | None]) -> Confusion:
    """Counts predictions against truth; None is an answer without a status.

    Example:
        >>> table = confusion(["normal", "abnormal", "abnormal"], ["normal", "abnormal", None])
        >>> table.recall("abnormal"), table.precision("abnormal"), table.num_unparsed
        (0.5, 1.0, 1)
    """
    pairs = list(zip(truth, predicted, strict=True))
    wrong = [p for p in pairs if p[0] not in STATUSES or p[1] not in (*STATUSES, None)]
    if wrong:
        raise ValueError(f"statuses are 'normal', 'abnormal' or (predicted) None, got {wrong[0]}")
    said = (*STATUSES, None)
    return Confusion({t: tuple(pairs.count((t, p)) for p in said) for t in STATUSES})  # type: ignore[misc]


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative; a tie counts half.

    Args:
        scores: (N,) numbers, infinities included.
        positive: (N,) booleans.

    Raises:
        ValueError: a class is empty, or a score is NaN.

    Example:
        >>> auroc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.875
    """
    values, labels = np.asarray(scores, float), np.asarray(positive, bool)
    _check_pair(values, labels)
    num_positive = int(labels.sum())
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        raise ValueError(f"auroc needs both classes, got {num_positive} positives and {num_negative} negatives")
    # The rank sum of the positives, less the least it can be, counts the pairs they win.
    wins = rankdata(values)[labels].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def calibration_error(probabilities: ArrayLike, happened: ArrayLike, *, num_bins: int = 10) -> float:
    """Expected calibration error: mean distance of the stated probability and the observed share, over equally wide
    bins.

    Args:
        probabilities: (N,) in [0, 1].
        happened: (N,) booleans.

    Example:
        >>> calibration_error([0.9, 0.9, 0.9, 0.9], [True, True, True, False])
        0.15
    """
    stated, labels = np.asarray(probabilities, float), np.asarray(happened, bool)
    _check_pair(stated, labels)
    if not len(stated) or stated.min() < 0 or stated.max() > 1 or num_bins < 1:
        raise ValueError("calibration needs at least one probability, all in [0, 1], and at least one bin")
    bins = np.minimum((stated * num_bins).astype(int), num_bins - 1)
    gaps = [abs(stated[bins == b].sum() - labels[bins == b].sum()) for b in np.unique(bins)]
    return round(float(sum(gaps)) / len(stated), 12)


def saturation_share(probabilities: ArrayLike, low: float = 0.01, high: float = 0.99) -> float:
    """Share of probabilities outside [low, high]: there a reward says yes or no and ranks nothing.

    Example:
        >>> saturation_share([0.001, 0.5, 0.99, 0.995])
        0.5
    """
    values = np.asarray(probabilities, float)
    if not len(values):
        raise ValueError("saturation_share needs at least one probability")
    return float(((values < low) | (values > high)).mean())


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


def _check_pair(values: np.ndarray, labels: np.ndarray) -> None:
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(f"values and labels must be of one length, got shapes {values.shape} and {labels.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} values are NaN; leave them out and say so")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
