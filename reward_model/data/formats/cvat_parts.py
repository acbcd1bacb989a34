"""The parts of a CVAT export: its tasks and jobs, the records they belong to, and the frames that each part shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import Element

from reward_model.data.formats.common import FormatError
from reward_model.data.formats.safe_xml import parse_xml
from reward_model.data.records import Record
from reward_model.data.validation import Problem


def matched_parts(files: Mapping[str, bytes], known: Sequence[Record]) -> tuple[dict[str, list[Part]], list[Problem]]:
    """The tasks and jobs of all documents by the ``video_id`` of their records, and a problem for each without one."""
    problems: list[Problem] = []
    parts: dict[str, list[Part]] = {}
    for document, (name, data) in enumerate(files.items(), 1):
        try:
            found = _parts(parse_xml(data), name, document)
        except ValueError as error:
            problems.append(Problem(document, "", f"{name}: {error}"))
            continue
        for part in found:
            try:
                record = _match(part, known)
            except FormatError as error:
                problems.append(Problem(document, "", f"{part.name}: {error}"))
            else:
                parts.setdefault(record.truth.video_id, []).append(part)
    return parts, problems


@dataclass(frozen=True)
class Part:
    """A task or a job of a document; ``alone``: the document holds no other, so its name may tell the video."""

    name: str
    document: int
    meta: Element
    source: str
    tracks: Sequence[Element]
    alone: bool = True


def _parts(root: Element, name: str, document: int) -> list[Part]:
    if root.tag != "annotations" or root.find("image") is not None:
        raise FormatError('not "CVAT for video 1.1"; export the task in that format, which keeps tracks')
    strange = [child.tag for child in root if child.tag not in ("version", "meta", "track")]
    if strange:
        raise FormatError(f'<{strange[0]}> is not part of "CVAT for video 1.1"; export the task in that format')
    meta, tracks = root.find("meta"), root.findall("track")
    if meta is None or not len(meta):
        raise FormatError("the document does not say of which task it is (no <meta>); export it again")
    if meta.find("project") is None:
        return [_task_part(meta, tracks, name, document)]
    return _project_parts(meta, tracks, name, document)


def _task_part(meta: Element, tracks: Sequence[Element], name: str, document: int) -> Part:
    """The only part of a document of one task or job."""
    inner = next((e for e in (meta.find("task"), meta.find("job")) if e is not None), meta)
    size = meta.find("original_size")  # some versions write it beside the task
    if size is not None and inner is not meta:
        inner.append(size)
    return Part(name, document, inner, meta.findtext("source") or inner.findtext(".//source") or "", tracks)


def _project_parts(meta: Element, tracks: Sequence[Element], name: str, document: int) -> list[Part]:
    """A part for each task of a project, with its own tracks."""
    tasks = meta.findall("project/tasks/task")
    if not tasks:
        raise FormatError("the project holds no task")
    alone = len(tasks) == 1
    mine: dict[str, list[Element]] = {task.findtext("id") or "": [] for task in tasks}
    for track in tracks:
        number = next(iter(mine)) if alone else track.get("task_id", "")
        if number not in mine:
            raise FormatError(
                f"track {track.get('id')} names no task of the project (task_id {track.get('task_id')!r}); "
                "export the tasks one by one"
            )
        mine[number].append(track)
    source = meta.findtext("source") or ""
    return [
        Part(f"{name}, task {number}", document, task, task.findtext(".//source") or source, mine[number], alone=alone)
        for task in tasks
        for number in [task.findtext("id") or ""]
    ]


def _match(part: Part, known: Sequence[Record]) -> Record:
    task = part.meta.findtext("name") or ""
    named = _of_id(known, task)
    file_name = PurePosixPath(part.source).name if part.source else None
    filed = [r for r in known if PurePosixPath(r.video).name == file_name]
    if named and filed and named[0] not in filed:
        raise FormatError(
            f"the task's name {task!r} is the video_id of one record and its video {part.source!r} that of another; "
            "rename the task"
        )
    stem = PurePosixPath(part.name).stem if part.alone else ""
    candidates = named or (filed if len(filed) == 1 else []) or (_of_id(known, stem) if stem else [])
    if not candidates:
        raise FormatError(f"no record for task {task!r} of video {part.source!r}; name the task after the video_id")
    return candidates[0]


def _of_id(known: Sequence[Record], video_id: str) -> list[Record]:
    return [r for r in known if r.truth.video_id == video_id]


class Coverage(NamedTuple):
    """The frames a task shows: ``first``, ``first + step``, ... ``last``."""

    first: int
    last: int
    step: int


def gaps_between(covered: Sequence[Coverage], num_frames: int) -> list[str]:
    """The stretches of a video that no task shows, as texts; ``covered`` in the order of their first frames."""
    gaps, reached = [], -1
    for first, last, step in covered:
        if first - step > reached:
            gaps.append(f"{reached + 1}-{first - 1}")
        reached = max(reached, last + step - 1)
    if reached < num_frames - 1:
        gaps.append(f"{reached + 1}-{num_frames - 1}")
    return gaps


def coverage_of(meta: Element, num_frames: int) -> Coverage:
    start, size = count_of(meta, "start_frame") or 0, count_of(meta, "size")
    step = _step(meta)
    stop = count_of(meta, "stop_frame")
    if size is None and stop is not None:
        size = (stop - start) // step + 1
    last = num_frames - 1 if size is None else start + (size - 1) * step
    # Programs that count frames differ by one at the end.
    if size == 0 or last > num_frames or start >= num_frames:
        raise FormatError(
            f"the task shows frames {start}-{last}, the record's video has {num_frames}; they are not the same video"
        )
    last = min(last, num_frames - 1)
    return Coverage(start, num_frames - 1 if step == 1 and start == 0 and last == num_frames - 2 else last, step)


def _step(meta: Element) -> int:
    """The N of a frame filter ``step=N``; 1 without a filter."""
    text = (meta.findtext("frame_filter") or "").strip()
    found = re.fullmatch(r"step\s*=\s*(\d{1,6})", text)
    if text and (not found or int(found[1]) < 1):
        raise FormatError(f"the frame filter {text!r} is not understood; expected step=N")
    return int(found[1]) if found else 1


def count_of(meta: Element, key: str) -> int | None:
    text = (meta.findtext(key) or "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise FormatError(f"<{key}> is {text!r}; it must be a whole number")
    return int(text)
