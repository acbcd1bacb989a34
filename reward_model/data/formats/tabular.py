"""Tables as records: CSV or flat JSONL with any column names, seconds or frames, boxes in any unit.

One row is one anomaly, or one box of it: rows of a video with the same ``anomaly`` (or, without that column, the same
type and window) are one. A row without a type is a normal video. Length, rate and size come from the video files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reward_model.data.formats.common import (
    FormatError,
    Imported,
    TypeMap,
    empty_annotation,
    grid_box,
    map_type,
    seconds_to_frames,
    within,
)
from reward_model.data.formats.documents import parse_json, read_text
from reward_model.data.line_checks import check_object
from reward_model.data.records import GROUP_KEY, Record
from reward_model.data.validation import Problem
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation

#: What a column can mean. Needed are video and type, and for anomalies start and end.
ROLES = (
    *("video", "video_id", "type", "start", "end", "frame", "anomaly"),
    *("xmin", "ymin", "xmax", "ymax", "reason", "region", "objects"),
    *("prompt", "source", "split", "group"),
)
BOX_ROLES = ("xmin", "ymin", "xmax", "ymax")
BOX_UNITS = ("grid", "unit", "percent", "pixels")


@dataclass(frozen=True)
class TableLayout:
    """Layout of a table.

    Attributes:
        columns: role to column name where they differ, such as ``{"start": "onset_s"}``; see :data:`ROLES`.
        time: ``"frames"`` or ``"seconds"``, for start, end and frame. Ends are included.
        first_index: the number of the first frame, 0 or 1; for ``time="frames"``.
        box_unit: ``"grid"`` (0-1000), ``"unit"`` (0-1), ``"percent"`` or ``"pixels"``.
        box_layout: ``"xyxy"``, or ``"xywh"``: the columns xmax and ymax hold width and height.
        type_map: foreign type names; without it the five names and their aliases count.
        delimiter: delimiter of CSV files.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    time: str = "frames"
    first_index: int = 0
    box_unit: str = "grid"
    box_layout: str = "xyxy"
    type_map: TypeMap | None = None
    delimiter: str = ","

    def __post_init__(self) -> None:
        unknown = [role for role in self.columns if role not in ROLES]
        if unknown:
            raise FormatError(f"unknown column role {unknown[0]!r}; known are {', '.join(ROLES)}")
        if self.time not in ("frames", "seconds"):
            raise FormatError(f"time={self.time!r} must be 'frames' or 'seconds'")
        if self.box_unit not in BOX_UNITS or self.box_layout not in ("xyxy", "xywh"):
            raise FormatError(f"box_unit must be one of {', '.join(BOX_UNITS)}; box_layout 'xyxy' or 'xywh'")
        if self.first_index not in (0, 1) or len(self.delimiter) != 1:
            raise FormatError(f"first_index={self.first_index} must be 0 or 1, the delimiter one character")


def read_table(path: str | Path, layout: TableLayout | None = None, *, video_root: str | Path) -> Imported:
    """The records of a ``.csv``, ``.tsv`` or ``.jsonl`` table.

    Args:
        video_root: folder of the videos; every one must be there. Records keep the table's path of the video.

    Raises:
        FormatError: another suffix, not UTF-8, or a needed column is missing.
    """
    path, layout = Path(path), layout or TableLayout()
    problems: list[Problem] = []
    rows = _rows(path, layout, problems)
    videos: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
    for number, row in rows:
        if row.get("video"):
            videos.setdefault(row["video"], []).append((number, row))
        else:
            problems.append(Problem(number, "", "the row names no video"))
    records = []
    for name, numbered in videos.items():
        try:
            record = _record(name, numbered, layout, Path(video_root))
        except _RowError as error:
            problems.append(Problem(error.number, name, str(error)))
            continue
        except ValueError as error:
            problems.append(Problem(numbered[0][0], name, str(error)))
            continue
        faults = [f.message for f in check_object(record.to_dict()) if f.severity == "error"]
        problems += [Problem(numbered[0][0], name, message) for message in faults]
        records += [] if faults else [record]
    return Imported(records, problems)


class _RowError(ValueError):
    """A fault of one row."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def _rows(path: Path, layout: TableLayout, problems: list[Problem]) -> list[tuple[int, dict[str, str]]]:
    """Numbered rows with roles for keys and text for values; the header of a CSV file is line 1."""
    text = read_text(path)
    raw: list[tuple[int, Mapping[str, Any]]] = []
    if path.suffix.lower() in (".csv", ".tsv"):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else layout.delimiter
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            _check_columns(table.fieldnames or (), layout)
            raw = [(table.line_num, row) for row in table]
        except csv.Error as error:
            raise FormatError(f"{str(path)!r}, line {table.line_num}: {error}") from error
    elif path.suffix.lower() == ".jsonl":
        for n, line in enumerate(text.split("\n"), 1):
            try:
                raw += [(n, _json_row(line))] if line.strip() else []
            except FormatError as error:
                problems.append(Problem(n, "", str(error)))
    else:
        raise FormatError(f"{str(path)!r} must end in .csv, .tsv or .jsonl")
    return [(n, {role: _cell(row.get(layout.columns.get(role, role))) for role in ROLES}) for n, row in raw]


def _check_columns(names: Sequence[str], layout: TableLayout) -> None:
    wanted = {"video": layout.columns.get("video", "video"), "type": layout.columns.get("type", "type")}
    for role, column in {**layout.columns, **wanted}.items():
        if column not in names:
            raise FormatError(f"no column {column!r} for {role}; the table has {', '.join(names) or 'none'}")


def _json_row(line: str) -> Mapping[str, Any]:
    row = parse_json(line.encode())
    if not isinstance(row, dict):
        raise FormatError("a line must hold a JSON object")
    return row


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    return "" if value is None else str(value).strip()


def _record(name: str, rows: Sequence[tuple[int, Mapping[str, str]]], layout: TableLayout, root: Path) -> Record:
    head = rows[0][1]
    truth = empty_annotation(head["video_id"] or name, root / name, head["prompt"], head["source"])
    typed = [(number, row) for number, row in rows if row["type"]]
    if typed and len(typed) < len(rows):
        raise FormatError("some rows of the video name a type and some say it is normal")
    found: dict[tuple[str, ...], Anomaly] = {}
    for number, row in typed:
        try:
            anomaly = _anomaly(row, truth, layout)
        except ValueError as error:
            raise _RowError(number, str(error)) from error
        if anomaly is None:
            continue
        key = (row["anomaly"],) if row["anomaly"] else (anomaly.type.value, row["start"], row["end"])
        found[key] = _merge(found[key], anomaly) if key in found else anomaly
    if typed and not found:
        raise FormatError("every anomaly of the video is left out by the type map; leave the video out of the table")
    extra = {GROUP_KEY: head["group"]} if head["group"] else {}
    return Record(name, replace(truth, anomalies=tuple(found.values())), head["split"], extra)


def _anomaly(row: Mapping[str, str], truth: VideoAnnotation, layout: TableLayout) -> Anomaly | None:
    kind = AnomalyType.parse(row["type"]) if layout.type_map is None else map_type(row["type"], layout.type_map)
    if kind is None:
        return None
    frames = _window(row["start"], row["end"], truth, layout)
    cells = [row[role] for role in BOX_ROLES]
    boxes: dict[int, tuple[Box, ...]] = {}
    if any(cells):
        unit = {
            "grid": (BOX_SCALE, BOX_SCALE),
            "unit": (1, 1),
            "percent": (100, 100),
            "pixels": (truth.width, truth.height),
        }[layout.box_unit]
        box = grid_box([_number(c, "a box") for c in cells], unit, layout=layout.box_layout)
        shown = _window(row["frame"], row["frame"], truth, layout) if row["frame"] else frames
        boxes = dict.fromkeys(shown.frames(), (box,))
    objects = tuple(part.strip() for part in row["objects"].split(";") if part.strip())
    return Anomaly(kind, frames, boxes, objects, row["reason"], row["region"])


def _window(start: str, end: str, truth: VideoAnnotation, layout: TableLayout) -> FrameRange:
    first, last = _number(start, "start"), _number(end, "end")
    if layout.time == "seconds":
        return seconds_to_frames(first, last, truth.fps, truth.num_frames)
    if not (first.is_integer() and last.is_integer()):
        raise FormatError(f"frames {start}-{end} must be whole numbers; or is the time in seconds?")
    return within(FrameRange(int(first) - layout.first_index, int(last) - layout.first_index), truth.num_frames)


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise FormatError(f"{what} is {text!r}; a number is needed") from None


def _merge(old: Anomaly, new: Anomaly) -> Anomaly:
    if old.type is not new.type or old.frames != new.frames:
        raise FormatError(f"rows of one anomaly say {old.type.value} {old.frames} and {new.type.value} {new.frames}")
    boxes = dict(old.boxes)
    for frame, entries in new.boxes.items():
        boxes[frame] = boxes.get(frame, ()) + entries
    return replace(old, boxes=boxes)
