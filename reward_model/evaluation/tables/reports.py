"""The files of an evaluation: tables.md, tables.tex, tables.json and reliability.png."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_model.evaluation.running.choice import LEAST_RECALL, balanced, stronger_of_both
from reward_model.evaluation.running.contestants import OFFICIAL
from reward_model.evaluation.running.result import EvaluationResult
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.running.suite import Results, measured_rows
from reward_model.evaluation.tables.class_tables import (
    group_table,
    hard_table,
    kind_table,
    localisation_table,
    main_table,
    spatial_kind_table,
    time_table,
    type_table,
)
from reward_model.evaluation.tables.coverage_table import coverage_table
from reward_model.evaluation.tables.paired_tables import gain_table, readout_table, significance_table
from reward_model.evaluation.tables.reliability_plot import plot_reliability
from reward_model.evaluation.tables.systems_table import systems_table
from reward_model.files import write_text
from reward_model.statistics.table import Table

logger = logging.getLogger(__name__)


def make_tables(results: Results, *, num_resamples: int = 1000) -> list[Table]:
    """Every table the results have something for, bench after bench.

    The paper's rows stand beside the main bench (Tables 1, S2, S3, S4), the hard bench (Figure 4) and benches whose
    name begins with "vif" (Table S1). A model asked in both ways has one more row, of the stronger; judges that lean to
    one answer on the main bench are left out of the hard bench's table of recalls.
    """
    tables: list[Table] = []
    for bench, judges in results.items():
        if judges:
            tables += _bench_tables(bench, judges, results.get("main", {}), num_resamples)
    return [table for table in (*tables, *_provenance(results)) if table.groups[0]]


def _bench_tables(
    bench: str, judges: dict[str, EvaluationResult], on_main: dict[str, EvaluationResult], num_resamples: int
) -> list[Table]:
    rows = {name: measured_rows(result) for name, result in judges.items()}
    tables, main = [], bench == "main"
    if bench != "hard":
        both = {
            f"{model}, stronger of both ({kind})": found
            for model, (kind, found) in stronger_of_both(judges, OFFICIAL).items()
        }
        paper = "Table 1" if main else "Table S1" if _is_vif(bench) else None
        tables.append(main_table(bench, {**judges, **both}, paper=paper))
    if any(len(r.recall_by_cell) > 1 for r in judges.values()):
        kept, left_out = balanced(judges, on_main) if bench == "hard" else (judges, [])
        note = f"Left out, one recall on main below {LEAST_RECALL:g}: {', '.join(left_out)}." if left_out else None
        tables.append(hard_table(bench, kept, paper=bench == "hard", note=note))
    tables += [
        group_table(bench, judges),
        type_table(bench, judges, paper=main),
        kind_table(bench, judges),
        localisation_table(bench, judges, paper=main),
        spatial_kind_table(bench, judges),
    ]
    if _has_both_classes(rows):
        tables.append(readout_table(bench, rows, num_resamples=min(200, num_resamples)))
    tables += [compare(bench, rows, num_resamples=num_resamples) for compare in (significance_table, gain_table)]
    tables.append(coverage_table(bench, rows))
    tables.append(systems_table(bench, judges, rows, num_resamples=num_resamples))
    if main:
        tables.append(time_table(bench, judges))
    return tables


def write_report(output: str | Path, tables: Sequence[Table], results: Results) -> list[Path]:
    """Writes the tables in three forms and the reliability plot of the first bench with both classes.

    Returns:
        The files written. Without matplotlib the plot is left out and a warning says so.
    """
    folder = Path(output)
    figures: dict[str, Any] = {
        bench: {name: {**r.to_dict(), "videos": len(r.videos)} for name, r in judges.items()}
        for bench, judges in results.items()
    }
    data = {"tables": [t.to_dict() for t in tables], "results": figures}
    written = [
        write_text(folder / "tables.md", "\n".join(t.to_markdown() for t in tables)),
        write_text(folder / "tables.tex", "\n".join(t.to_latex() for t in tables)),
        write_text(folder / "tables.json", to_json(data)),
    ]
    plot = _plot(folder, results)
    return written + ([plot] if plot else [])


def _provenance(results: Results) -> list[Table]:
    """Model, revision and wording of each row."""
    rows = {}
    for judges in results.values():
        for name, result in judges.items():
            told = result.judge
            model = told.get("model")
            known = {**told, **model} if isinstance(model, dict) else told
            asked = " ".join(str(known[k]) for k in ("prompts", "protocol", "wording", "readout") if known.get(k))
            drawn = ", ".join(f"{k} {known[k]}" for k in ("temperature", "seed") if known.get(k))
            rows[name] = (
                name,
                *(str(known.get(k) or "-") for k in ("model", "revision", "dtype")),
                asked or "-",
                drawn or "-",
                str(known.get("cac_align") or "-"),
            )
    columns = ("judge", "model", "revision", "dtype", "asked by", "drawn", "cac-align")
    return [Table("Made with", columns, [list(rows.values())])] if rows else []


def to_json(data: object) -> str:
    """Readable strict JSON; what JSON has no word for in provenance is written as text."""
    return json.dumps(data, indent=1, allow_nan=False, default=str) + "\n"


def _plot(folder: Path, results: Results) -> Path | None:
    for judges in results.values():
        rows = {name: measured_rows(result) for name, result in judges.items()}
        if _has_both_classes(rows):
            try:
                return plot_reliability(rows, folder / "reliability.png")
            except ImportError as error:
                logger.warning("%s", error)
                return None
    return None


def _has_both_classes(rows: dict[str, list[Row]]) -> bool:
    return any({r.truth for r in found} == {"normal", "abnormal"} for found in rows.values())


def _is_vif(bench: str) -> bool:
    return bench.lower().startswith("vif")
