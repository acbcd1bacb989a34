"""Tables as Parquet, JSON lines or CSV, by the suffix of the file: rows are dictionaries, the columns the same for all.

In CSV a list is written as JSON, truth values as ``true`` and ``false``, and nothing as an empty field; read back,
columns of a known kind have that kind again and all others are text. A path in a table counts from its folder.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from reward_model.extras import need
from reward_model.files import atomic

TABLE_SUFFIXES = (".parquet", ".jsonl", ".csv")
#: Rows of a row group of Parquet, which is also what is held in memory while a table is written.
GROUP_ROWS = 4096
#: Kinds of columns: their name in the code, and the type of Arrow that holds them.
_ARROW = {"text": "string", "number": "float64", "whole": "int64", "flag": "bool_"}


class Own(NamedTuple):
    """The kind of a column of the user's own: that of its values, which are all here."""

    values: Sequence[Any]


def check_table_name(path: Path, option: str) -> None:
    """Raises ValueError unless the name of a table says how it is written."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(
            f"{option} {str(path)!r} must end in {', '.join(TABLE_SUFFIXES)}, which says how it is written"
        )
    if path.is_dir():
        raise ValueError(f"{option} {str(path)!r} is a folder; name a file in it")
    if path.suffix.lower() == ".parquet":
        need("pyarrow.parquet", "a table in Parquet")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, Any]) -> int:
    """Writes a table, whole or not at all, and returns its number of rows.

    Args:
        path: the file; its suffix says how it is written.
        rows: a value for each column; held a few thousand at a time.
        kinds: the columns in order: ``text``, ``number``, ``whole``, ``flag``; a list of one kind for lists; a
            dictionary of kinds for objects; :class:`Own` for a column whose kind its values decide.

    Raises:
        ValueError: if the values of a column do not go together in Parquet.
    """
    with atomic(path) as temporary:
        if path.suffix.lower() == ".parquet":
            return _write_parquet(temporary, rows, kinds)
        write = _json_lines if path.suffix.lower() == ".jsonl" else _csv_lines
        with temporary.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            return write(file, rows, list(kinds))


def read_table_rows(path: Path, kinds: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The rows of a table.

    Args:
        path: the file; its suffix says how it is read.
        kinds: kinds of the columns that are not text in CSV.

    Raises:
        ValueError: if it is not there, or not such a table; the message names the line.
    """
    if not path.is_file():
        raise ValueError(f"no table at {str(path)!r}; check the path")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    return _read_csv(path, kinds or {}) if suffix == ".csv" else _read_json_lines(path)


def path_from(folder: Path, video: str) -> str:
    """The path of a file as a table in a folder names it; links are left as the user named them.

    Example:
        >>> path_from(Path("/data/out"), "/data/clips/a.mp4")
        '../clips/a.mp4'
    """
    return os.path.relpath(os.path.abspath(video), os.path.abspath(folder))  # noqa: PTH100


def rebased(video: str, old: Path, new: Path) -> str:
    """The path of a video as a table in the folder ``new`` names it, given as one in the folder ``old`` does."""
    return video if Path(video).is_absolute() else path_from(new, str(old / video))


# --- writing ----------------------------------------------------------------------------------------------------------


def _json_lines(file: IO[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps({name: row[name] for name in columns}, allow_nan=False, default=str) + "\n")
        count += 1
    return count


def _csv_lines(file: IO[str], rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([_field(row[name]) for name in columns])
        count += 1
    return count


def _field(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value, default=str)


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], kinds: Mapping[str, Any]) -> int:
    need("pyarrow.parquet", "a table in Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _arrow(kind, name)) for name, kind in kinds.items()])
    source, count = iter(rows), 0
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(source, GROUP_ROWS)):
            arrays = [_array([row[name] for row in group], name, schema.field(name).type) for name in schema.names]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(group)
    return count


def _array(values: Sequence[Any], name: str, kind: Any = None) -> Any:
    need("pyarrow", "a table in Parquet")
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(
            f"the values of the column {name!r} do not go together in Parquet ({str(error).splitlines()[0]}); make "
            "them of one kind, or write a table that ends in .jsonl"
        ) from None


def _arrow(kind: Any, name: str = "") -> Any:
    need("pyarrow", "a table in Parquet")
    import pyarrow as pa

    if isinstance(kind, Own):
        found = _array(kind.values, name).type
        return pa.string() if found == pa.null() else found
    if isinstance(kind, list):
        return pa.list_(_arrow(kind[0]))
    if isinstance(kind, dict):
        return pa.struct([(inner, _arrow(of)) for inner, of in kind.items()])
    return getattr(pa, _ARROW[kind])()


# --- reading ----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    need("pyarrow.parquet", "a table in Parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is not a table in Parquet: {(str(error) or 'empty').splitlines()[0]}"
        ) from None
    return rows


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    from reward_model.journal import read_lines
    from reward_model.strict_json import read_strictly

    rows = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = read_strictly(line.decode())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f'{str(path)!r}, line {number}: not a JSON object, such as {{"video": "a.mp4"}}')
        rows.append(row)
    return rows


def _read_csv(path: Path, kinds: Mapping[str, Any]) -> list[dict[str, Any]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return list(_csv_rows(csv.reader(file, strict=True), kinds, path))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is not a table in CSV: {error}") from None


def _csv_rows(lines: Any, kinds: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    columns: list[str] = next(lines, [])
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice or not columns:
        raise ValueError(
            f"{str(path)!r}: the first line must name each column once{f', not {twice[0]!r} twice' if twice else ''}"
        )
    for fields in lines:
        if not fields:
            continue
        if len(fields) != len(columns):
            raise ValueError(
                f"{str(path)!r}, line {lines.line_num}: {len(fields)} fields for {len(columns)} columns; quote a field "
                "that holds a comma"
            )
        try:
            yield {name: _value(text, kinds.get(name)) for name, text in zip(columns, fields, strict=True)}
        except ValueError as error:
            raise ValueError(f"{str(path)!r}, line {lines.line_num}: {error}") from None


def _value(text: str, kind: Any) -> Any:
    """A field of CSV as its column wants it."""
    if kind in (None, "text"):
        return text if text or kind is None else None
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        raise ValueError(f"{text[:80]!r} is not a {kind if isinstance(kind, str) else 'list in JSON'}") from None
