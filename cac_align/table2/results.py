"""The results of a table in one small file, ``results.json``: every row's value of every video, what it cost, the
settings, and what made it. Tables are made from it alone, without models, videos or stored scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cac_align.table2.columns import Column, all_columns, fault_columns
from cac_align.table2.drawing import Drawing
from cac_align.table2.rows import TableRow
from cac_align.table2.settings import TableSettings
from reward_model.files import write_text
from reward_model.strict_json import read_strictly

FILE = "results.json"
FORMAT = 1
#: Digits after the point. Tables show three; what is made from the file is made from the same numbers as at first.
DIGITS = 6
#: Settings of counting, which may be changed when tables are made again.
COUNTING = ("against", "motion", "motion_share", "num_resamples")


@dataclass(frozen=True)
class Results:
    """Everything that the tables are made of.

    Attributes:
        settings: settings of the table.
        model: generator, as the title names it.
        prompts: evaluation prompts.
        drawings: of each row by its slug.
        forwards: transformer forward passes that one delivered video of a row cost, as counted; None where they were
            not.
        training_forwards: those of one training of a row with adapters, mean over its training seeds; None where no log
            counts them.
        values: (R, P, S) of each row's slug and column's name, NaN where there is no value.
        made_by: version and revision of the code, digests of the model, adapters and scorers.
    """

    settings: TableSettings
    model: str
    prompts: list[str]
    drawings: Mapping[str, Drawing]
    forwards: Mapping[str, float | None]
    training_forwards: Mapping[str, float | None]
    values: Mapping[str, Mapping[str, np.ndarray]]
    made_by: Mapping[str, Any]

    @property
    def columns(self) -> list[Column]:
        """Columns of the tables; those of single faults are not among them."""
        return all_columns(self.settings.columns, self.settings.reward_specs)

    def array(self, row: TableRow, column: Column) -> np.ndarray:
        """(R, P, S) values of a row."""
        return self.values[row.slug][column.name]

    def to_text(self) -> str:
        """JSON with a line for each row and column."""
        values = {
            row: {column: _plain(array) for column, array in columns.items()} for row, columns in self.values.items()
        }
        data = {
            "format": FORMAT,
            "made_by": self.made_by,
            "settings": self.settings.to_dict(),
            "model": self.model,
            "prompts": self.prompts,
            "drawings": {row: [d.steps, d.guidance] for row, d in self.drawings.items()},
            "forwards": self.forwards,
            "training_forwards": self.training_forwards,
            "axes": "values: row, column, training seed, prompt, evaluation seed",
            "values": values,
        }
        return _lines(data, 2) + "\n"

    def save(self, path: str | Path) -> Path:
        """Writes the file and returns its path."""
        return write_text(path, self.to_text())


def read_table_results(path: str | Path, changes: Sequence[str] = ()) -> Results:
    """The results of a file.

    Args:
        path: a file that :meth:`Results.save` wrote.
        changes: ``name=value`` texts for settings of :data:`COUNTING`.

    Raises:
        ValueError: if the file is missing, broken or of another format, or a setting is not one of counting.
    """
    from reward_model.engine.settings import changed

    for text in changes:
        if (name := text.partition("=")[0]) not in COUNTING:
            raise ValueError(
                f"{name}: tables made from a file can change {', '.join(COUNTING)} only; for another value run the "
                "table again"
            )
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no results at {str(path)!r}; name a {FILE} that recipes/table2.py wrote")
    try:
        data = read_strictly(path.read_text(encoding="utf-8"))
        version = data["format"]
        if version != FORMAT:
            raise ValueError(f"it has format {version!r}, this version reads {FORMAT}")
        known = {f.name for f in fields(TableSettings)}
        kept = {name: value for name, value in data["settings"].items() if name in known}
        settings = TableSettings(**changed(kept, changes))
        found = Results(
            settings,
            data["model"],
            data["prompts"],
            {row: Drawing(*entry) for row, entry in data["drawings"].items()},
            data["forwards"],
            data["training_forwards"],
            {row: {c: np.array(v, float) for c, v in columns.items()} for row, columns in data["values"].items()},
            data["made_by"],
        )
        _check(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a whole file of results: {error}; make the table again") from error
    return found


def _check(found: Results) -> None:
    """Raises ValueError unless there is an array of the right size for every row and column."""
    settings, prompts = found.settings, len(found.prompts)
    wanted = [*found.columns, *fault_columns(settings.columns)]
    for row in settings.table_rows:
        shape = (len(settings.train_seeds) if row.trained else 1, prompts, len(settings.eval_seeds))
        for column in wanted:
            if (given := found.array(row, column).shape) != shape:
                raise ValueError(f"values of row {row.name!r}, column {column.name!r} are {given}, not {shape}")


def _plain(array: np.ndarray) -> Any:
    """Nested lists, None for NaN, whole numbers without a point."""
    if array.ndim:
        return [_plain(part) for part in array]
    value = float(array)
    if np.isnan(value):
        return None
    return int(value) if value.is_integer() else value


def _lines(value: object, depth: int) -> str:
    """JSON whose mappings down to a depth have a line for each entry."""
    if depth < 0 or not isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {_lines(v, depth - 1)}" for k, v in value.items()) + "\n}"
