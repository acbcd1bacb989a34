"""Tables that need every video: paired significance and the comparison of readouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reward_model.evaluation.running.measure import mean_metric
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.compare import compare_judges
from reward_model.evaluation.tables.readouts import argue_default, readout_figures
from reward_model.statistics.table import Cell, Estimate, Table


def significance_table(bench: str, rows: Mapping[str, Sequence[Row]], *, num_resamples: int = 2000) -> Table:
    """Every other judge against the first one, on the same videos. Judges without statuses are left out."""
    judges = {name: found for name, found in rows.items() if found and all(r.has_verdict for r in found)}
    first, *others = judges or [""]
    lines: list[Sequence[Cell]] = []
    for other in others:
        found = compare_judges(judges[first], judges[other], num_resamples=num_resamples)
        auroc = Estimate(found.auroc.value, found.auroc.interval) if found.auroc else None
        lines.append(
            (
                f"{first} - {other}",
                Estimate(found.accuracy.value, found.accuracy.interval),
                found.mcnemar.only_first,
                found.mcnemar.only_second,
                _p(found.mcnemar.p_value),
                _p(found.permutation_p),
                auroc,
            )
        )
    columns = ("difference", "accuracy", "only first right", "only second right", "McNemar p", "permutation p", "AUROC")
    notes = ("Same videos for both; brackets: paired bootstrap; McNemar is exact and two-sided.",)
    return Table(f"Paired differences, {bench}", columns, [lines], notes)


#: What is compared video by video besides the status, and on which videos. A missing value counts 0.
_GAINS: dict[str, tuple[str, bool]] = {
    "reward, Eq. 6": ("reward", False),
    "temporal IoU, scan": ("temporal_iou", True),
    "temporal IoU, final": ("temporal_iou_final", True),
    "spatial IoU": ("spatial_iou", True),
    "type IoU": ("type_iou", True),
}


def gain_table(bench: str, rows: Mapping[str, Sequence[Row]], *, num_resamples: int = 2000) -> Table:
    """The first judge's reward of stage 3 and overlaps minus every other's, on the same videos. Judges without
    statuses are left out.
    """
    judges = {name: found for name, found in rows.items() if found and all(r.has_verdict for r in found)}
    first, *others = judges or [""]
    lines: list[Sequence[Cell]] = []
    for other in others:
        cells: list[Cell] = [f"{first} - {other}"]
        for column, abnormal_only in _GAINS.values():
            pairs = zip(judges[first], judges[other], strict=True)
            chosen = [(a, b) for a, b in pairs if a.truth == "abnormal" or not abnormal_only]
            gaps = np.array([(getattr(a, column) or 0.0) - (getattr(b, column) or 0.0) for a, b in chosen])
            cells.append(mean_metric(gaps.tolist(), num_resamples).estimate)
        lines.append(cells)
    notes = (
        "Same videos for both; brackets: paired bootstrap. Overlaps: abnormal videos, a missed one is 0. Reward: all "
        "videos.",
    )
    return Table(f"Paired gains, {bench}", ("difference", *_GAINS), [lines], notes)


def readout_table(bench: str, rows: Mapping[str, Sequence[Row]], *, num_resamples: int = 200) -> Table:
    """Each judge's readouts, and the one its figures favour."""
    lines: list[Sequence[Cell]] = []
    notes = [
        "Saturation: share of P(normal) outside [.01, .99]. Ordering: share of pairs of one kind in which the anomaly "
        "of larger extent has the lower reward; .5 is chance, and what saturated rewards come to.",
    ]
    for name, found in rows.items():
        figures = readout_figures(found, num_resamples=num_resamples)
        lines += [
            (f"{name}, {f.name}", f.auroc.estimate, f.ece.estimate, f.saturation.value, f.ordering) for f in figures
        ]
        if any(f.auroc.value is not None for f in figures):
            chosen, why = argue_default(figures)
            notes.append(f"{name}: these figures favour {chosen} ({why}).")
    return Table(f"Readouts, {bench}", ("readout", "AUROC", "ECE", "saturation", "ordering"), [lines], tuple(notes))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
