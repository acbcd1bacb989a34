"""Model text -> TurnReport, or a ParseError that carries the text; and the canonical text of a report.

The schema is the paper's (Fig. S5): one JSON object with ``COT``, ``status`` and ``anomalies``. Reading is tolerant of
form (code fences, prose or a thought around the object, typographic dashes and quotes, trailing commas, lists of
ranges, one box or several) and strict of substance: an unknown label, a status that contradicts the list, a range
that begins outside the clip or a broken box is an error, never a guess.

An answer is whatever a model or a server sent, so every step here takes time in proportion to its length: repeats in
the expressions are possessive or stand between different characters, and broken objects are tried a limited number of
times.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.strict_json import is_int, strict_decoder

COT, STATUS, ANOMALIES = "COT", "status", "anomalies"
REGION_T, LABEL, REASON, REGION, BBOX = (
    "Attributed Time Region",
    "Attributed Label",
    "Reason for Anomaly",
    "Problem Region",
    "BBOX",
)

#: The verdict word follows this text in canonical answers; both words are scored from here.
STATUS_PREFIX = '"status": "'

#: Characters of the longest answer that is read: some 100,000 tokens of ordinary text, where judges are given 6,144.
MAX_ANSWER_LENGTH = 500_000


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


def format_report(report: TurnReport, *, boxes: bool = True) -> str:
    """The canonical answer text: what SFT trains on and :func:`parse_turn` reads back unchanged.

    With boxes, a range that has none is written into the item of the same anomaly beside it that has some: an item
    without a box would be refused.
    """
    items = []
    for parts in _items(report) if boxes else [[a] for a in report.anomalies]:
        item: dict[str, Any] = {
            REGION_T: ", ".join(str(a.frames) for a in parts),
            LABEL: parts[0].type.value,
            REASON: parts[0].reason,
            REGION: parts[0].region,
        }
        if boxes:
            by_frame = {k: v for a in parts for k, v in a.boxes.items() if v}
            item[BBOX] = {
                f"Frame {k}": v[0].as_list() if len(v) == 1 else [b.as_list() for b in v]
                for k, v in sorted(by_frame.items())
            }
        items.append(item)
    return json.dumps({COT: report.cot, STATUS: report.status, ANOMALIES: items}, ensure_ascii=False)


def _items(report: TurnReport) -> list[list[Anomaly]]:
    """The anomalies; those together that are neighbouring ranges of one, in order, of which at most one has boxes."""
    items: list[list[Anomaly]] = []
    for anomaly in report.anomalies:
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
    try:
        return _report(_find_object(text).data, turn, num_frames)
    except _BadAnswerError as error:
        raise ParseError(_shorten(str(error)), text) from None
    except RecursionError:
        raise ParseError("the answer is nested too deeply", text) from None


def straight_quotes(text: str) -> str:
    """The text, as long as before, with a plain quotation mark for each typographic one."""
    return _SMART_QUOTE.sub('"', text)


def whole_characters(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair: JSON can spell one, which no file, page
    or tokenizer can hold.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class StatusPlace:
    """Position of an answer's verdict: ``key`` is the index of the opening quote of its status key, ``value`` what it
    wrote between the quotes of the value, such as ``"Normal "``.
    """

    key: int
    value: str


def find_status(text: str) -> StatusPlace | None:
    """The place of the status that :func:`parse_turn` reads: the key of the answer's one object itself, not one that
    stands inside its reasoning or its anomalies. None if there is no such object.

    Example:
        >>> find_status('{"COT": "x", "Status": "NORMAL", "anomalies": []}')
        StatusPlace(key=13, value='NORMAL')
    """
    try:
        answer = _find_object(text)
    except (_BadAnswerError, RecursionError):
        return None
    depth = 0
    for token in _TOKEN.finditer(answer.text, answer.start, answer.end):
        if token[0][0] != '"':
            depth += 1 if token[0] in "{[" else -1
        elif (
            depth == 1
            and (value := _VALUE.match(answer.text, token.end()))
            and _canonical(json.loads(token[0], strict=False)) == STATUS
        ):
            return StatusPlace(token.start(), value[1])
    return None


class _BadAnswerError(Exception):
    """Reason why an answer is refused, before the text is attached."""


# --- finding the object -----------------------------------------------------------------------------------------------

_INSIDE = r'[^"\\]*+(?:\\.[^"\\]*+)*+'
#: An unfinished string runs to the end: every character is looked at once, whatever the answer.
_STRING_OR_COMMA = re.compile(rf'"{_INSIDE}(?:"|\\?\Z)|,(?=\s*+[}}\]])', re.DOTALL)
_TOKEN = re.compile(rf'"{_INSIDE}"|[{{}}\[\]]', re.DOTALL)
_VALUE = re.compile(rf'\s*+:\s*+"({_INSIDE})"', re.DOTALL)
_SMART_QUOTE = re.compile("[\u201c\u201d\u201e\u201f\u2033]")
_TRAILING_COMMA = re.compile(r",\s*+[}\]]")
_OBJECT_START = re.compile(r'\{(?=\s*+")')
_OWN_KEY = re.compile(rf'"\s*+(?:{COT}|{STATUS}|{ANOMALIES})\s*+"\s*+:', re.IGNORECASE)
_AFTER_THOUGHT = re.compile(r"</think(?:ing)?>(?=\s*+(?:\{|```))", re.IGNORECASE)

#: Objects that begin and break off again: how many are tried, and how many characters that may take in all, as a
#: multiple of the answer's length. An honest answer that was cut has one, and a few inside it.
_MAX_BROKEN = 1000
_MAX_BROKEN_LENGTH = 4


@dataclass(frozen=True)
class _Answer:
    """The object of an answer. ``text`` is the answer, repaired if need be and as long as before, ``text[start:end]``
    the object in it.
    """

    data: dict[str, Any]
    text: str
    start: int
    end: int


def _find_object(text: str) -> _Answer:
    """The one JSON object with a status in the text, wherever it stands. The text is repaired only if it cannot be read
    as it is.
    """
    if not isinstance(text, str):
        raise _BadAnswerError(f"the answer is {type(text).__name__}, not text")
    if len(text) > MAX_ANSWER_LENGTH:
        raise _BadAnswerError(f"the answer has {len(text):,} characters, more than {MAX_ANSWER_LENGTH:,}")
    begin = max((thought.end() for thought in _AFTER_THOUGHT.finditer(text)), default=0)
    # A thought is not an answer, but what looks like the end of one may be a word of the reasoning.
    for first in dict.fromkeys((begin, 0)):
        if answer := _only_object(text, first):
            return answer
    raise _BadAnswerError("the answer holds no complete JSON object with a status")


def _only_object(text: str, begin: int) -> _Answer | None:
    tried = set()
    for candidate in _repairs(text, begin):
        if candidate in tried:
            continue
        tried.add(candidate)
        objects, outside = _objects(candidate, begin)
        if len(objects) > 1:
            raise _BadAnswerError(f"the answer holds {len(objects)} objects with a status")
        if objects and _OWN_KEY.search(straight_quotes(outside)):
            raise _BadAnswerError("the answer holds a second, broken object beside the complete one")
        if objects:
            return objects[0]
    return None


def _repairs(text: str, begin: int) -> Iterator[str]:
    """The text as it is, then repaired, each repair made only when it is asked for."""
    for written in (text, straight_quotes(text)):
        yield written
        yield _drop_trailing_commas(written, begin)


def _drop_trailing_commas(text: str, begin: int) -> str:
    """The text with a space for each trailing comma, so that every other character keeps its place."""
    if not _TRAILING_COMMA.search(text, begin):
        return text
    start = _OBJECT_START.search(text, begin)
    at = start.start() if start else len(text)  # a lone quote in the prose before must not turn strings inside out
    return text[:at] + _STRING_OR_COMMA.sub(lambda m: " " if m[0] == "," else m[0], text[at:])


def _objects(text: str, begin: int) -> tuple[list[_Answer], str]:
    """All outermost objects of the text that have a status key, and the text around them."""
    objects, outside, after = [], [], begin
    broken, length = 0, 0
    start = _OBJECT_START.search(text, begin)
    while start:
        try:
            value, end = _DECODER.raw_decode(text, start.start())
        except ValueError as error:
            broken, length = broken + 1, length + max(getattr(error, "pos", len(text)) - start.start(), 0)
            if broken > _MAX_BROKEN or length > _MAX_BROKEN_LENGTH * len(text):
                raise _BadAnswerError("the answer holds too many broken objects") from None
            start = _OBJECT_START.search(text, start.end())
            continue
        if STATUS in value:
            objects.append(_Answer(value, text, start.start(), end))
            outside.append(text[after : start.start()])
            after = end
        start = _OBJECT_START.search(text, end)
    return objects, "\n".join([*outside, text[after:]])


def _canonical(key: str) -> str:
    return _KEYS.get(" ".join(key.replace("_", " ").lower().split()), key)


_DECODER = strict_decoder(_BadAnswerError, key=_canonical, control_characters=True)

_KEYS = {k.lower(): k for k in (COT, STATUS, ANOMALIES, REGION_T, LABEL, REASON, REGION, BBOX)}


# --- reading the object -----------------------------------------------------------------------------------------------


def _report(data: Mapping[str, Any], turn: int, num_frames: int) -> TurnReport:
    if COT not in data:
        raise _BadAnswerError(f"{COT} is missing")
    cot = _text(data, COT)
    status = data[STATUS].strip().lower() if isinstance(data[STATUS], str) else data[STATUS]
    if status not in ("normal", "abnormal"):
        raise _BadAnswerError(f'{STATUS} must be "normal" or "abnormal", got {status!r}')
    items = data.get(ANOMALIES)
    if not isinstance(items, list):
        raise _BadAnswerError(f"{ANOMALIES} must be a list, got {type(items).__name__}")
    if (status == "normal") != (not items):
        raise _BadAnswerError(f"{STATUS} {status!r} contradicts {len(items)} listed anomalies")
    anomalies = [a for item in items for a in _anomalies(item, turn, num_frames)]
    return TurnReport(status, cot, tuple(anomalies))


def _anomalies(item: object, turn: int, num_frames: int) -> list[Anomaly]:
    """One listed anomaly; several when its time region names several ranges."""
    if not isinstance(item, dict):
        raise _BadAnswerError(f"an anomaly must be an object, got {type(item).__name__}")
    kind = _label(item.get(LABEL))
    ranges = _ranges(item.get(REGION_T), turn, num_frames)
    reason, region = (_text(item, key) for key in (REASON, REGION))
    boxes = _boxes(item.get(BBOX), num_frames) if turn == 2 else {}
    parts: dict[FrameRange, dict[int, tuple[Box, ...]]] = {r: {} for r in ranges}
    ends = [r.end for r in ranges]
    for frame, regions in boxes.items():
        near = bisect_left(ends, frame)  # the first range that ends at the frame or after it
        home = min(ranges[max(near - 1, 0) : near + 1], key=lambda r: max(r.start - frame, frame - r.end, 0))
        parts[home][frame] = regions
    return [Anomaly(kind, r, b, reason=reason, region=region) for r, b in parts.items()]


def _label(value: object) -> AnomalyType:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise _BadAnswerError(f"{LABEL} must be one type name, got {value!r}")
    try:
        return AnomalyType.parse(value)
    except ValueError as error:
        raise _BadAnswerError(str(error)) from None


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key, "")
    if not isinstance(value, str):
        raise _BadAnswerError(f"{key} must be a string, got {type(value).__name__}")
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
        raise _BadAnswerError(f"{REGION_T} names no frame range: {value!r}")
    ranges = []
    for start, last in sorted(pairs):
        if not 0 <= start <= last or start >= num_frames:
            raise _BadAnswerError(
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
        raise _BadAnswerError(f"{REGION_T} must be text such as 'Frame 3-7', got {value!r}")
    if bounds := _BRACKETED.fullmatch(value.strip()):
        return [(int(bounds[1]), int(bounds[2]))]
    pairs = []
    pieces = re.split(r",|;|\band\b|&", value.translate(_DASHES).strip().rstrip("."))
    if len(pieces) > _MAX_RANGES:
        raise _BadAnswerError(f"{REGION_T} names {len(pieces):,} ranges, more than {_MAX_RANGES:,}")
    for piece in pieces:
        match = _RANGE.fullmatch(piece.strip())
        if not match:
            raise _BadAnswerError(f"{REGION_T} must be text such as 'Frame 3-7', got {value!r}")
        pairs.append((int(match[1]), int(match[2] or match[1])))
    return pairs


_FRAME_KEY = re.compile(r"(?:frame\s*+)?#?(\d{1,6})(?:\s*+:)?", re.IGNORECASE)


def _boxes(value: object, num_frames: int) -> dict[int, tuple[Box, ...]]:
    if not isinstance(value, dict) or not value:
        raise _BadAnswerError(
            f'{BBOX} must map frames to boxes, such as {{"Frame 0": [x0, y0, x1, y1]}}, got {value!r}'
        )
    boxes: dict[int, tuple[Box, ...]] = {}
    for key, given in value.items():
        match = _FRAME_KEY.fullmatch(key.strip())
        if not match or int(match[1]) >= num_frames:
            raise _BadAnswerError(f"{BBOX} key {key!r} is not a frame of the clip (0-{num_frames - 1})")
        if int(match[1]) in boxes:
            raise _BadAnswerError(f"{BBOX} names frame {match[1]} twice")
        nested = isinstance(given, list) and bool(given) and all(isinstance(f, list) for f in given)
        boxes[int(match[1])] = tuple(_box(f) for f in (given if nested else [given]))
    return dict(sorted(boxes.items()))


def _box(value: object) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(_is_whole(v) for v in value):
        raise _BadAnswerError(
            f"a box must be four whole numbers [xmin, ymin, xmax, ymax] of 0-{BOX_SCALE}, got {value!r}"
        )
    try:
        return Box(*(int(v) for v in value))
    except ValueError as error:
        raise _BadAnswerError(str(error)) from None


def _is_whole(value: object) -> bool:
    return is_int(value) or (isinstance(value, float) and value.is_integer())
