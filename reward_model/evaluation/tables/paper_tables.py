"""The paper's tables as printed (arXiv 2605.11723v2), for comparison with ours and to check our arithmetic.

The numbers lie in ``paper_tables.json`` and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

Value = float | str | None

#: Table and name of the one row whose precisions do not follow from its recalls (docs/paper_notes.md).
INCONSISTENT_ROW = ("Table 1", "Gemini-3.1-Pro")
#: Tables with both classes' recall, precision and F1 and the accuracy.
CLASS_TABLES = ("Table 1", "Table 3", "Table S1")


@dataclass(frozen=True)
class PaperTable:
    """One table: ``rows[name][k]`` belongs to ``columns[k]``; None is an empty cell. ``bench``: what it was measured
    on.
    """

    name: str
    title: str
    bench: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Value, ...]]

    def cell(self, row: str, column: str) -> Value:
        """One value.

        Raises:
            ValueError: if there is no such row or column.
        """
        if row not in self.rows:
            raise ValueError(f"{self.name} has no row {row!r}; it has {', '.join(map(repr, self.rows))}")
        if column not in self.columns:
            raise ValueError(f"{self.name} has no column {column!r}; it has {', '.join(map(repr, self.columns))}")
        return self.rows[row][self.columns.index(column)]


@cache
def load_paper_tables() -> dict[str, PaperTable]:
    """All tables by their number, such as ``"Table 1"``, ``"Table S4"``, ``"Figure 4"``.

    Example:
        >>> load_paper_tables()["Table S4"].cell("CaC", "temporal IoU")
        0.695
    """
    data = json.loads(files(__package__).joinpath("paper_tables.json").read_text(encoding="utf-8"))
    return {name: _read(name, table) for name, table in data["tables"].items()}


def paper_table(name: str) -> PaperTable:
    """One table by its number.

    Raises:
        ValueError: if there is no such table.
    """
    tables = load_paper_tables()
    if name not in tables:
        raise ValueError(f"the paper has no {name!r}; stored are {', '.join(tables)}")
    return tables[name]


def _read(name: str, data: Mapping[str, object]) -> PaperTable:
    columns, rows = data["columns"], data["rows"]
    assert isinstance(columns, list) and isinstance(rows, dict)
    wrong = [row for row, values in rows.items() if len(values) != len(columns)]
    if wrong:
        raise ValueError(f"{name}: row {wrong[0]!r} must have {len(columns)} values")
    return PaperTable(
        name,
        str(data["title"]),
        str(data["bench"]),
        tuple(columns),
        {row: tuple(values) for row, values in rows.items()},
    )
