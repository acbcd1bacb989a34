"""Agreement of measures: rank correlations of rewards, their parts and axes, canaries, metrics and the rule, over the
stored scores of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from cac_align.table2.maths import redraw
from cac_align.table2.matrix import Matrix, Values, column_of
from reward_model.statistics.intervals import Interval
from reward_model.statistics.table import Estimate, Table

#: More make no difference to two digits.
MAX_RESAMPLES = 1000
#: Cells of a table that is held at once: all pairs of ten thousand videos would take gigabytes.
_CELLS = 1 << 20


@dataclass(frozen=True)
class Correlation:
    """Two measures on the same videos.

    Attributes:
        videos: which: ``candidates of the base`` or ``all videos``.
        first, second: keys of values.
        num: videos that have both.
        spearman, kendall: coefficients (tau-b) with 95 % intervals over prompts; None if a measure never varies.
    """

    videos: str
    first: str
    second: str
    num: int
    spearman: Estimate
    kendall: Estimate

    def to_dict(self) -> dict[str, Any]:
        def plain(cell: Estimate) -> dict[str, Any]:
            return {"value": cell.value, "interval": list(cell.interval) if cell.interval else None}

        names = {k: getattr(self, k) for k in ("videos", "first", "second", "num")}
        return {**names, "spearman": plain(self.spearman), "kendall": plain(self.kendall)}


def spearman(a: np.ndarray, b: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's coefficient under weights of groups: Pearson's correlation of mean ranks.

    Args:
        a, b: (N,) values.
        groups: (N,) numbers of groups, 0 to G - 1.
        weights: (B, G), how often each group is there; ones give the plain coefficient.

    Returns:
        (B,), NaN where a or b is constant.
    """
    below = [_below(values, groups, weights.shape[1]) for values in (a, b)]
    found = []
    for some in _parts(weights, len(a)):
        own = some[:, groups].T
        x, y = (counts @ some.T for counts in below)  # the weighted mean of each is 0
        found.append(_over((own * x * y).sum(0), (own * x * x).sum(0) * (own * y * y).sum(0)))
    return np.concatenate(found)


def kendall(a: np.ndarray, b: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b under weights of groups; arguments as in :func:`spearman`."""
    member = _member(groups, weights.shape[1])
    concordant = np.zeros((weights.shape[1],) * 2)
    for rows in _parts(np.arange(len(a)), len(a)):
        one, two = ((v[rows, None] > v).astype(np.int8) - (v[rows, None] < v) for v in (a, b))
        concordant += member[rows].T @ ((one * two).astype(np.float32) @ member)

    def total(pairs: np.ndarray) -> np.ndarray:
        return np.einsum("bg,gh,bh->b", weights, pairs, weights)

    return _over(total(concordant), total(_untied(a, member)) * total(_untied(b, member)))


def clustered(
    statistic: Callable[..., np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    groups: np.ndarray,
    *,
    num_resamples: int,
    seed: int,
) -> Estimate:
    """A coefficient with its percentile interval, groups (prompts) redrawn whole; None if it is not defined.

    Args:
        statistic: :func:`spearman` or :func:`kendall`.
        a, b: (N,) values.
        groups: (N,) labels.
        num_resamples, seed: resamples and seed of the bootstrap.
    """
    names, index = np.unique(groups, return_inverse=True)
    [value] = statistic(a, b, index, np.ones((1, len(names))))
    if np.isnan(value):
        return Estimate(None)
    if len(names) < 2:
        return Estimate(float(value))
    values = statistic(a, b, index, redraw(1, len(names), num_resamples=num_resamples, seed=seed).prompts)
    known = values[~np.isnan(values)]
    if len(known) < 0.95 * num_resamples:
        return Estimate(float(value))
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), Interval(float(low), float(high)))


def _below(values: np.ndarray, groups: np.ndarray, num: int) -> np.ndarray:
    """(N, G): how many values of each group lie below a value, ties half, less half of the group: its rank in there."""
    counts = np.empty((len(values), num))
    for group in range(num):
        own = np.sort(values[groups == group])
        counts[:, group] = (np.searchsorted(own, values, "left") + np.searchsorted(own, values, "right") - len(own)) / 2
    return counts


def _untied(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """(G, G): pairs of values of two groups that are not equal, (N, G) being :func:`_member`."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(distinct), member.shape[1]))
    np.add.at(counts, place, member)
    size = member.sum(0, dtype=float)
    return np.outer(size, size) - counts.T @ counts


def _parts(items: np.ndarray, num: int) -> Iterator[np.ndarray]:
    """The items, so many at once that a table with a row for each and ``num`` columns stays small."""
    most = max(1, _CELLS // num)
    return (items[k : k + most] for k in range(0, len(items), most))


def _member(groups: np.ndarray, num: int) -> np.ndarray:
    """(N, G): 1 where a value is of a group; float32 counts exactly up to 16 million."""
    return (groups[:, None] == np.arange(num)).astype(np.float32)


def _over(above: np.ndarray, square: np.ndarray) -> np.ndarray:
    """above / sqrt(square), NaN where nothing varies."""
    known = square > 1e-9
    return np.where(known, above / np.sqrt(np.where(known, square, 1.0)), np.nan)


def correlate(matrix: Matrix) -> list[Correlation]:
    """Every pair of measures, over the base's candidates and over all videos."""
    settings = matrix.settings
    found = []
    for label, values, groups in _sets(matrix):
        names = _names(values)
        arrays = {n: column_of(values, n) for n in names}
        for first, second in combinations(_different(arrays), 2):
            if _both_pixels(first, second):
                continue
            both = ~np.isnan(arrays[first]) & ~np.isnan(arrays[second])
            if both.sum() < 3:
                continue
            a, b, g = arrays[first][both], arrays[second][both], groups[both]
            options = {"num_resamples": min(settings.num_resamples, MAX_RESAMPLES), "seed": settings.seed}
            one, two = (clustered(statistic, a, b, g, **options) for statistic in (spearman, kendall))
            found.append(Correlation(label, first, second, int(both.sum()), one, two))
    return found


def correlation_tables(found: Sequence[Correlation]) -> list[Table]:
    """A table for each set of videos, the strongest pairs first."""
    tables = []
    for label in dict.fromkeys(entry.videos for entry in found):
        mine = [e for e in found if e.videos == label]
        mine.sort(key=lambda e: -abs(e.spearman.value or 0.0))
        lines = [(e.first, e.second, e.num, e.spearman, e.kendall) for e in mine]
        note = (
            "95% bootstrap intervals over prompts. '-' where one of the two never varies. Signs: world/anomaly, faults "
            "and .../abnormal are higher for worse videos, rewards for better ones. Readouts that order all videos as "
            "their reward does are left out."
        )
        heads = ("first", "second", "videos", "Spearman", "Kendall tau-b")
        tables.append(Table(f"Rank correlations, {label}", heads, [lines], (note,)))
    return tables


def _sets(matrix: Matrix) -> list[tuple[str, list[Values], np.ndarray]]:
    """Values and prompts of the base's candidates, and of all videos where there are more."""
    sets: list[tuple[str, list[Values], np.ndarray]] = []
    for label, only in (("candidates of the base", matrix.candidates), ("all videos", None)):
        values, groups = matrix.videos(only)
        if values and not (sets and len(values) == len(sets[0][1])):
            sets.append((label, values, groups))
    return sets


def _names(values: Sequence[Values]) -> list[str]:
    """Keys with a value, single faults left out: the rule's verdict stands for them."""
    names = dict.fromkeys(k for row in values for k, v in row.items() if v is not None)
    return [n for n in names if not n.startswith("world/fault")]


def _different(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Names without those that order all videos as the whole of their reward does: of a judge's score and its readouts
    ``direct`` and ``log_odds``, one is enough.
    """
    ranks = {name: rankdata(values, nan_policy="omit") for name, values in arrays.items()}

    def repeats(name: str) -> bool:
        whole = name.partition("/")[0]
        return whole != name and whole in ranks and np.array_equal(ranks[name], ranks[whole], equal_nan=True)

    return [name for name in arrays if not repeats(name)]


def _both_pixels(first: str, second: str) -> bool:
    """True if both are canaries: their agreement says nothing about rewards."""
    pixels = "canaries/"
    return first.startswith(pixels) and second.startswith(pixels)
