"""Figures per readout, and the default reward that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from reward_model.evaluation.running.measure import measure, readout_values
from reward_model.evaluation.running.result import Metric
from reward_model.evaluation.running.row import Row


@dataclass(frozen=True)
class ReadoutFigures:
    """One readout on one bench.

    Attributes:
        auroc: normal against abnormal.
        ece: expected calibration error.
        saturation: share of values outside [.01, .99].
        ordering: :func:`ordering_within`, by the extent of the anomaly within each kind; chance is .5.
    """

    name: str
    auroc: Metric
    ece: Metric
    saturation: Metric
    ordering: float | None


def readout_figures(rows: Sequence[Row], *, num_resamples: int = 200) -> list[ReadoutFigures]:
    """The figures of every readout the rows hold, ``score`` (the reward as given) left out."""
    metrics = measure(rows, {}, num_resamples=num_resamples).metrics
    none = Metric(None)
    figures = []
    for name, values in readout_values(rows).items():
        if name == "score":
            continue
        known = [(v, r) for v, r in zip(values, rows, strict=True) if v is not None and r.extent is not None]
        ordering = ordering_within(
            [v for v, _ in known], [r.extent or 0.0 for _, r in known], [r.kind for _, r in known]
        )
        auroc, ece, saturation = (metrics.get(f"{m}, {name}", none) for m in ("AUROC", "ECE", "saturation"))
        figures.append(ReadoutFigures(name, auroc, ece, saturation, ordering))
    return figures


def ordering_within(rewards: Sequence[float], strengths: ArrayLike, groups: Sequence[str]) -> float | None:
    """Share of pairs of one group in which the stronger anomaly has the lower reward; equal rewards count half.

    Saturated rewards tie and come out near one half, whatever the judge saw. None if no group has two videos of
    different strength.

    Example:
        >>> ordering_within([0.9, 0.5, 0.5, 0.2], [1.0, 2.0, 3.0, 1.0], ["a", "a", "a", "b"])
        0.8333333333333334
    """
    values, strong, labels = np.asarray(rewards, float), np.asarray(strengths, float), np.asarray(groups)
    if not values.shape == strong.shape == labels.shape:
        raise ValueError(f"one strength and one group each, got {values.shape}, {strong.shape} and {labels.shape}")
    wins = pairs = 0.0
    for label in np.unique(labels):
        v, s = values[labels == label], strong[labels == label]
        stronger = s[:, None] > s[None, :]
        lower = (v[:, None] < v[None, :]) + 0.5 * (v[:, None] == v[None, :])
        wins, pairs = wins + float(lower[stronger].sum()), pairs + float(stronger.sum())
    return wins / pairs if pairs else None


def argue_default(figures: Sequence[ReadoutFigures]) -> tuple[str, str]:
    """The readout these figures favour, and the reason in a sentence.

    The rule: among the readouts whose AUROC is not clearly below the best (its 95 % interval reaches it), the one that
    saturates least; among equals, the one with the smaller ECE.

    Raises:
        ValueError: if no readout has an AUROC.
    """
    ranked = [f for f in figures if f.auroc.value is not None]
    if not ranked:
        raise ValueError("no readout has an AUROC; it needs scored videos of both classes")
    best = max(_value(f.auroc) for f in ranked)
    near = [f for f in ranked if _value(f.auroc) == best or (f.auroc.interval and f.auroc.interval.high >= best)]
    chosen = min(near, key=lambda f: (round(_value(f.saturation), 3), _value(f.ece)))
    others = "; ".join(_sketch(f) for f in ranked if f is not chosen)
    return chosen.name, f"{_sketch(chosen)}" + (f", against {others}" if others else "")


def _sketch(figures: ReadoutFigures) -> str:
    order = "" if figures.ordering is None else f", ordering {figures.ordering:.3f}"
    return (
        f"{figures.name}: AUROC {_value(figures.auroc):.3f}, ECE {_value(figures.ece):.3f}, "
        f"saturation {_value(figures.saturation):.3f}{order}"
    )


def _value(metric: Metric) -> float:
    return float("nan") if metric.value is None else metric.value
