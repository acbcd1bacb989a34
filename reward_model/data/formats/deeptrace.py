"""DeeptraceReward (arXiv 2509.22646) as records.

``all_data.json`` has one row per trace of a fake video: ``video_id``, ``video_path``, ``video_type`` (``fake_video`` or
``real_video``), ``video_source``, ``video_prompt``, ``split``, ``video_width``, ``video_height``, ``video_frame_rate``,
``video_frame_count``, ``faketrace_bbox`` (``left``, ``top``, ``width``, ``height`` in pixels),
``faketrace_first_frame``, ``faketrace_explanations`` and ``faketrace_check_applies`` (tags of nine categories).
Neither the names of the tags, nor the field of a trace's last frame, nor whether frames count from 0 or 1 could be
verified: the caller states all three.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_model.data.formats.common import FormatError, Imported, TypeMap, grid_box, map_type, within
from reward_model.data.formats.documents import read_json
from reward_model.data.line_checks import check_object
from reward_model.data.records import GROUP_KEY, Record
from reward_model.data.validation import Problem
from reward_model.schema import Anomaly, FrameRange, VideoAnnotation
from reward_model.strict_json import is_int, is_number

KINDS = {"fake_video": "abnormal", "real_video": "normal"}
TO_END = "end of video"


def read_deeptrace(
    path: str | Path,
    *,
    type_map: TypeMap,
    last_frame: str,
    first_index: int,
    box_on: str = "first",
    group_field: str | None = None,
) -> Imported:
    """One record per video.

    Args:
        path: a JSON list of rows, one per trace.
        type_map: tag to type; None leaves a tag out. The first tag of a trace that has a type decides.
        last_frame: the field that holds a trace's last frame, or :data:`TO_END` if windows shall run to the end of
            the video.
        first_index: 0 or 1, the number of the first frame of a video in the file.
        box_on: a trace has one box: put it on the ``"first"`` frame of the window, or on ``"all"`` of them.
        group_field: a field that names the source footage, so that real and fake twins share a split.

    Returns:
        Records whose ``video`` is the row's ``video_path``; a fake video without a usable trace is left out with a
        warning.

    Raises:
        FormatError: if the file is not a JSON list, or an argument has a value not listed above.
    """
    if first_index not in (0, 1) or box_on not in ("first", "all"):
        raise FormatError(f"first_index={first_index} must be 0 or 1, box_on={box_on!r} 'first' or 'all'")
    rows = read_json(path)
    if not isinstance(rows, list):
        raise FormatError(f"{str(path)!r} must hold a JSON list of rows")
    reader = _Reader(type_map, last_frame, first_index, box_on, group_field)
    videos, problems = _by_video(rows)
    records = []
    for name, numbered in videos.items():
        number = numbered[0][0]
        try:
            record = reader.video(name, [row for _, row in numbered])
        except KeyError as error:
            problems.append(Problem(number, name, f"field {error} is missing"))
            continue
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            problems.append(Problem(number, name, str(error)))
            continue
        if isinstance(record, str):
            problems.append(Problem(number, name, record, "warning"))
            continue
        faults = [f.message for f in check_object(record.to_dict()) if f.severity == "error"]
        problems += [Problem(number, name, message) for message in faults]
        records += [] if faults else [record]
    return Imported(records, problems)


def _by_video(rows: Sequence[Any]) -> tuple[dict[str, list[tuple[int, Mapping[str, Any]]]], list[Problem]]:
    """Numbered rows by their video, and a problem for each that names none."""
    videos: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    problems = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict) and isinstance(row.get("video_id"), str | int):
            videos.setdefault(str(row["video_id"]), []).append((number, row))
        else:
            problems.append(Problem(number, "", "the row has no video_id"))
    return videos, problems


class _Reader:
    """Reader of rows with the caller's settings."""

    def __init__(self, types: TypeMap, last_frame: str, first_index: int, box_on: str, group_field: str | None) -> None:
        self.types, self.last_frame, self.first_index = types, last_frame, first_index
        self.box_on, self.group_field = box_on, group_field

    def video(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Record | str:
        """The record of a video's rows, or why it is left out."""
        head = rows[0]
        status = KINDS.get(head["video_type"])
        if status is None or any(row["video_type"] != head["video_type"] for row in rows):
            raise FormatError(f"video_type {head['video_type']!r} must be one of {', '.join(KINDS)} in all rows")
        # Before a trace is expanded to a box per frame.
        facts = {
            "num_frames": head["video_frame_count"],
            "fps": head["video_frame_rate"],
            "width": head["video_width"],
            "height": head["video_height"],
        }
        for fault in check_object({"video": name, "video_id": name, "status": "normal", "anomalies": [], **facts}):
            raise FormatError(fault.message)
        anomalies = [] if status == "normal" else [a for row in rows if (a := self.trace(row)) is not None]
        if status == "abnormal" and not anomalies:
            return "a fake video without a single trace of the five types; skipped"
        truth = VideoAnnotation(
            video_id=name,
            **facts,
            prompt=head.get("video_prompt") or "",
            anomalies=tuple(anomalies),
            source=f"DeeptraceReward {head.get('video_source') or ''}".strip(),
        )
        extra = {GROUP_KEY: str(head[self.group_field])} if self.group_field else {}
        return Record(head["video_path"], truth, head.get("split") or "", extra)

    def trace(self, row: Mapping[str, Any]) -> Anomaly | None:
        """One row as an anomaly; None if the type map leaves all its tags out."""
        tags = row["faketrace_check_applies"]
        kinds = [map_type(tag, self.types) for tag in ([tags] if isinstance(tags, str) else tags)]
        kind = next((k for k in kinds if k is not None), None)
        if kind is None:
            return None
        last = row["video_frame_count"] - 1
        start = self.frame(row, "faketrace_first_frame")
        stop = last if self.last_frame == TO_END else self.frame(row, self.last_frame)
        frames = within(FrameRange(start, stop), last + 1)
        box = row["faketrace_bbox"]
        values = [box[key] for key in ("left", "top", "width", "height")]
        if not all(is_number(v) for v in values):
            raise FormatError(f"faketrace_bbox {box} must hold four numbers")
        found = grid_box(values, (row["video_width"], row["video_height"]), layout="xywh")
        shown = [start] if self.box_on == "first" else frames.frames()
        return Anomaly(kind, frames, dict.fromkeys(shown, (found,)), reason=_text(row["faketrace_explanations"]))

    def frame(self, row: Mapping[str, Any], key: str) -> int:
        """A frame number of the row, counted from 0."""
        value = row[key]
        if not is_int(value) or value < self.first_index:
            raise FormatError(f"{key} is {value!r}; it must be an integer of at least {self.first_index}")
        return int(value) - self.first_index


def _text(value: str | Iterable[object] | None) -> str:
    return value if isinstance(value, str) else " ".join(map(str, value or ()))
