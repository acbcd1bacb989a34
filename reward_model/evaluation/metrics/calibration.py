"""Calibration and ranking quality of stated probabilities. Pure functions of arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from reward_model.evaluation.metrics.classification import check_pair


class ReliabilityBin(NamedTuple):
    """One bar of a reliability plot: the bin's ends, the mean stated probability, the observed share, the number of
    items.
    """

    low: float
    high: float
    stated: float
    observed: float
    num: int


def reliability_bins(
    probabilities: ArrayLike, happened: ArrayLike, *, num_bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """The filled ones of ``num_bins`` equally wide bins; the last one includes 1.

    Args:
        probabilities: (N,) in [0, 1].
        happened: (N,) booleans.

    Raises:
        ValueError: if there is no probability, or one outside [0, 1].

    Example:
        >>> reliability_bins([0.05, 0.95, 1.0], [False, True, True], num_bins=2)[1].observed
        1.0
    """
    stated, labels = np.asarray(probabilities, float), np.asarray(happened, bool)
    check_pair(stated, labels)
    if not len(stated) or stated.min() < 0 or stated.max() > 1 or num_bins < 1:
        raise ValueError("calibration needs at least one probability, all in [0, 1], and at least one bin")
    where = np.minimum((stated * num_bins).astype(int), num_bins - 1)
    return tuple(
        ReliabilityBin(
            float(b / num_bins),
            float((b + 1) / num_bins),
            float(stated[where == b].mean()),
            float(labels[where == b].mean()),
            int((where == b).sum()),
        )
        for b in np.unique(where)
    )


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
    bins = reliability_bins(probabilities, happened, num_bins=num_bins)
    total = sum(b.num for b in bins)
    return round(sum(b.num * abs(b.stated - b.observed) for b in bins) / total, 12)


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
