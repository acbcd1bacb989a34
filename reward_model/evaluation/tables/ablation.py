"""Ablations in the order of Table 3: several checkpoints, several seeds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reward_model.evaluation.running.contestants import Contestant, judge_contestant, parse_source
from reward_model.evaluation.running.result import EvaluationResult, Metric
from reward_model.evaluation.tables.class_tables import RATES_NOTE
from reward_model.evaluation.tables.paper_tables import paper_table
from reward_model.statistics.intervals import Interval
from reward_model.statistics.table import Cell, Estimate, Table


@dataclass(frozen=True)
class AblationRow:
    """One row of Table 3: its key on the command line, its name in the paper, and how many turns the judge takes."""

    key: str
    paper: str
    num_turns: int = 2


#: Rows 1 and 6 judge in one turn; row 6 is also trained that way.
ROWS = (
    AblationRow("base", "1 base Qwen3-VL-8B", 1),
    AblationRow("no-warmup", "2 w/o single-frame warmup"),
    AblationRow("no-sft", "3 w/o multi-frame SFT"),
    AblationRow("no-grpo", "4 w/o two-turn GRPO"),
    AblationRow("base-two-turn", "5 base + inference strategy"),
    AblationRow("no-two-turn", "6 w/o inference strategy*", 1),
    AblationRow("no-temporal", "7 w/o temporal IoU reward"),
    AblationRow("no-spatial", "8 w/o spatial IoU reward"),
    AblationRow("no-attribution", "9 w/o attribution IoU reward"),
    AblationRow("full", "10 CaC"),
)
_COLUMNS = {
    "aR": "recall, abnormal",
    "aP": "precision, abnormal",
    "aF": "F1, abnormal",
    "nR": "recall, normal",
    "nP": "precision, normal",
    "nF": "F1, normal",
    "accuracy": "status accuracy",
}


def parse_ablation(
    items: Sequence[str],
    settings: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
) -> dict[str, list[Contestant]]:
    """Contestants by row, in the order of the table.

    Args:
        items: ``ROW=FOLDER[,FOLDER...]``, a folder for each training seed; ROW is a key of :data:`ROWS` or a name of
            your own, which comes after them.
        settings: settings of the judges; the row decides the number of turns.
        options: options of local backends, such as ``device``.

    Raises:
        ValueError: if an item has no folder, or a row stands there twice.
    """
    given = folders_by_row(items)
    turns = {r.key: r.num_turns for r in ROWS}
    order = [r.key for r in ROWS if r.key in given] + [key for key in given if key not in turns]
    found: dict[str, list[Contestant]] = {}
    for key in order:
        chosen = {**(settings or {}), "num_turns": turns.get(key, 2)}
        sources = [parse_source(f"x={folder}", options=options)[1] for folder in given[key]]
        found[key] = [judge_contestant(f"{key} {k}", source, chosen) for k, source in enumerate(sources, 1)]
    return found


def folders_by_row(items: Sequence[str]) -> dict[str, list[str]]:
    """Checkpoints by row, of items ``ROW=FOLDER[,FOLDER...]``.

    Raises:
        ValueError: if an item has no folder, or a row stands there twice.
    """
    given: dict[str, list[str]] = {}
    for item in items:
        key, _, folders = item.partition("=")
        names = [f for f in folders.split(",") if f]
        if not key or not names:
            raise ValueError(f"{item!r} must read ROW=FOLDER[,FOLDER...]; rows are {', '.join(r.key for r in ROWS)}")
        if key in given:
            raise ValueError(f"the row {key!r} is given twice; write its folders in one item, separated by commas")
        given[key] = names
    return given


def ablation_table(bench: str, rows: Mapping[str, Sequence[EvaluationResult]]) -> Table:
    """Means over the checkpoints of each row, in the order given; the paper's rows below.

    Brackets are least and most over the checkpoints, or the 95 % interval over videos where a row has only one.
    """
    names = {r.key: r.paper for r in ROWS}
    ours = [
        (key, *(_cell(results, metric) for metric in _COLUMNS.values()), len(results)) for key, results in rows.items()
    ]
    paper = paper_table("Table 3")
    theirs: list[Sequence[Cell]] = [
        (f"{row} (paper)", *values, None)
        for row, values in paper.rows.items()
        if row in {names.get(key) for key in rows}
    ]
    notes = (
        RATES_NOTE,
        "Brackets: least and most over the checkpoints; for a single checkpoint the 95 % interval over videos.",
        f"Rows marked (paper): {paper.name} of arXiv 2605.11723, measured on {paper.bench}, not on this bench.",
    )
    return Table(f"Ablations on {bench}", ("row", *_COLUMNS, "checkpoints"), [ours, theirs], notes)


def _cell(results: Sequence[EvaluationResult], metric: str) -> Cell:
    found: list[Metric] = [r.metrics[metric] for r in results if r.value(metric) is not None]
    values = [m.value for m in found if m.value is not None]
    if not values or len(values) < len(results):
        return None  # undefined for one of the seeds: a mean over the others would flatter
    if len(values) == 1:
        return found[0].estimate
    return Estimate(sum(values) / len(values), Interval(min(values), max(values)))
