"""Everything that is wrong with an annotation file, each fault with its line; nothing stops at the first one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reward_model.data.line_checks import Finding, Severity, check_object
from reward_model.data.records import Record, video_path
from reward_model.strict_json import read_strictly
from reward_model.video.clip import VideoError
from reward_model.video.reading import probe

#: A longer line is refused unread: an annotation of a minute with a box per frame is under 1 MiB.
MAX_LINE_BYTES = 16 * 2**20
#: Rates closer than this share are the same: 23.976 and 24 are 0.1 % apart, 24 and 25 are 4 %.
FPS_TOLERANCE = 0.005
#: The classes of a split may differ by this share of its videos before it is called imbalanced. Section C.2: 1:1.
BALANCE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Problem:
    """One fault. ``line`` counts from 1 (0: the file as a whole), ``video_id`` is "" where the line names none."""

    line: int
    video_id: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "file"
        name = f" ({self.video_id})" if self.video_id else ""
        return f"{place}{name}: {'warning: ' if self.severity == 'warning' else ''}{self.message}"


@dataclass(frozen=True)
class ValidationReport:
    """Result of a validation: the records of all lines without an error, and the problems in the order of the file."""

    records: tuple[Record, ...]
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(p for p in self.problems if p.severity == "warning")

    @property
    def ok(self) -> bool:
        """No errors; warnings may remain."""
        return not self.errors


def validate_annotations(
    path: str | Path, *, video_root: str | Path | None = None, check_videos: bool = True, strict: bool = False
) -> ValidationReport:
    """Reads an annotation file and lists every problem.

    Args:
        path: a JSONL file, one object per line, UTF-8.
        video_root: where relative videos lie, by default the folder of ``path``.
        check_videos: also look at the files: there, readable, and of the annotated size, rate and length. Headers
            only, nothing is decoded.
        strict: warnings become errors.
    """
    path = Path(path)
    if not path.is_file():
        return ValidationReport((), (Problem(0, "", f"no annotation file at {str(path)!r}"),))
    lines, problems = _check_lines(path)
    problems += check_together(lines)
    problems += _check_files([(n, r, video_path(r, path, video_root)) for n, r in lines], probed=check_videos)
    if not lines and not problems:
        problems.append(Problem(0, "", f"{str(path)!r} holds no annotation"))
    if strict:
        problems = [replace(p, severity="error") for p in problems]
    problems.sort(key=lambda p: p.line or float("inf"))
    bad = {p.line for p in problems if p.severity == "error"}
    return ValidationReport(tuple(record for number, record in lines if number not in bad), tuple(problems))


def _check_lines(path: Path) -> tuple[list[tuple[int, Record]], list[Problem]]:
    """The records of all lines that have no error of their own, with their numbers; and the problems of all lines."""
    lines: list[tuple[int, Record]] = []
    problems: list[Problem] = []
    for number, data, findings in _read_lines(path):
        faults = findings if data is None else check_object(data)
        name = _id_of(data)
        problems += [Problem(number, name, f.message, f.severity) for f in faults]
        if not any(f.severity == "error" for f in faults) and data is not None:
            lines.append((number, Record.from_dict(data)))
    return lines, problems


def check_together(lines: Sequence[tuple[int, Record]]) -> list[Problem]:
    """Faults between numbered records: an id used twice, a group in two splits, classes out of balance."""
    problems = []
    ids: dict[str, int] = {}
    groups: dict[str, tuple[str, int]] = {}
    for number, record in lines:
        name = record.truth.video_id
        if name in ids:
            problems.append(Problem(number, name, f"video_id {name!r} is already used on line {ids[name]}"))
        ids.setdefault(name, number)
        split, first = groups.setdefault(record.group, (record.split, number))
        if split != record.split:
            message = (
                f"group {record.group!r} is in split {record.split!r} here and in {split!r} on line {first}; "
                "videos of one source must share a split, or the test set leaks"
            )
            problems.append(Problem(number, name, message))
    return problems + list(_check_balance(record for _, record in lines))


def _check_balance(records: Iterable[Record]) -> Iterator[Problem]:
    counts: dict[str, Counter[str]] = {}
    for record in records:
        counts.setdefault(record.split, Counter())[record.truth.status] += 1
    for split, count in sorted(counts.items()):
        normal, abnormal = count["normal"], count["abnormal"]
        if abs(normal - abnormal) > BALANCE_TOLERANCE * (normal + abnormal):
            place = f"split {split!r}" if split else "the file"
            message = f"{place} holds {normal} normal and {abnormal} abnormal videos; training expects 1:1"
            yield Problem(0, "", message, "warning")


def _check_files(places: Sequence[tuple[int, Record, Path]], *, probed: bool) -> Iterator[Problem]:
    yield from _same_file_twice(places)
    if probed:
        for number, record, place in places:
            yield from _check_file(number, record, place)


def _same_file_twice(places: Sequence[tuple[int, Record, Path]]) -> Iterator[Problem]:
    seen: dict[Path, int] = {}
    for number, record, place in places:
        real = Path(os.path.realpath(place))  # unlike resolve, it does not stumble over a loop of links
        if real in seen:
            message = f"video {record.video!r} is the file of line {seen[real]}; annotate a video once"
            yield Problem(number, record.truth.video_id, message)
        seen.setdefault(real, number)


def _check_file(number: int, record: Record, place: Path) -> Iterator[Problem]:
    truth = record.truth
    try:
        header = probe(place)
    except (VideoError, OSError) as error:
        yield Problem(number, truth.video_id, str(error))
        return
    # Boxes are relative, so the size that a tool saw which shows stored pixels is as good.
    if (truth.width, truth.height) not in ((header.width, header.height), header.stored_size):
        message = f"annotated size {truth.width}x{truth.height}, but the file has {header.width}x{header.height}"
        yield Problem(number, truth.video_id, message)
    if header.num_frames != truth.num_frames:
        message = f"annotated num_frames {truth.num_frames}, but the file has {header.num_frames}"
        yield Problem(number, truth.video_id, message)
    if header.fps is not None and abs(header.fps - truth.fps) > FPS_TOLERANCE * header.fps:
        message = f"annotated fps {truth.fps:g}, but the file has {header.fps:g}"
        yield Problem(number, truth.video_id, message)


def _read_lines(path: Path) -> Iterator[tuple[int, Any, list[Finding]]]:
    """Line number, decoded JSON (None if the line is not valid JSON) and the faults of the line itself."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES)
                limit = MAX_LINE_BYTES // 2**20
                yield number, None, [Finding(f"the line is longer than {limit} MiB; write one object per line")]
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            data, finding = _decode(raw)
            yield number, data, [finding] if finding else []


def _decode(raw: bytes) -> tuple[Any, Finding | None]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return None, Finding(f"byte {error.start} is not UTF-8; save the file as UTF-8")
    if not text.strip():
        return None, Finding("the line is blank", "warning")
    try:
        data = read_strictly(text)
    except RecursionError:
        return None, Finding("the JSON is nested too deeply")
    except json.JSONDecodeError as error:
        return None, Finding(f"not valid JSON: {error.msg} at character {error.pos + 1}")
    except ValueError as error:
        return None, Finding(f"not valid JSON: {error}")
    return (data, None) if data is not None else (None, check_object(None)[0])


def _id_of(data: object) -> str:
    name = data.get("video_id", "") if isinstance(data, dict) else ""
    return name if isinstance(name, str) else ""
