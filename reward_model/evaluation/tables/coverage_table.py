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
    choices = {title: kept(correct, [choice(r) for r in rows]) for title, choice in _choices(rows).items()}
    choices |= _curve(rows, correct)
    return [_row(name, title, rest) for title, rest in choices.items()] if len(choices) > 1 else []


def _choices(rows: Sequence[Row]) -> dict[str, Callable[[Row], bool]]:
    """Rules by which videos are kept, by title; a signal that no row carries has no line."""
    choices: dict[str, Callable[[Row], bool]] = {"all": lambda r: True}
    if any(r.out_of_domain is not None for r in rows):
        choices["in domain"] = lambda r: not r.out_of_domain
    if any(r.readouts_disagree for r in rows):
        choices["readouts agree"] = lambda r: not r.readouts_disagree
    if len(choices) == 3:
        choices["in domain, readouts agree"] = lambda r: not (r.out_of_domain or r.readouts_disagree)
    return choices


def _curve(rows: Sequence[Row], correct: Sequence[bool]) -> dict[str, Kept]:
    """Rest of the most familiar videos; empty unless every row says how familiar its video is."""
    known = [r.unfamiliarity for r in rows if r.unfamiliarity is not None]
    if not rows or len(known) < len(rows):
        return {}
    points = zip(SHARES, coverage(correct, known, SHARES), strict=True)
    return {f"most familiar {share:.0%}": rest for share, rest in points}


def _row(name: str, title: str, found: Kept) -> Sequence[Cell]:
    return name, title, found.share, Estimate(found.accuracy, found.interval), found.errors_left_out
