"""Tables in the paper's layout: both classes' rates, cells, types, localisation and time, ours above the paper's rows.

The paper's rows were measured on the paper's benches, which are not public; every table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reward_model.evaluation.running.result import EvaluationResult, Metric
from reward_model.evaluation.tables.paper_tables import PaperTable, paper_table
from reward_model.schema import AnomalyType
from reward_model.statistics.table import Cell, Table
from reward_model.world.cells import CELLS

Judges = Mapping[str, EvaluationResult]

_RATES = (
    "recall, abnormal",
    "precision, abnormal",
    "F1, abnormal",
    "recall, normal",
    "precision, normal",
    "F1, normal",
)
_RATE_HEADS = ("aR", "aP", "aF", "nR", "nP", "nF")
_TYPE_HEADS = ("Object", "Human", "Motion", "Physical", "Character")
INTERVAL_NOTE = "Brackets: 95 % intervals (Wilson for shares, bootstrap over videos for the rest)."
RATES_NOTE = (
    "a: abnormal, n: normal; R, P, F: recall, precision, F1. "
    "An unparsed answer counts as a miss and has its own column."
)


def main_table(bench: str, judges: Judges, *, paper: str | None = None) -> Table:
    """Table 1 with our judges first: rates of both classes, accuracy, unparsed answers, AUROC.

    Args:
        bench: its name.
        judges: results by name; those that give scores only have an AUROC and nothing else.
        paper: number of the paper's table to put beside, None: none.
    """
    ours: list[Sequence[Cell]] = []
    for name, result in judges.items():
        rates = [result.value(rate) for rate in _RATES]
        accuracy = result.metrics["status accuracy"].estimate
        unparsed = result.confusion.num_unparsed if rates[0] is not None or rates[3] is not None else None
        auroc = result.metrics["AUROC, score"].estimate if "AUROC, score" in result.metrics else None
        ours.append((name, *rates, accuracy, unparsed, auroc))
    theirs = [(f"{row} (paper)", *values, None, None) for row, values in _rows(paper).items()]
    columns = ("judge", *_RATE_HEADS, "accuracy", "unparsed", "AUROC")
    return Table(f"Judges on {bench}", columns, [ours, theirs], (RATES_NOTE, INTERVAL_NOTE, *_origin(paper)))


def hard_table(bench: str, judges: Judges, *, paper: bool = True, note: str | None = None) -> Table:
    """Figure 4 as a table: recall per cell of duration and area; ``note`` is added below."""
    names = [", ".join(cell) for cell in CELLS]
    ours = [
        (name, *(_estimate(r.recall_by_cell.get(cell)) for cell in names), r.metrics["recall, abnormal"].estimate)
        for name, r in judges.items()
        if "recall, abnormal" in r.metrics
    ]
    theirs = [(f"{row} (paper)", *values, None) for row, values in _rows("Figure 4" if paper else None).items()]
    notes = (INTERVAL_NOTE, *((note,) if note else ()), *_origin("Figure 4" if paper else None))
    return Table(f"Recall by duration and area, {bench}", ("judge", *names, "all"), [ours, theirs], notes)


def group_table(bench: str, judges: Judges) -> Table:
    """Every part of a bench in parts, such as its shifts or strata, judge by judge."""
    names = dict.fromkeys(name for r in judges.values() for name in r.by_group)
    metrics = next((list(found) for r in judges.values() for found in r.by_group.values()), [])
    rows = [
        (part, name, *(r.by_group[part][m].estimate for m in metrics), r.by_group[part]["accuracy"].num)
        for part in names
        for name, r in judges.items()
        if part in r.by_group
    ]
    notes = (
        "Recall, scan: of turn one alone. Cleared: share of the videos turn two was asked about that it called normal, "
        "rightly of normal ones and wrongly of abnormal ones.",
        INTERVAL_NOTE,
    )
    return Table(f"Parts of {bench}", ("part", "judge", *metrics, "n"), [rows], notes)


def type_table(bench: str, judges: Judges, *, paper: bool = True) -> Table:
    """Table S3 with both readings of a recall per type."""
    ours: list[Sequence[Cell]] = []
    for name, result in judges.items():
        if not result.recall_by_type:
            continue
        found = [result.recall_by_type.get(t.value) for t in AnomalyType]
        ours.append((f"{name}, detected", *(f.detected.value if f else None for f in found)))
        ours.append((f"{name}, detected and typed", *(f.typed.value if f else None for f in found)))
    theirs = [(f"{row} (paper)", *values) for row, values in _rows("Table S3" if paper else None).items()]
    notes = (
        "Detected: called abnormal. Detected and typed: also named with that type. "
        "The paper does not say which it prints.",
        *_origin("Table S3" if paper else None),
    )
    return Table(f"Recall by type, {bench}", ("judge", *_TYPE_HEADS), [ours, theirs], notes)


def kind_table(bench: str, judges: Judges) -> Table:
    """Recall of every kind of anomaly the bench holds."""
    found = {name: r.recall_by_kind for name, r in judges.items()}
    return Table(f"Recall by kind, {bench}", ("kind", *found, "n"), [_kind_rows(found, _value)])


def spatial_kind_table(bench: str, judges: Judges) -> Table:
    """Spatial IoU of every kind of anomaly, of the judges that draw boxes."""
    found = {name: r.spatial_by_kind for name, r in judges.items() if r.spatial_by_kind}
    rows = _kind_rows(found, _estimate)
    return Table(f"Spatial IoU by kind, {bench}", ("kind", *found, "n"), [rows], (INTERVAL_NOTE,))


def localisation_table(bench: str, judges: Judges, *, paper: bool = True) -> Table:
    """Table S4, with vIoU and type IoU beside it."""
    names = ("temporal IoU, scan", "temporal IoU, final", "spatial IoU", "vIoU", "type IoU")
    ours = [
        (name, *(r.metrics[m].estimate for m in names))
        for name, r in judges.items()
        if any(r.value(m) is not None for m in names)
    ]
    theirs = [
        (f"{row} (paper)", v[0], None, v[1], None, None) for row, v in _rows("Table S4" if paper else None).items()
    ]
    notes = (
        "Means over all abnormal videos, a missed one is 0; spatial IoU: Equation 5 in the window; vIoU: the tube.",
        INTERVAL_NOTE,
        *_origin("Table S4" if paper else None),
    )
    return Table(f"Localisation, {bench}", ("judge", *names), [ours, theirs], notes)


def time_table(bench: str, judges: Judges) -> Table:
    """Table S2: seconds per video beside accuracy. Ours are of this machine."""
    ours = [(name, r.seconds_per_video, r.value("status accuracy")) for name, r in judges.items()]
    paper = paper_table("Table S2")
    theirs = [
        (f"{row} (paper, {values[0]})", values[1], values[2])
        for row, values in paper.rows.items()
        if values[2] is not None
    ]
    notes = (
        "Times of different machines do not compare; the paper's are of one A800 with 21 frames.",
        *_origin(paper.name),
    )
    return Table(f"Seconds per video, {bench}", ("judge", "seconds", "accuracy"), [ours, theirs], notes)


def _rows(paper: str | None) -> Mapping[str, tuple[Cell, ...]]:
    return paper_table(paper).rows if paper else {}


def _origin(paper: str | None) -> tuple[str, ...]:
    if paper is None:
        return ()
    table: PaperTable = paper_table(paper)
    return (f"Rows marked (paper): {table.name} of arXiv 2605.11723, measured on {table.bench}, not on this bench.",)


def _estimate(metric: object) -> Cell:
    return getattr(metric, "estimate", None)


def _value(metric: object) -> Cell:
    return getattr(metric, "value", None)


def _kind_rows(found: Mapping[str, Mapping[str, Metric]], show: Callable[[object], Cell]) -> list[Sequence[Cell]]:
    """A row for each kind: its name, a cell for each judge, and how many videos there are."""
    kinds = dict.fromkeys(kind for by_kind in found.values() for kind in by_kind)
    return [
        (
            kind,
            *(show(by_kind.get(kind)) for by_kind in found.values()),
            max(by_kind[kind].num for by_kind in found.values() if kind in by_kind),
        )
        for kind in kinds
    ]
