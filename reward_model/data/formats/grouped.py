"""The paper's record (B.1.2): anomalies in one group per type, the groups in the order of the taxonomy.

One JSON object per line, as in an annotation file, with ``groups`` instead of ``anomalies``::

    {"video": "a.mp4", ..., "groups": [{"type": "Object Distortion", "instances": [{"frames": [12, 30], ...}]}]}

Frames are those of the video unless the line holds ``frame_indices``: then they count the uniformly sampled frames that
annotators looked at, whose numbers in the video that list gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reward_model.data.formats.common import FormatError, Imported
from reward_model.data.formats.documents import parse_json, read_text
from reward_model.data.line_checks import check_object
from reward_model.data.records import Record
from reward_model.data.validation import Problem
from reward_model.schema import Anomaly, AnomalyType
from reward_model.strict_json import is_int
from reward_model.video.clip import sample_indices


def to_grouped(record: Record, *, sample_fps: float | None = None) -> dict[str, Any]:
    """The object of one line; :func:`from_grouped` gives the record back, anomalies in the order of the types.

    Args:
        sample_fps: count frames on the sequence sampled at this rate, as the paper does; then only what falls on it
            comes back. None: on the video's own frames, and everything does.
    """
    truth = record.truth
    indices = None if sample_fps is None else sample_indices(truth.num_frames, truth.fps, sample_fps)
    found = truth.anomalies if indices is None else truth.on_grid(indices)
    groups = []
    for kind in AnomalyType:
        instances = [{k: v for k, v in a.to_dict().items() if k != "type"} for a in found if a.type is kind]
        groups += [{"type": kind.value, "instances": instances}] if instances else []
    plain = {k: v for k, v in record.to_dict().items() if k not in ("anomalies", "status")}
    sampled = {} if indices is None else {"frame_indices": indices}
    return {**plain, "status": "abnormal" if found else "normal", **sampled, "groups": groups}


def from_grouped(data: object) -> Record:
    """The record of one line.

    Raises:
        FormatError: if the groups are not as the paper orders them, or the record breaks a rule of annotation files.
    """
    if not isinstance(data, dict) or not isinstance(data.get("groups"), list):
        raise FormatError("not a grouped record: expected an object with a list of 'groups', [] for a normal video")
    indices = data.get("frame_indices")
    if indices is not None and not _ascends(indices):
        raise FormatError("frame_indices must list the sampled frames of the video, ascending from 0")
    anomalies = _anomalies(data["groups"], indices)
    plain = {k: v for k, v in data.items() if k not in ("groups", "frame_indices")}
    flat = {"status": "abnormal" if anomalies else "normal", **plain, "anomalies": anomalies}
    for fault in check_object(flat):
        if fault.severity == "error":
            raise FormatError(fault.message)
    return Record.from_dict(flat)


def _ascends(indices: object) -> bool:
    """True if these are frames in their order, each once."""
    if not isinstance(indices, list) or not indices or not all(is_int(n) and n >= 0 for n in indices):
        return False
    return indices == sorted(set(indices))


def _anomalies(groups: Sequence[Any], indices: Sequence[int] | None) -> list[Any]:
    """The instances of all groups, which stand in the order of the types."""
    anomalies: list[Any] = []
    seen: list[AnomalyType] = []
    for group in groups:
        kind = _type_of(group)
        if kind in seen:
            raise FormatError(f"two groups of {kind.value!r}; put the anomalies of a type into one group")
        if seen and kind.rank < seen[-1].rank:
            raise FormatError(f"the group of {kind.value!r} must stand before that of {seen[-1].value!r}")
        seen.append(kind)
        anomalies += [_instance(kind, instance, indices) for instance in group["instances"]]
    return anomalies


def read_grouped(path: str | Path) -> Imported:
    """The records of a file of grouped lines; a line that is not a record is a problem and the others are read."""
    records, problems = [], []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(from_grouped(parse_json(line.encode())))
        except FormatError as error:
            problems.append(Problem(number, "", str(error)))
    return Imported(records, problems)


def in_type_order(record: Record) -> Record:
    """The same record with its anomalies in the order of the types; those of one type stay as they are."""
    ordered: Sequence[Anomaly] = sorted(record.truth.anomalies, key=lambda a: a.type.rank)
    return replace(record, truth=replace(record.truth, anomalies=tuple(ordered)))


def _type_of(group: object) -> AnomalyType:
    if not isinstance(group, dict) or not isinstance(group.get("type"), str):
        raise FormatError("a group must be an object with a type and its instances")
    if not isinstance(group.get("instances"), list) or not group["instances"]:
        raise FormatError(f"the group of {group['type']!r} needs a list of instances; leave an empty group out")
    try:
        return AnomalyType.parse(group["type"])
    except ValueError as error:
        raise FormatError(str(error)) from None


def _instance(kind: AnomalyType, data: object, indices: Sequence[int] | None) -> object:
    """An entry of ``anomalies``; what is not one stays what it is, and the check of the record names it."""
    if not isinstance(data, Mapping):
        return data
    entry = {"type": kind.value, **data}
    if indices is None:
        return entry
    window, boxes = entry.get("frames"), entry.get("boxes", {})
    if not (isinstance(window, list) and all(is_int(n) for n in window) and isinstance(boxes, dict)):
        return entry
    if any(not 0 <= n < len(indices) for n in window) or any(not k.isdigit() or int(k) >= len(indices) for k in boxes):
        raise FormatError(f"frames {window} or a box lie outside the {len(indices)} sampled frames")
    shown = {str(indices[int(k)]): v for k, v in boxes.items()}
    return {**entry, "frames": [indices[n] for n in window], "boxes": shown}
