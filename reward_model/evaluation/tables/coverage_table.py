"""Accuracy of what is left when a judge's unfamiliar and contradictory videos are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reward_model.evaluation.metrics.coverage import Kept, coverage, kept
from reward_model.evaluation.running.row import Row
from reward_model.statistics.table import Cell, Estimate, Table

#: Shares of the most familiar videos that are shown.
SHARES = (0.9, 0.75, 0.5)


def coverage_table(bench: str, rows: Mapping[str, Sequence[Row]]) -> Table:
    """A group of rows for each judge that can tell; none for others."""
    groups = [group for name, found in rows.items() if (group := _group(name, [r for r in found if r.has_verdict]))]
    notes = (
        "kept: share of the videos; left out: share of the wrong answers that are not among them. A judge that cannot "
        "tell how familiar a video is has no such rows.",
        "Brackets: 95 % intervals (Wilson).",
    )
    return Table(f"What is left without doubtful videos, {bench}", COLUMNS, groups or [[]], notes)


COLUMNS = ("judge", "videos", "kept", "accuracy", "wrong answers left out")


def _group(name: str, rows: Sequence[Row]) -> list[Sequence[Cell]]:
    correct = [r.correct for r in rows]
    choices: dict[str, Callable[[Row], bool]] = {"all": lambda r: True}
    if any(r.out_of_domain is not None for r in rows):
        choices["in domain"] = lambda r: not r.out_of_domain
    if any(r.readouts_disagree for r in rows):
        choices["readouts agree"] = lambda r: not r.readouts_disagree
    if len(choices) == 3:
        choices["in domain, readouts agree"] = lambda r: not (r.out_of_domain or r.readouts_disagree)
    shown = {title: kept(correct, [choice(r) for r in rows]) for title, choice in choices.items()}
    known = [r.unfamiliarity for r in rows]
    if rows and None not in known:
        curve = coverage(correct, [k for k in known if k is not None], SHARES)
        shown |= {f"most familiar {share:.0%}": found for share, found in zip(SHARES, curve, strict=True)}
    return [_row(name, title, found) for title, found in shown.items()] if len(shown) > 1 else []


def _row(name: str, title: str, found: Kept) -> Sequence[Cell]:
    return name, title, found.share, Estimate(found.accuracy, found.interval), found.errors_left_out
