"""The table itself, what each row gains over the base, and every training seed on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cac_align.table2.columns import DIVERSITY, Column, fault_columns
from cac_align.table2.maths import Found, Redraw, by_seed, difference_of, mean_of, p_value, ratio_of, redraw
from cac_align.table2.results import Results
from cac_align.table2.rows import TableRow
from reward_model.evaluation.tables.paper_tables import paper_table
from reward_model.statistics.table import Cell, Estimate, Table


class TableMaker:
    """Makes all tables of some results.

    Args:
        results: the values, and what they cost.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.settings = results, results.settings
        self.rows, self.columns = self.settings.table_rows, results.columns
        self.seeded = any(r.trained for r in self.rows) and len(self.settings.train_seeds) > 1

    def all(self) -> list[Table]:
        """Means, differences, ratios, motion's condition, seeds, faults, and the paper's own table."""
        tables = [self.means(), self.differences()]
        tables += [self.differences(self.settings.row(name)) for name in self.settings.against]
        tables.append(self.ratios())
        if self.seeded:
            tables.append(self.seeds())
        if fault_columns(self.settings.columns):
            tables.append(self.faults())
        return [*tables, paper()]

    def draws(self, values: np.ndarray) -> Redraw:
        """The resamples of an array; those of prompts are the same for all."""
        settings = self.settings
        return redraw(*values.shape[:2], num_resamples=settings.num_resamples, seed=settings.seed)

    def of(self, row: TableRow, column: Column) -> np.ndarray:
        return self.results.array(row, column)

    def base(self, column: Column) -> np.ndarray:
        return self.of(self.rows[0], column)

    def means(self) -> Table:
        """The mean of every column, row by row."""
        lines: list[Sequence[Cell]] = []
        for row in self.rows:
            cells = [mean_of(v := self.of(row, c), self.draws(v), rate=c.rate) for c in self.columns]
            trained = len(self.settings.train_seeds) if row.trained else None
            num = max((c.num for c in cells), default=0)
            lines.append((row.name, trained, num, self.results.forwards[row.slug], *map(cell_estimate, cells)))
        titles = ("row", "training seeds", "videos", "forwards", *(c.title for c in self.columns))
        return Table(f"Alignment of {self.results.model}", titles, [lines], tuple(self._notes()))

    def differences(self, other: TableRow | None = None) -> Table:
        """Every row minus the base, or minus another row, on the same prompts and first latents."""
        base = self.rows[0]
        other = other or base
        lines = [self._difference_line(row, other) for row in self.rows if row not in (base, other)]
        titles = ("row", *(title for c in self.columns for title in (c.title, f"p, {c.name}")))
        name, both = ("base", "row and base") if other == base else (other.name, "the two")
        note = (
            f"Row minus {name}, video by video. p: two-sided, exchange of {both} prompt by prompt; it tells of "
            "other prompts, not of other training seeds. No correction for the number of comparisons."
        )
        if other.trained and self.seeded:
            note += " Training seeds are paired in their order; a row without training is set against each of them."
        title = "Difference to the base" if other == base else f"Difference to {other.name}"
        return Table(title, titles, [lines], (note,))

    def _difference_line(self, row: TableRow, other: TableRow) -> Sequence[Cell]:
        cells: list[Cell] = [row.name]
        for column in self.columns:
            values, less = np.broadcast_arrays(self.of(row, column), self.of(other, column))
            cells += [cell_estimate(difference_of(values, less, self.draws(values))), show_p(p_value(values, less))]
        return cells

    def ratios(self) -> Table:
        """Every row's mean over the base's, and whether motion is kept."""
        settings = self.settings
        lines: list[Sequence[Cell]] = []
        for row in self.rows[1:]:
            found = {c.name: self._ratio(row, c) for c in self.columns}
            kept = (self._kept(found[settings.motion]),) if settings.motion else ()
            lines.append((row.name, *kept, *map(cell_estimate, found.values())))
        share = f"{settings.motion_share:g}"
        head = (f"{settings.motion} of at least {share} of base",) if settings.motion else ()
        note = (
            f"Motion: 'yes' where the whole interval lies at {share} or above, 'no' where all of it lies below, else "
            "'open', with the side its middle is on."
        )
        titles = ("row", *head, *(c.title for c in self.columns))
        return Table("Ratio to the base", titles, [lines], (note,) if settings.motion else ())

    def _ratio(self, row: TableRow, column: Column) -> Found:
        values = self.of(row, column)
        return ratio_of(values, self.base(column), self.draws(values))

    def _kept(self, ratio: Found) -> str | None:
        """True if motion has not fallen below its share of the base."""
        limit = self.settings.motion_share
        if ratio.value is None or ratio.interval is None:
            return None
        if ratio.interval.low >= limit:
            return "yes"
        return "no" if ratio.interval.high < limit else f"open ({'above' if ratio.value >= limit else 'below'})"

    def seeds(self) -> Table:
        """Means of every training seed, so that nobody takes one lucky training for a result."""
        lines: list[Sequence[Cell]] = []
        for row in self.rows:
            if not row.trained:
                continue
            means = [by_seed(self.of(row, c)) for c in self.columns]
            lines += [(row.name, s, *(m[k] for m in means)) for k, s in enumerate(self.settings.train_seeds)]
        return Table("Training seeds", ("row", "seed", *(c.title for c in self.columns)), [lines])

    def faults(self) -> Table:
        """Table of the faults that the rule reports."""
        columns = fault_columns(self.settings.columns)
        lines: list[Sequence[Cell]] = []
        for row in self.rows:
            arrays = [self.of(row, c) for c in columns]
            lines.append((row.name, *(cell_estimate(mean_of(v, self.draws(v), rate=True)) for v in arrays)))
        note = (
            "The rule follows the object by brightness and knows no judge, prompt or truth; it is made for one object "
            "on a plain ground. A video can have several faults."
        )
        return Table("Faults by the rule", ("row", *(c.label for c in columns)), [lines], (note,))

    def _notes(self) -> list[str]:
        settings = self.settings
        prompts, seeds = len(self.results.prompts), len(settings.eval_seeds)
        redrawn = "prompts (with all videos of a prompt)"
        if self.seeded:
            redrawn += f" and, for trained rows, {len(settings.train_seeds)} training seeds"
        latents = "1 first latent" if seeds == 1 else f"{seeds} first latents"
        notes = [
            f"{prompts} prompts that no training saw, {latents} each, the same for all rows; deterministic "
            f"sampler. {self._drawn()}",
            "forwards: passes of one video through the transformer that a delivered video cost, those of all its "
            "candidates, as counted while they were drawn; guidance takes two a step, judging is "
            "not in it. '-': not counted. " + self._trained(),
            f"[low, high] are 95% bootstrap intervals over {redrawn}; few training seeds make them too narrow. Shares "
            "of exactly 0 or 1 have Wilson's interval over prompts.",
        ]
        if any(c.key.startswith("world/") for c in self.columns):
            notes.append(
                "Motion, drift, sharpness and the rule are computed from pixels and are not VBench metrics: see "
                "cac_align/table2/measures.py."
            )
        if DIVERSITY in self.columns:
            notes.append(
                "Difference between videos of a prompt: mean absolute difference of their pixels, in place and time, "
                "over the first latents, as a share of full brightness. Faults that go away make videos more alike too."
            )
        return [*notes, *self._missing()]

    def _drawn(self) -> str:
        """Steps, guidance and candidates of the rows."""
        ways: dict[str, list[str]] = {}
        for row in self.rows:
            count = self.settings.candidates(row)
            best = f", best of {count} candidates" if row.kind == "best_of_n" else ""
            ways.setdefault(f"{self.results.drawings[row.slug]}{best}", []).append(row.name)
        told = "; ".join(f"{way}: {', '.join(names)}" for way, names in ways.items())
        same = "Candidates start from the same latents in all rows; rows without a choice show the first."
        return f"Drawn in {told}. {same}"

    def _trained(self) -> str:
        """Forward passes of the trainings, which the column leaves out."""
        known = self.results.training_forwards
        told = [
            f"{row.name} {'not counted' if known[row.slug] is None else f'{known[row.slug]:,}'}"
            for row in self.rows
            if row.has_loras
        ]
        return f"One training took besides, to draw and to learn: {', '.join(told)}." if told else ""

    def _missing(self) -> list[str]:
        """Values that do not exist yet, or could not be scored, by row and column."""
        whole = len(self.results.prompts) * len(self.settings.eval_seeds)
        notes = []
        for row in self.rows:
            for column in self.columns:
                values = self.of(row, column)
                lost = int(np.isnan(values).sum())
                if lost:
                    notes.append(f"{row.name}: {lost} of {whole * len(values)} videos without {column.label}.")
        return notes


def paper() -> Table:
    """The paper's Table 2 as printed, rows and columns as ours."""
    printed = paper_table("Table 2")
    rows = [(name, *(printed.cell(metric, name) for metric in printed.rows)) for name in printed.columns]
    note = (
        f"As printed in arXiv 2605.11723: {printed.bench}, VBench metrics. It says what the rows mean; no number here"
    )
    return Table("The paper's Table 2", ("row", *printed.rows), [rows], (f"{note} is to be compared with it.",))


def cell_estimate(found: Found) -> Estimate:
    """A number for a cell."""
    return Estimate(found.value, found.interval)


def show_p(value: float | None) -> str | None:
    """A p-value as text."""
    return None if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def tables_to_dict(maker: TableMaker, tables: Sequence[Table]) -> dict[str, Any]:
    """Everything as plain values: settings, tables, and every video's value in every column."""
    values = {
        row.slug: {
            c.name: [[[None if np.isnan(v) else float(v) for v in p] for p in s] for s in maker.of(row, c)]
            for c in maker.columns
        }
        for row in maker.rows
    }
    return {
        "settings": maker.settings.to_dict(),
        "tables": [table.to_dict() for table in tables],
        "prompts": maker.results.prompts,
        "values": values,
        "axes": "values: row, column, training seed, prompt, evaluation seed",
    }
