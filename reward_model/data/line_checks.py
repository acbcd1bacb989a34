"""Every rule one line of an annotation file must keep (paper, B.1.2 and B.1.3), as pure functions.

A check never stops at the first fault and never raises: it yields a :class:`Finding` per fault. An object without an
error becomes a :class:`~reward_model.data.records.Record` safely.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeGuard

from reward_model.data.records import GROUP_KEY, REQUIRED_KEYS
from reward_model.schema import BOX_SCALE, MAX_FRAMES, AnomalyType
from reward_model.strict_json import is_int, is_number

Severity = Literal["error", "warning"]
#: A box of at least this share of the picture leaves nothing out, so it is not tight.
LOOSE_SHARE = 0.95
#: Words of a reason that say that writing changes from frame to frame.
CHANGE_WORDS = ("inconsisten", "change", "differ", "from frame to frame", "between frames", "across frames")
ANOMALY_KEYS = ("type", "frames", "boxes", "objects", "reason", "region", "salient")


class Finding(NamedTuple):
    """One fault: what stands there, which rule it breaks, what to do; a warning does not make the line invalid."""

    message: str
    severity: Severity = "error"


def check_object(data: object) -> list[Finding]:
    """All faults of one decoded JSON value.

    Example:
        >>> check_object([])[0].message
        'the line holds a list; expected one JSON object per line'
    """
    if not isinstance(data, dict):
        return [Finding(f"the line holds a {_kind(data)}; expected one JSON object per line")]
    return list(_object(data))


def _object(data: Mapping[str, Any]) -> Iterator[Finding]:
    for key in REQUIRED_KEYS:
        if key not in data:
            yield Finding(f"key {key!r} is missing; needed are {', '.join(REQUIRED_KEYS)}")
    yield from _texts(data)
    yield from _numbers(data)
    yield from _encodable(data)
    anomalies = data.get("anomalies", [])
    if isinstance(anomalies, list):
        yield from _status(data, len(anomalies))
        yield from _anomalies(anomalies, data.get("num_frames"))
    else:
        yield Finding(f"anomalies is a {_kind(anomalies)}; it must be a list, [] for a normal video")


def _numbers(data: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("num_frames", "width", "height"):
        if key in data and not (is_int(data[key]) and data[key] >= 1):
            yield Finding(f"{key} is {_shown(data[key])}; it must be an integer of at least 1")
    if is_int(data.get("num_frames")) and data["num_frames"] > MAX_FRAMES:
        yield Finding(
            f"num_frames is {_shown(data['num_frames'])}; at most {MAX_FRAMES} are taken, an hour at 60 fps: "
            "correct the number, or cut the video"
        )
    if "fps" in data and not (is_number(data["fps"]) and data["fps"] > 0):
        yield Finding(f"fps is {_shown(data['fps'])}; it must be a number above zero, such as 16 or 23.976")


def _anomalies(anomalies: list[Any], num_frames: object) -> Iterator[Finding]:
    limit = num_frames if is_int(num_frames) else None
    for number, anomaly in enumerate(anomalies, 1):
        for finding in check_anomaly(anomaly, limit):
            yield finding._replace(message=f"anomaly {number}: {finding.message}")
        first = next(k for k, other in enumerate(anomalies, 1) if other is anomaly or other == anomaly)
        if first < number:
            yield Finding(f"anomaly {number} repeats anomaly {first}; remove one of them", "warning")


def _texts(data: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("video", "video_id", GROUP_KEY):
        if key in data and not (isinstance(data[key], str) and data[key].strip()):
            yield Finding(f"{key} is {_shown(data[key])}; it must be a string that is not empty")
    for key in ("prompt", "source", "split"):
        if key in data and not isinstance(data[key], str):
            yield Finding(f"{key} is {_shown(data[key])}; it must be a string, '' if unknown")
    if isinstance(data.get("video"), str) and "\0" in data["video"]:
        yield Finding("video holds a NUL character; no file name can")


def _encodable(data: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        yield Finding("a string holds a lone surrogate (half of a character); write the whole character")
    except (TypeError, ValueError, RecursionError) as error:
        yield Finding(f"the object cannot be written as JSON ({error}); NaN, infinity and Python objects have no place")


def _status(data: Mapping[str, Any], count: int) -> Iterator[Finding]:
    if "status" not in data:
        return
    status = data["status"]
    if status not in ("normal", "abnormal"):
        yield Finding(f"status is {_shown(status)}; it must be 'normal' or 'abnormal'")
    elif (status == "normal") != (count == 0):
        yield Finding(f"status {status!r} contradicts {count} anomalies: normal means none, abnormal at least one")


def check_anomaly(data: object, num_frames: int | None = None) -> Iterator[Finding]:
    """All faults of one entry of ``anomalies``; ``num_frames`` None leaves the length of the video unchecked."""
    if not isinstance(data, dict):
        yield Finding(f"it is a {_kind(data)}; expected an object with type, frames and boxes")
        return
    yield from _anomaly_type(data)
    for key in set(data) - set(ANOMALY_KEYS):
        yield Finding(f"unknown key {key!r} is not kept; known are {', '.join(ANOMALY_KEYS)}", "warning")
    for key in ("reason", "region"):
        if not isinstance(data.get(key, ""), str):
            yield Finding(f"{key} is {_shown(data[key])}; it must be a string")
    objects = data.get("objects", [])
    if not (isinstance(objects, list) and all(isinstance(o, str) for o in objects)):
        yield Finding(f"objects is {_shown(objects)}; it must be a list of strings")
    if not isinstance(data.get("salient"), bool | None):
        yield Finding(f"salient is {_shown(data['salient'])}; it must be true, false or null")
    window = data.get("frames")
    faults = list(_window(data, num_frames))
    yield from faults
    boxes = data.get("boxes", {})
    if not isinstance(boxes, dict):
        yield Finding(f'boxes is a {_kind(boxes)}; it must be an object such as {{"3": [[0, 0, 500, 500]]}}')
        return
    if not any(boxes.values()):
        yield Finding("it has no box: spatial terms cannot be computed for it", "warning")
    start_end = (window[0], window[1]) if window is not None and not faults else None
    if start_end is not None:
        yield from _conventions(data, start_end, boxes)
    for key, entries in boxes.items():
        yield from _frame_boxes(key, entries, start_end, num_frames)


def _conventions(data: Mapping[str, Any], window: tuple[int, int], boxes: Mapping[str, Any]) -> Iterator[Finding]:
    """Warnings about the conventions of annotators (paper, B.1.2 and B.1.3), as far as a file can show them."""
    try:
        kind = AnomalyType.parse(data["type"])
    except (KeyError, AttributeError, ValueError):
        return
    if window[0] == window[1] and not kind.single_frame:
        yield Finding(
            f"{kind.value} on the single frame {window[0]}: this type is only seen by comparing frames; give its whole "
            "range, or one of the types that a single frame shows",
            "warning",
        )
    reason = data.get("reason", "")
    told = reason.lower() if isinstance(reason, str) else ""
    if kind is AnomalyType.CHARACTER and window[0] == window[1] and any(word in told for word in CHANGE_WORDS):
        yield Finding(
            f"writing that changes, on the single frame {window[0]}: its window is the whole range over which the "
            "change can be seen",
            "warning",
        )
    large = [key for key, entries in boxes.items() if isinstance(entries, list) and any(map(_is_loose, entries))]
    if large:
        yield Finding(
            f"a box of nearly the whole picture on frame {', '.join(large[:3])}{', ...' if large[3:] else ''}: boxes "
            "are tight around what is wrong",
            "warning",
        )


def _is_loose(box: object) -> bool:
    return _is_box(box) and (box[2] - box[0]) * (box[3] - box[1]) >= LOOSE_SHARE * BOX_SCALE**2


def _anomaly_type(data: Mapping[str, Any]) -> Iterator[Finding]:
    if "type" not in data:
        yield Finding("key 'type' is missing")
    elif not isinstance(data["type"], str):
        yield Finding(f"type is {_shown(data['type'])}; it must be a string")
    else:
        try:
            AnomalyType.parse(data["type"])
        except ValueError as error:
            yield Finding(str(error))


def _window(data: Mapping[str, Any], num_frames: int | None) -> Iterator[Finding]:
    if "frames" not in data:
        yield Finding("key 'frames' is missing")
        return
    window = data["frames"]
    if not (isinstance(window, list) and len(window) == 2 and all(is_int(n) for n in window)):
        yield Finding(f"frames is {_shown(window)}; it must be [first, last], two integers, both included")
        return
    start, end = window
    if start < 0 or end < start:
        yield Finding(f"frames {start}-{end} must satisfy 0 <= first <= last")
    if num_frames is not None and end >= num_frames:
        yield Finding(f"frames {start}-{end} go beyond a video of {num_frames} frames (0-{num_frames - 1})")


def _frame_boxes(
    key: str, entries: object, window: tuple[int, int] | None, num_frames: int | None
) -> Iterator[Finding]:
    if not (key.isascii() and key.isdigit() and str(int(key[:20])) == key):
        yield Finding(f"box key {key!r} is not a frame number such as '3'")
        return
    frame = int(key)
    if num_frames is not None and frame >= num_frames:
        yield Finding(f"box on frame {frame} is beyond a video of {num_frames} frames (0-{num_frames - 1})")
    elif window is not None and not window[0] - 1 <= frame <= window[1] + 1:
        yield Finding(
            f"box on frame {frame} is outside the window {window[0]}-{window[1]}; "
            "only the frame just before and just after it may carry one"
        )
    if not isinstance(entries, list):
        yield Finding(f"boxes of frame {frame} are {_shown(entries)}; expected a list of [xmin, ymin, xmax, ymax]")
    elif len(entries) == 4 and all(is_number(v) for v in entries):
        yield Finding(f"frame {frame} holds a bare box {entries}; write a list of boxes: [{entries}]")
    elif not entries:
        yield Finding(f"frame {frame} has an empty list of boxes; leave the frame out", "warning")
    else:
        for entry in entries:
            if not _is_box(entry):
                yield from _box(frame, entry)


def _is_box(box: object) -> TypeGuard[list[int]]:
    """Most boxes are right, and there are many: one quick look spares them :func:`_box`."""
    if (
        type(box) is not list
        or len(box) != 4
        or not type(box[0]) is type(box[1]) is type(box[2]) is type(box[3]) is int
    ):
        return False
    return bool(0 <= box[0] < box[2] <= BOX_SCALE and 0 <= box[1] < box[3] <= BOX_SCALE)


def _box(frame: int, box: object) -> Iterator[Finding]:
    if not (isinstance(box, list) and len(box) == 4 and all(is_int(v) for v in box)):
        yield Finding(f"box {_shown(box)} of frame {frame} must be four integers [xmin, ymin, xmax, ymax]")
        return
    if not all(0 <= v <= BOX_SCALE for v in box):
        yield Finding(f"box {box} of frame {frame} leaves the grid 0-{BOX_SCALE}; boxes are relative, not pixels")
    for axis, low, high in (("x", box[0], box[2]), ("y", box[1], box[3])):
        if low > high:
            yield Finding(f"box {box} of frame {frame} has its {axis} corners swapped ({low} > {high})")
        elif low == high:
            yield Finding(f"box {box} of frame {frame} has no area: {axis}min = {axis}max = {low}")


def _kind(value: object) -> str:
    names = {dict: "JSON object", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
