"""Annotation files: JSONL, one video per line, read and written whole or not at all.

One line is ``{"video": "clips/a.mp4", ...VideoAnnotation.to_dict()..., "split": "train", ...}``. ``video`` is relative
to the file's folder or absolute, frames are native frames from zero, boxes are on the 0-1000 grid, and unknown keys are
kept.

Example:
    >>> records = read_annotations("data/train.jsonl")                                        # doctest: +SKIP
    >>> records[0].truth.status, video_path(records[0], "data/train.jsonl")                   # doctest: +SKIP
    ('abnormal', PosixPath('data/clips/a.mp4'))
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from reward_model.data.line_checks import check_object
from reward_model.data.records import RECORD_KEYS, Record, rebase, video_path
from reward_model.data.validation import Problem, ValidationReport, check_together, validate_annotations
from reward_model.files import atomic

__all__ = [
    "AnnotationError",
    "Problem",
    "Record",
    "ValidationReport",
    "read_annotations",
    "rebase",
    "validate_annotations",
    "video_path",
    "write_annotations",
]

#: Problems an error message shows; :attr:`AnnotationError.problems` holds all of them.
MAX_SHOWN = 50


class AnnotationError(ValueError):
    """Annotations that break the rules. ``problems`` lists every fault, the message the first fifty."""

    def __init__(self, place: str | Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [f"{place}: {len(self.problems)} problem(s)", *map(str, self.problems[:MAX_SHOWN])]
        if len(self.problems) > MAX_SHOWN:
            lines.append(f"... and {len(self.problems) - MAX_SHOWN} more")
        super().__init__("\n".join(lines))


def read_annotations(
    path: str | Path, *, video_root: str | Path | None = None, check_videos: bool = True
) -> list[Record]:
    """The records of an annotation file, in its order.

    Args:
        path: a JSONL file.
        video_root: where relative videos lie, by default the folder of ``path``.
        check_videos: also compare each record with the header of its video file.

    Raises:
        AnnotationError: if the file is missing, or any line breaks a rule; every error is listed with its line.
    """
    report = validate_annotations(path, video_root=video_root, check_videos=check_videos)
    if report.errors:
        raise AnnotationError(path, report.errors)
    return list(report.records)


def write_annotations(path: str | Path, records: Iterable[Record]) -> Path:
    """Writes records as JSONL, atomically: an existing file is replaced as a whole or not touched. Returns the path.

    The same rules as in reading hold, apart from the video files, which may be written later.

    Raises:
        AnnotationError: if a record breaks a rule (``Problem.line`` counts the records from 1), or there is no record.
    """
    path, numbered = Path(path), list(enumerate(records, 1))
    problems = [p for number, record in numbered for p in _check_record(number, record)]
    problems += [p for p in check_together(numbered) if p.severity == "error"]
    problems += [] if numbered else [Problem(0, "", "there is no record to write")]
    if problems:
        raise AnnotationError(path, problems)
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for _, record in numbered:
            file.write(json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
    return path


def _check_record(number: int, record: Record) -> list[Problem]:
    name = record.truth.video_id
    taken = [key for key in record.extra if key in RECORD_KEYS]
    if taken:
        return [Problem(number, name, f"extra key {taken[0]!r} belongs to the record itself; rename it")]
    findings = check_object(record.to_dict())
    return [Problem(number, name, f.message) for f in findings if f.severity == "error"]
