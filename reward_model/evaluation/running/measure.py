"""From rows to metrics with intervals. Pure: the same rows give the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from reward_model.config import READOUTS
from reward_model.evaluation.metrics.calibration import calibration_error, saturation_share
from reward_model.evaluation.metrics.classification import STATUSES, Confusion, auroc, confusion
from reward_model.evaluation.running.result import EvaluationResult, Metric, TypeRecall
from reward_model.evaluation.running.row import Row
from reward_model.schema import AnomalyType
from reward_model.statistics.intervals import bootstrap, mean_interval, wilson
from reward_model.world.cells import CELLS


def measure(
    rows: Sequence[Row], bench: Mapping[str, Any], judge: Mapping[str, Any] | None = None, *, num_resamples: int = 1000
) -> EvaluationResult:
    """All metrics of :func:`reward_model.evaluation.evaluate_judge` from its rows.

    Args:
        rows: one per video.
        bench, judge: what they say of themselves, kept as they are.
        num_resamples: number of resamples of each bootstrap.
    """
    judged = [r for r in rows if r.has_verdict]
    abnormal = [r for r in judged if r.truth == "abnormal"]
    table = confusion([r.truth for r in judged], [r.status for r in judged])
    metrics = {
        **_answer_metrics(judged),
        **_overlap_metrics(abnormal, num_resamples),
        "reward, Equation 6": mean_metric([r.reward for r in judged if r.reward is not None], num_resamples),
        **_class_metrics(judged, table, num_resamples),
        **_readout_metrics(rows, num_resamples),
        **_domain_metrics(judged),
        "not judged": share([r.score is None and r.status is None for r in rows]),
    }
    return EvaluationResult(
        bench=dict(bench),
        judge=dict(judge or {}),
        metrics=metrics,
        confusion=table,
        recall_by_kind=_recall_by_kind(abnormal),
        spatial_by_kind=_spatial_by_kind(abnormal, num_resamples),
        recall_by_type=_recall_by_type(abnormal),
        recall_by_cell=_recall_by_cell(abnormal),
        by_group=_by_group(judged),
        seconds_per_video=sum(r.seconds for r in rows) / max(1, len(rows)),
        errors=_errors(judged),
        videos=[r.to_dict() for r in rows],
    )


def readout_values(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Probability of "normal" of every video by each available readout; ``score`` is the reward as it was given."""
    by_readout: dict[str, list[float | None]] = {"score": [r.score for r in rows]}
    for readout in READOUTS:
        by_readout[readout] = [r.readouts.get(readout) for r in rows]
    return {name: values for name, values in by_readout.items() if any(v is not None for v in values)}


def share(hits: Sequence[bool]) -> Metric:
    """A share with Wilson's interval; None of nothing."""
    return _count(sum(hits), len(hits))


def mean_metric(values: Sequence[float], num_resamples: int) -> Metric:
    """A mean with its bootstrap interval; None of nothing."""
    if not values:
        return Metric(None)
    return Metric(float(np.mean(values)), mean_interval(values, num_resamples=num_resamples), len(values))


def _answer_metrics(judged: Sequence[Row]) -> dict[str, Metric]:
    return {
        "parse rate": _count(sum(r.turns_parsed for r in judged), sum(r.turns_written for r in judged)),
        "status accuracy": share([r.correct for r in judged]),
    }


def _domain_metrics(judged: Sequence[Row]) -> dict[str, Metric]:
    """Share of videos that a judge says it was not trained on, and its accuracy on the others; nothing if it cannot
    tell.
    """
    known = [r for r in judged if r.out_of_domain is not None]
    if not known:
        return {}
    return {
        "out of domain": share([bool(r.out_of_domain) for r in known]),
        "status accuracy, in domain": share([r.correct for r in known if not r.out_of_domain]),
    }


def _overlap_metrics(abnormal: Sequence[Row], num_resamples: int) -> dict[str, Metric]:
    found = {
        "temporal IoU, scan": _overlaps([r.temporal_iou for r in abnormal]),
        "temporal IoU, final": _overlaps([r.temporal_iou_final for r in abnormal]),
        "spatial IoU": _box_overlaps(abnormal, lambda r: r.spatial_iou),
        "vIoU": _box_overlaps(abnormal, lambda r: r.tube_iou),
        "type IoU": _overlaps([r.type_iou for r in abnormal]),
    }
    return {name: mean_metric(values, num_resamples) for name, values in found.items()}


def _spatial_by_kind(abnormal: Sequence[Row], num_resamples: int) -> dict[str, Metric]:
    by_kind: dict[str, list[float]] = {}
    # The list is empty, and so is the result, where a judge draws nothing.
    for row, overlap in zip(abnormal, _box_overlaps(abnormal, lambda r: r.spatial_iou), strict=False):
        by_kind.setdefault(row.kind, []).append(overlap)
    return {kind: mean_metric(values, num_resamples) for kind, values in by_kind.items()}


def _overlaps(values: Sequence[float | None]) -> list[float]:
    """A judge that writes nothing has no overlap; one that failed on some videos has 0 there."""
    return [v or 0.0 for v in values] if any(v is not None for v in values) else []


def _box_overlaps(abnormal: Sequence[Row], read: Callable[[Row], float | None]) -> list[float]:
    """Of a judge of one turn, which is not asked for boxes, there are none: nobody looked into a window it named."""
    one_turn = any(r.window_found and not r.zoomed for r in abnormal)
    return [] if one_turn else _overlaps([read(r) for r in abnormal])


def _class_metrics(judged: Sequence[Row], table: Confusion, num_resamples: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for status in reversed(STATUSES):
        if not sum(table.counts[status]):
            continue
        truth = np.array([r.truth == status for r in judged])
        called = np.array([r.status == status for r in judged])
        metrics[f"recall, {status}"] = _count(table.hits(status), int(truth.sum()))
        metrics[f"precision, {status}"] = _count(table.hits(status), table.num_called(status))
        metrics[f"F1, {status}"] = Metric(
            table.f1(status),
            bootstrap(partial(_f1, truth, called), len(truth), strata=truth, num_resamples=num_resamples),
            len(truth),
        )
    if judged:
        metrics["unparsed"] = _count(table.num_unparsed, len(judged))
    return metrics


def _f1(truth: np.ndarray, called: np.ndarray, k: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN): the harmonic mean of both rates, defined even where nothing was called so."""
    return 2 * float((truth[k] & called[k]).sum()) / float(truth[k].sum() + called[k].sum())


def _readout_metrics(rows: Sequence[Row], num_resamples: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name, values in readout_values(rows).items():
        metrics |= _score_metrics(name, values, rows, num_resamples)
    return metrics


def _score_metrics(
    name: str, values: Sequence[float | None], rows: Sequence[Row], num_resamples: int
) -> dict[str, Metric]:
    known = [(v, r.truth == "normal") for v, r in zip(values, rows, strict=True) if v is not None]
    p, normal = np.array([v for v, _ in known]), np.array([n for _, n in known])
    redraw = partial(bootstrap, num=len(p), strata=normal, num_resamples=num_resamples)
    metrics: dict[str, Metric] = {}
    both = normal.any() and not normal.all()
    metrics[f"AUROC, {name}"] = (
        Metric(auroc(p, normal), redraw(lambda k: auroc(p[k], normal[k])), len(p))
        if both
        else Metric(None, None, len(p))
    )
    saturated = saturation_share(p)
    metrics[f"saturation, {name}"] = Metric(saturated, wilson(round(saturated * len(p)), len(p)), len(p))
    if p.min() >= 0 and p.max() <= 1:
        error = calibration_error(p, normal)
        interval = redraw(lambda k: calibration_error(p[k], normal[k]))
        metrics[f"ECE, {name}"] = Metric(error, interval, len(p))
    return metrics


def _errors(judged: Sequence[Row]) -> dict[str, int]:
    """Number of occurrences of each error, by its first words."""
    return dict(Counter(r.error[:200] for r in judged if r.error))


def _recall_by_kind(abnormal: Sequence[Row]) -> dict[str, Metric]:
    kinds = dict.fromkeys(r.kind for r in abnormal)
    return {kind: _recall(r for r in abnormal if r.kind == kind) for kind in kinds}


def _recall_by_cell(abnormal: Sequence[Row]) -> dict[str, Metric]:
    cells = [c for c in CELLS if any(r.cell == c for r in abnormal)]
    return {", ".join(cell): _recall(r for r in abnormal if r.cell == cell) for cell in cells}


def _by_group(judged: Sequence[Row]) -> dict[str, dict[str, Metric]]:
    """Metrics of all videos of a bench in parts, of each part, and of each case in it; empty without parts."""
    parts: dict[str, list[Row]] = {}
    for row in judged:
        stratum, slash, _ = row.group.partition("/")
        for name in ("all", stratum, *((row.group,) if slash else ())) if row.group else ():
            parts.setdefault(name, []).append(row)
    # A case stands below its part, and parts in the order of the bench.
    first = {name: k for k, name in enumerate(parts)}
    order = sorted(parts, key=lambda name: (first[name.partition("/")[0]], first[name] if "/" in name else -1))
    return {name: _group_metrics(parts[name]) for name in order}


def _group_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    normal, abnormal = ([r for r in rows if r.truth == status] for status in ("normal", "abnormal"))
    # Only what turn two was asked about can be cleared by it.
    looked = {status: [r for r in part if r.zoomed] for status, part in (("n", normal), ("a", abnormal))}
    scanned = any(r.scan_status is not None for r in rows)
    return {
        "accuracy": share([r.correct for r in rows]),
        "recall": share([r.status == "abnormal" for r in abnormal]),
        "specificity": share([r.status == "normal" for r in normal]),
        "recall, scan": share([r.scan_status == "abnormal" for r in abnormal] if scanned else []),
        "cleared, normal": share([r.status == "normal" for r in looked["n"]]),
        "cleared, abnormal": share([r.status == "normal" for r in looked["a"]]),
    }


def _recall_by_type(abnormal: Sequence[Row]) -> dict[str, TypeRecall]:
    recalls = {t.value: _type_recall(abnormal, t.value) for t in AnomalyType}
    return {name: recall for name, recall in recalls.items() if recall is not None}


def _type_recall(abnormal: Sequence[Row], name: str) -> TypeRecall | None:
    having = [r for r in abnormal if name in r.truth_types]
    if not having:
        return None
    # Only a judge that names types can be asked for them.
    names = any(r.types for r in abnormal) or all(r.status != "abnormal" for r in abnormal)
    typed = share([r.status == "abnormal" and name in r.types for r in having]) if names else Metric(None)
    return TypeRecall(detected=_recall(having), typed=typed)


def _recall(rows: Iterable[Row]) -> Metric:
    return share([r.status == "abnormal" for r in rows])


def _count(hits: int, num: int) -> Metric:
    return Metric(hits / num, wilson(hits, num), num) if num else Metric(None)
