"""Model text -> TurnReport, or a ParseError that carries the text; and the canonical text of a report.

The schema is the paper's (Fig. S5): one JSON object with ``COT``, ``status`` and ``anomalies``. Reading is tolerant of
form (code fences, prose or a thought around the object, typographic dashes and quotes, trailing commas, lists of
ranges, one box or several) and strict of substance: an unknown label, a status that contradicts the list, a range
that begins outside the clip or a broken box is an error, never a guess.

:mod:`reward_model.answer_object` finds the object; here it is read.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from reward_model.answer_object import (
    ANOMALIES,
    BBOX,
    COT,
    LABEL,
    MAX_ANSWER_LENGTH,
    REASON,
    REGION,
    REGION_T,
    STATUS,
    STATUS_PREFIX,
    BadAnswerError,
    StatusPlace,
    find_object,
    find_status,
    straight_quotes,
)
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.strict_json import is_int

__all__ = [
    "ANOMALIES",
    "BBOX",
    "COT",
    "LABEL",
    "MAX_ANSWER_LENGTH",
    "REASON",
    "REGION",
    "REGION_T",
    "STATUS",
    "STATUS_PREFIX",
    "ParseError",
    "Placed",
    "StatusPlace",
    "find_status",
    "forced_prefix",
    "format_report",
    "frame_by_frame",
    "joined",
    "one_or_list",
    "parse_answer",
    "parse_turn",
    "read_boxes",
    "read_field",
    "read_words",
    "straight_quotes",
    "whole_characters",
    "written_items",
]


class ParseError(ValueError):
    """The answer does not follow the schema. ``text`` is the whole answer, ``reason`` one sentence."""

    def __init__(self, reason: str, text: str) -> None:
        text = text if isinstance(text, str) else repr(text)
        shown = text if len(text) <= 200 else f"{text[:120]} ... {text[-60:]}"
        super().__init__(f"{reason} (answer: {shown!r})")
        self.reason = reason
        self.text = text

    def __reduce__(self) -> tuple[type[ParseError], tuple[str, str]]:
        return ParseError, (self.reason, self.text)


#: The time region and the boxes of an item, as a codec of turn two writes them (:mod:`reward_model.tracks.codec`).
Placed = tuple[str, dict[str, Any]]


def frame_by_frame(parts: Sequence[Anomaly]) -> Placed:
    """An item's region in frames and its boxes frame by frame, as the paper's schema has them."""
    by_frame = {f"Frame {k}": v for k, v in sorted((k, v) for a in parts for k, v in a.boxes.items() if v)}
    return ", ".join(str(a.frames) for a in parts), {key: one_or_list(v) for key, v in by_frame.items()}


def one_or_list(boxes: Sequence[Box]) -> list[Any]:
    """A box as the four numbers it is written as, several as a list of such."""
    return boxes[0].as_list() if len(boxes) == 1 else [b.as_list() for b in boxes]


def format_report(
    report: TurnReport, *, boxes: bool = True, place: Callable[[Sequence[Anomaly]], Placed] = frame_by_frame
) -> str:
    """The canonical answer text: what SFT trains on and :func:`parse_turn` reads back unchanged.

    With boxes, a range that has none is written into the item of the same anomaly beside it that has some: an item
    without a box would be refused.
    """
    items = []
    for parts in written_items(report.anomalies) if boxes else [[a] for a in report.anomalies]:
        when, drawn = place(parts)
        item: dict[str, Any] = {
            REGION_T: when,
            LABEL: parts[0].type.value,
            REASON: parts[0].reason,
            REGION: parts[0].region,
        }
        items.append({**item, BBOX: drawn} if boxes else item)
    return json.dumps({COT: report.cot, STATUS: report.status, ANOMALIES: items}, ensure_ascii=False)


def written_items(anomalies: Sequence[Anomaly]) -> list[list[Anomaly]]:
    """The anomalies; those together that are neighbouring ranges of one, in order, of which at most one has boxes."""
    items: list[list[Anomaly]] = []
    for anomaly in anomalies:
        last = items[-1][-1] if items else None
        same = last and (last.type, last.reason, last.region) == (anomaly.type, anomaly.reason, anomaly.region)
        follows = last and last.frames.end + 1 < anomaly.frames.start
        if same and follows and not (anomaly.boxes and any(a.boxes for a in items[-1])):
            items[-1].append(anomaly)
        else:
            items.append([anomaly])
    return items


def forced_prefix(cot: str = "") -> str:
    """The beginning of a canonical answer with that reasoning, up to the verdict word. Empty reasoning gives the direct
    readout.
    """
    return f'{{"{COT}": {json.dumps(cot, ensure_ascii=False)}, {STATUS_PREFIX}'


def parse_turn(text: str, *, turn: int, num_frames: int) -> TurnReport:
    """Reads one answer of the judge.

    Args:
        text: the whole answer.
        turn: 1 (the scan; boxes are optional there and ignored) or 2 (the zoom; each anomaly needs boxes).
        num_frames: frames the judge was shown in that turn; ranges and box keys must lie inside.

    Raises:
        ParseError: if the answer holds no such object, more than one, or one that breaks the schema; or it is longer
            than ``MAX_ANSWER_LENGTH``.

    Example:
        >>> parse_turn('{"COT": "all well", "status": "normal", "anomalies": []}', turn=1, num_frames=21).status
        'normal'
    """
    if turn not in (1, 2):
        raise ValueError(f"turn={turn!r} must be 1 (scan) or 2 (zoom)")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1")
    return parse_answer(text, partial(_anomalies, turn=turn, num_frames=num_frames))


def parse_answer(text: str, read_item: Callable[[object], list[Anomaly]]) -> TurnReport:
    """Reads one answer whose listed anomalies ``read_item`` reads, each a list of one for every range it names.

    Raises:
        ParseError: as :func:`parse_turn` does; ``read_item`` raises :class:`BadAnswerError`.
    """
    try:
        return _report(find_object(text).data, read_item)
    except BadAnswerError as error:
        raise ParseError(_shorten(str(error)), text) from None
    except RecursionError:
        raise ParseError("the answer is nested too deeply", text) from None


def whole_characters(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair: JSON can spell one, which no file, page
    or tokenizer can hold.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- reading the object -----------------------------------------------------------------------------------------------


def _report(data: Mapping[str, Any], read_item: Callable[[object], list[Anomaly]]) -> TurnReport:
    if COT not in data:
        raise BadAnswerError(f"{COT} is missing")
    cot = read_field(data, COT)
    status = data[STATUS].strip().lower() if isinstance(data[STATUS], str) else data[STATUS]
    if status not in ("normal", "abnormal"):
        raise BadAnswerError(f'{STATUS} must be "normal" or "abnormal", got {status!r}')
    items = data.get(ANOMALIES)
    if not isinstance(items, list):
        raise BadAnswerError(f"{ANOMALIES} must be a list, got {type(items).__name__}")
    if (status == "normal") != (not items):
        raise BadAnswerError(f"{STATUS} {status!r} contradicts {len(items)} listed anomalies")
    anomalies = [a for item in items for a in read_item(item)]
    return TurnReport(status, cot, tuple(anomalies))


def _anomalies(item: object, turn: int, num_frames: int) -> list[Anomaly]:
    """One listed anomaly; several when its time region names several ranges."""
    fields, kind, reason, region = read_words(item)
    ranges = _ranges(fields.get(REGION_T), turn, num_frames)
    boxes = _boxes(fields.get(BBOX), num_frames) if turn == 2 else {}
    parts: dict[FrameRange, dict[int, tuple[Box, ...]]] = {r: {} for r in ranges}
    ends = [r.end for r in ranges]
    for frame, regions in boxes.items():
        near = bisect_left(ends, frame)  # the first range that ends at the frame or after it
        home = min(ranges[max(near - 1, 0) : near + 1], key=lambda r: max(r.start - frame, frame - r.end, 0))
        parts[home][frame] = regions
    return [Anomaly(kind, r, b, reason=reason, region=region) for r, b in parts.items()]


def read_words(item: object) -> tuple[Mapping[str, Any], AnomalyType, str, str]:
    """A listed anomaly as an object, with what it says in words: its type, reason and region."""
    if not isinstance(item, dict):
        raise BadAnswerError(f"an anomaly must be an object, got {type(item).__name__}")
    return item, _label(item.get(LABEL)), read_field(item, REASON), read_field(item, REGION)


def _label(value: object) -> AnomalyType:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise BadAnswerError(f"{LABEL} must be one type name, got {value!r}")
    try:
        return AnomalyType.parse(value)
    except ValueError as error:
        raise BadAnswerError(str(error)) from None


def read_field(item: Mapping[str, Any], key: str) -> str:
    """The text of a field; empty if it is missing."""
    value = item.get(key, "")
    if not isinstance(value, str):
        raise BadAnswerError(f"{key} must be a string, got {type(value).__name__}")
    return whole_characters(value)


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[: limit - 60]} ... {text[-50:]}"


_NUMBER = r"(?:frames?\s*+)?#?(\d{1,6})"
_RANGE = re.compile(rf"{_NUMBER}(?:\s*+(?:-|to|through)\s*+{_NUMBER})?", re.IGNORECASE)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d~\u301c"), "-")
_WHOLE = re.compile(r"(?:the\s++)?(?:entire|whole|full)\s++(?:clip|snippet|video|segment)(?:\s*+\.)?", re.IGNORECASE)


def _ranges(value: object, turn: int, num_frames: int) -> list[FrameRange]:
    """Frame ranges of a time region in order, overlapping ones joined."""
    if turn == 2 and isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return [FrameRange(0, num_frames - 1)]
    pairs = [p for part in (value if isinstance(value, list) else [value]) for p in _pairs(part)]
    if isinstance(value, list) and len(value) == 2 and all(is_int(v) for v in value):
        pairs = [(value[0], value[1])]
    if not pairs:
        raise BadAnswerError(f"{REGION_T} names no frame range: {value!r}")
    ranges = []
    for start, last in sorted(pairs):
        if not 0 <= start <= last or start >= num_frames:
            raise BadAnswerError(
                f"{REGION_T} {start}-{last} is outside the clip of frames 0-{num_frames - 1}, or reversed"
            )
        ranges.append(FrameRange(start, min(last, num_frames - 1)))  # begins inside, reaches past the end: clipped
    return joined(ranges)


def joined(ranges: Sequence[FrameRange], step: int = 1) -> list[FrameRange]:
    """Ranges in order; those that overlap, or begin at most ``step`` frames after another's last, are one."""
    union: list[FrameRange] = []
    for one in sorted(ranges):
        if union and one.start <= union[-1].end + step:
            union[-1] = FrameRange(union[-1].start, max(union[-1].end, one.end))
        else:
            union.append(one)
    return union


#: Ranges of one anomaly that are read.
_MAX_RANGES = 1000

# "[3, 7]" in quotes means what the list means: a start and an end.
_BRACKETED = re.compile(r"\[\s*+(\d{1,6})\s*+,\s*+(\d{1,6})\s*+\]")


def _pairs(value: object) -> list[tuple[int, int]]:
    if is_int(value):
        return [(value, value)]
    if isinstance(value, list) and len(value) == 2 and all(is_int(v) for v in value):
        return [(value[0], value[1])]
    if not isinstance(value, str):
        raise BadAnswerError(f"{REGION_T} must be text such as 'Frame 3-7', got {value!r}")
    if bounds := _BRACKETED.fullmatch(value.strip()):
        return [(int(bounds[1]), int(bounds[2]))]
    pairs = []
    pieces = re.split(r",|;|\band\b|&", value.translate(_DASHES).strip().rstrip("."))
    if len(pieces) > _MAX_RANGES:
        raise BadAnswerError(f"{REGION_T} names {len(pieces):,} ranges, more than {_MAX_RANGES:,}")
    for piece in pieces:
        match = _RANGE.fullmatch(piece.strip())
        if not match:
            raise BadAnswerError(f"{REGION_T} must be text such as 'Frame 3-7', got {value!r}")
        pairs.append((int(match[1]), int(match[2] or match[1])))
    return pairs


_FRAME_KEY = re.compile(r"(?:frame\s*+)?#?(\d{1,6})(?:\s*+:)?", re.IGNORECASE)


def _boxes(value: object, num_frames: int) -> dict[int, tuple[Box, ...]]:
    if not isinstance(value, dict) or not value:
        raise BadAnswerError(f'{BBOX} must map frames to boxes, such as {{"Frame 0": [x0, y0, x1, y1]}}, got {value!r}')
    boxes: dict[int, tuple[Box, ...]] = {}
    for key, given in value.items():
        match = _FRAME_KEY.fullmatch(key.strip())
        if not match or int(match[1]) >= num_frames:
            raise BadAnswerError(f"{BBOX} key {key!r} is not a frame of the clip (0-{num_frames - 1})")
        if int(match[1]) in boxes:
            raise BadAnswerError(f"{BBOX} names frame {match[1]} twice")
        boxes[int(match[1])] = read_boxes(given)
    return dict(sorted(boxes.items()))


def read_boxes(given: object) -> tuple[Box, ...]:
    """One box of four whole numbers, or a list of such."""
    if isinstance(given, list) and given and all(isinstance(f, list) for f in given):
        return tuple(_box(f) for f in given)
    return (_box(given),)


def _box(value: object) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_whole(v) for v in value):
        raise BadAnswerError(
            f"a box must be four whole numbers [xmin, ymin, xmax, ymax] of 0-{BOX_SCALE}, got {value!r}"
        )
    try:
        return Box(*(int(v) for v in value))
    except ValueError as error:
        raise BadAnswerError(str(error)) from None


def _is_whole(value: object) -> bool:
    return is_int(value) or (isinstance(value, float) and value.is_integer())
