"""Judges of different kinds in one line each: what they decide, where they look, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reward_model.evaluation.running.measure import mean_metric, share
from reward_model.evaluation.running.result import EvaluationResult, Metric
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.class_tables import INTERVAL_NOTE, RATES_NOTE
from reward_model.statistics.table import Cell, Estimate, Table

#: Heads of the table and the metrics of a result below them.
_METRICS = {
    "accuracy": "status accuracy",
    "aR": "recall, abnormal",
    "aP": "precision, abnormal",
    "aF": "F1, abnormal",
    "nR": "recall, normal",
    "nP": "precision, normal",
    "nF": "F1, normal",
    "unparsed": "unparsed",
    "temporal IoU": "temporal IoU, final",
    "spatial IoU": "spatial IoU",
    "vIoU": "vIoU",
    "ECE": "ECE, score",
}
#: Heads of means over all videos, and what they are means of; None: not known of a video.
_COSTS: dict[str, Callable[[Row], float | None]] = {
    "looks": lambda r: r.looks,
    "frames": lambda r: r.shown_frames,
    "tokens": lambda r: r.tokens,
    "seconds": lambda r: r.seconds,
}


def systems_table(
    bench: str,
    judges: Mapping[str, EvaluationResult],
    rows: Mapping[str, Sequence[Row]],
    *,
    num_resamples: int = 1000,
) -> Table:
    """All judges with a verdict, a line each; paired tests stand in a table of their own.

    Args:
        bench: its name.
        judges: results by name.
        rows: their rows.
        num_resamples: of the intervals of costs.
    """
    lines: list[Sequence[Cell]] = []
    for name, result in judges.items():
        told = [r for r in rows[name] if r.has_verdict]
        if not told:
            continue
        cells = [result.metrics[m].estimate if m in result.metrics else None for m in _METRICS.values()]
        costs = [_mean(told, read, num_resamples) for read in _COSTS.values()]
        lines.append((name, *cells, typed_recall(told).estimate, *costs))
    notes = (
        RATES_NOTE,
        "Typed: abnormal videos that were called abnormal with a true type among those named. Looks: requests for more "
        "frames, turn two being one. Frames, new tokens and seconds are of a video, seconds of this machine.",
        INTERVAL_NOTE,
    )
    return Table(f"At a glance, {bench}", ("judge", *_METRICS, "typed", *_COSTS), [lines], notes)


def typed_recall(rows: Sequence[Row]) -> Metric:
    """Share of the abnormal videos that were called abnormal and given at least one true type.

    >>> typed_recall([Row(0, "a", "squash", "abnormal", ("Object Distortion",), status="abnormal")]).value
    0.0
    """
    abnormal = [r for r in rows if r.truth == "abnormal"]
    return share([r.status == "abnormal" and bool({*r.types} & {*r.truth_types}) for r in abnormal])


def _mean(rows: Sequence[Row], read: Callable[[Row], float | None], num_resamples: int) -> Estimate | None:
    """Mean over videos; None where rows of an earlier version do not know."""
    known = [float(value) for r in rows if (value := read(r)) is not None]
    return mean_metric(known, num_resamples).estimate if len(known) == len(rows) else None
