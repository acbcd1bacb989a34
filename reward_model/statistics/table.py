"""One table, written as Markdown, as LaTeX or as plain values."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_model.statistics.intervals import Interval

#: What a cell may hold: text, a number (shown with three digits), an :class:`Estimate` or nothing ("-").
Cell = Any

_MARKDOWN = re.compile(r"([\\|`*_<>\[\]])")
_ESCAPED = re.compile(r"\\([\\|`*_<>\[\]])")
_BAR, _RULE = re.compile(r"(?<!\\)\|"), re.compile(r"\|[-:| ]+\|?")
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, shown as ``0.500 [0.400, 0.600]``."""

    value: float | None
    interval: Interval | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.interval is None:
            return _number(self.value)
        return f"{_number(self.value)} [{_number(self.interval.low)}, {_number(self.interval.high)}]"


@dataclass(frozen=True)
class Table:
    """A title, columns, and rows in groups that a rule separates.

    Attributes:
        columns: heads, the first one that of the row names.
        groups: each a list of rows; a row has a cell for each column.
        notes: lines below the table, such as what the paper's rows were measured on.

    Example:
        >>> table = Table("Judges", ("model", "accuracy"), ([("a_b", 0.5)], [("CaC (paper)", 0.817)]))
        >>> print(table.to_markdown().splitlines()[4])
        | a\\_b        | 0.500    |
    """

    title: str
    columns: tuple[str, ...]
    groups: Sequence[Sequence[Sequence[Cell]]]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {row[0]!r} has {len(row)} cells for {len(self.columns)} columns"
                )

    @property
    def rows(self) -> list[Sequence[Cell]]:
        """All rows, group after group."""
        return [row for group in self.groups for row in group]

    def to_markdown(self) -> str:
        """A heading, a table whose columns line up, and the notes."""
        rows = [[escape_markdown(show(cell)) for cell in row] for row in self.rows]
        parts = [
            f"### {escape_markdown(self.title)}",
            markdown_table([escape_markdown(c) for c in self.columns], rows),
            *(f"{escape_markdown(note)}" for note in self.notes),
        ]
        return "\n\n".join(parts) + "\n"

    def to_text(self) -> str:
        """The same for a terminal, where nothing is escaped."""
        rows = [[" ".join(show(cell).split()) for cell in row] for row in self.rows]
        return "\n".join([self.title, markdown_table(self.columns, rows), *self.notes]) + "\n"

    def to_latex(self) -> str:
        """A ``table`` with ``booktabs`` rules; a rule between groups."""
        lines = [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape_latex(self.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            r"\toprule",
            _latex_row(self.columns),
        ]
        for group in self.groups:
            if group:
                lines += [r"\midrule", *map(_latex_row, group)]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\footnotesize {escape_latex(note)}" for note in self.notes]
        return "\n".join([*lines, r"\end{table}"]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: cells by column, numbers unrounded."""
        return {
            "title": self.title,
            "columns": list(self.columns),
            "groups": [
                [dict(zip(self.columns, map(_plain, row), strict=True)) for row in group] for group in self.groups
            ],
            "notes": list(self.notes),
        }


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells, already escaped, in columns that line up."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def plain_text(markdown: str) -> str:
    """Markdown of tables, headings and lines as a terminal shows it best: nothing escaped, columns in line.

    Example:
        >>> print(plain_text("### T\\n\\n| a\\\\_b | c |\\n|---|---|\\n| 1 | 2 |"))
        T
        <BLANKLINE>
        | a_b | c |
        |-----|---|
        | 1   | 2 |
    """
    found: list[str] = []
    rows: list[list[str]] = []
    for line in [*markdown.split("\n"), ""]:
        if line.startswith("|"):
            if not _RULE.fullmatch(line):
                rows.append([_unescaped(cell.strip()) for cell in _BAR.split(line)[1:-1]])
            continue
        if rows:
            found += markdown_table(rows[0], rows[1:]).split("\n")
            rows = []
        found.append(_unescaped(line.lstrip("#").lstrip() if line.startswith("#") else line))
    return "\n".join(found[:-1])


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def show(cell: Cell) -> str:
    """A cell as text: three digits for a number, "-" for nothing."""
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return _number(cell)
    return str(cell)


def escape_markdown(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def escape_latex(text: str) -> str:
    """Text on one line that LaTeX shows as it is."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _latex_row(row: Sequence[Cell]) -> str:
    return " & ".join(escape_latex(show(cell)) for cell in row) + r" \\"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _plain(cell: Cell) -> object:
    if isinstance(cell, Estimate):
        return {"value": cell.value, "interval": list(cell.interval) if cell.interval else None}
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    return cell
