"""Tables of the aliasing suite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reward_model.evaluation.active.criteria import (
    Criterion,
    accuracy,
    entropy,
    first_acts,
    interval_of,
    mean_over,
    of_story,
    used,
)
from reward_model.evaluation.active.play import PlayedRow
from reward_model.journal import read_lines
from reward_model.statistics.table import Estimate, Table
from reward_model.world.aliasing import ALIASED, EASY

_COLUMNS = (
    "policy",
    "accuracy, aliased",
    "accuracy, easy",
    "utility",
    "operators, aliased",
    "operators, easy",
    "frames",
    "tokens",
    "seconds",
    "forced",
    "first acts (bit)",
    "zoom / expand / backtrack",
)


def suite_table(played: Mapping[str, Sequence[PlayedRow]], *, title: str, notes: Sequence[str] = ()) -> Table:
    """A row for each policy, with 95 % bootstrap intervals over videos."""
    return Table(title, _COLUMNS, ([_line(name, rows) for name, rows in played.items()],), tuple(notes))


def _line(name: str, rows: Sequence[PlayedRow]) -> tuple[object, ...]:
    right = [[float(r.correct) for r in of_story(rows, story)] for story in (ALIASED, EASY)]
    utilities = [r.utility for r in rows]
    counts, total = used(rows), max(1, sum(used(rows).values()))
    return (
        name,
        *(Estimate(mean_over(values), interval_of(values)) for values in right),
        Estimate(mean_over(utilities), interval_of(utilities)),
        *(mean_over([len(r.operators) for r in of_story(rows, story)]) for story in (ALIASED, EASY)),
        mean_over([r.num_frames for r in rows]),
        mean_over([r.num_tokens for r in rows]),
        mean_over([r.seconds for r in rows]),
        mean_over([float(r.forced) for r in rows]),
        entropy(first_acts(rows)),
        " / ".join(f"{counts[k] / total:.2f}" for k in ("zoom", "expand", "backtrack")) if counts else "-",
    )


def criteria_table(lines: Sequence[tuple[str, Criterion]]) -> Table:
    """A row for each criterion of each judge."""
    words = {True: "met", False: "not met", None: "-"}
    rows = [(name, str(c.number), c.asked, c.found, words[c.met]) for name, c in lines]
    return Table("Acceptance of active evidence", ("judge", "no.", "asked", "found", ""), (rows,))


def seeds_table(judges: Mapping[str, Sequence[PlayedRow]]) -> Table:
    """Mean and range over trainings with different seeds."""
    values = {story: [accuracy(of_story(rows, story)) for rows in judges.values()] for story in (ALIASED, EASY)}
    rows = [
        (f"accuracy, {story}", mean_over(found), min(found), max(found), str(len(found)))
        for story, found in values.items()
    ]
    return Table("Over trainings", ("", "mean", "least", "most", "trainings"), (rows,))


def implicit_accuracy(run_folder: Path) -> float | None:
    """Share of held-out pairs of the last round that came out right; None where nothing was logged."""
    path = run_folder / "rounds.jsonl"
    rows = [json.loads(line) for line in read_lines(path)] if path.is_file() else []
    found = [row["held_out/implicit_accuracy"] for row in rows if "held_out/implicit_accuracy" in row]
    return float(found[-1]) if found else None
