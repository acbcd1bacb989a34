"""Numbers that say how good a judge is. Pure functions of sequences.

What could not be parsed is never dropped: it has its own column, and counts as a miss of its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from reward_model.schema import Status

STATUSES: tuple[Status, Status] = ("normal", "abnormal")


@dataclass(frozen=True)
class Confusion:
    """Counts of predictions by truth: ``counts[truth] = (said normal, said abnormal, unparsed)``."""

    counts: dict[Status, tuple[int, int, int]]

    def recall(self, status: Status) -> float | None:
        """Share of that class that was called so; an unparsed answer is a miss. None without such videos."""
        return _ratio(self.hits(status), sum(self.counts[status]))

    def precision(self, status: Status) -> float | None:
        """Share of the videos called so that are so. None if nothing was called so."""
        return _ratio(self.hits(status), self.num_called(status))

    def f1(self, status: Status) -> float | None:
        """Harmonic mean of recall and precision; 0 if both are 0, None if one is undefined."""
        recall, precision = self.recall(status), self.precision(status)
        if recall is None or precision is None:
            return None
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    @property
    def accuracy(self) -> float | None:
        """Share of all videos called right; an unparsed answer is wrong."""
        return _ratio(sum(self.hits(s) for s in STATUSES), sum(map(sum, self.counts.values())))

    @property
    def num_unparsed(self) -> int:
        return sum(row[2] for row in self.counts.values())

    def hits(self, status: Status) -> int:
        """Videos of that class that were called so."""
        return self.counts[status][STATUSES.index(status)]

    def num_called(self, status: Status) -> int:
        """Videos called so, rightly or not."""
        return sum(row[STATUSES.index(status)] for row in self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        columns = ("normal", "abnormal", "unparsed")
        rates = {s: {"recall": self.recall(s), "precision": self.precision(s), "f1": self.f1(s)} for s in STATUSES}
        return {**{s: dict(zip(columns, row, strict=True)) | rates[s] for s, row in self.counts.items()}}


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


@dataclass(frozen=True)
class ImpliedRates:
    """The columns of Table 1 that follow from the two recalls; None if nothing was called so."""

    precision_abnormal: float | None
    f1_abnormal: float | None
    precision_normal: float | None
    f1_normal: float | None
    accuracy: float


def implied_rates(recall_abnormal: float, recall_normal: float, *, share_abnormal: float = 0.5) -> ImpliedRates:
    """Precisions, F1 and accuracy that follow from both recalls and the share of abnormal videos, all answers parsed.

    Example:
        >>> round(implied_rates(0.910, 0.724).precision_abnormal, 3), round(implied_rates(0.910, 0.724).accuracy, 3)
        (0.767, 0.817)
    """
    if not (0 <= recall_abnormal <= 1 and 0 <= recall_normal <= 1 and 0 < share_abnormal < 1):
        raise ValueError(
            f"recalls must lie in [0, 1] and share_abnormal in (0, 1), got {recall_abnormal}, {recall_normal} "
            f"and {share_abnormal}"
        )
    sizes = {"abnormal": share_abnormal, "normal": 1 - share_abnormal}
    hits = {"abnormal": sizes["abnormal"] * recall_abnormal, "normal": sizes["normal"] * recall_normal}
    called = {
        "abnormal": hits["abnormal"] + sizes["normal"] - hits["normal"],
        "normal": hits["normal"] + sizes["abnormal"] - hits["abnormal"],
    }
    precision = {s: hits[s] / called[s] if called[s] else None for s in sizes}
    f1 = {s: 2 * hits[s] / (called[s] + sizes[s]) if called[s] else None for s in sizes}
    return ImpliedRates(precision["abnormal"], f1["abnormal"], precision["normal"], f1["normal"], sum(hits.values()))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative; a tie counts half.

    Args:
        scores: (N,) numbers, infinities included.
        positive: (N,) booleans.

    Raises:
        ValueError: if a class is empty, or a score is NaN.

    Example:
        >>> auroc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.875
    """
    values, labels = np.asarray(scores, float), np.asarray(positive, bool)
    check_pair(values, labels)
    num_positive = int(labels.sum())
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        raise ValueError(f"auroc needs both classes, got {num_positive} positives and {num_negative} negatives")
    # The rank sum of the positives, less the least it can be, counts the pairs they win.
    wins = rankdata(values)[labels].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def check_pair(values: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError unless both are one-dimensional, of one length, and ``values`` holds no NaN."""
    if values.ndim != 1 or values.shape != labels.shape:
        raise ValueError(f"values and labels must be of one length, got shapes {values.shape} and {labels.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} values are NaN; leave them out and say so")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
