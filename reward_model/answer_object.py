"""The one JSON object of an answer, found wherever it stands in what a model wrote.

An answer is whatever a model or a server sent, so every step here takes time in proportion to its length: repeats in
the expressions are possessive or stand between different characters, and broken objects are tried a limited number of
times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reward_model.strict_json import strict_decoder

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


class BadAnswerError(Exception):
    """Reason why an answer is refused, before the text is attached."""


def straight_quotes(text: str) -> str:
    """The text, as long as before, with a plain quotation mark for each typographic one."""
    return _SMART_QUOTE.sub('"', text)


@dataclass(frozen=True)
class StatusPlace:
    """Position of an answer's verdict: ``key`` is the index of the opening quote of its status key, ``value`` what it
    wrote between the quotes of the value, such as ``"Normal "``.
    """

    key: int
    value: str


def find_status(text: str) -> StatusPlace | None:
    """The place of the status that :func:`reward_model.parsing.parse_turn` reads: the key of the answer's one object
    itself, not one that stands inside its reasoning or its anomalies. None if there is no such object.

    Example:
        >>> find_status('{"COT": "x", "Status": "NORMAL", "anomalies": []}')
        StatusPlace(key=13, value='NORMAL')
    """
    try:
        answer = find_object(text)
    except (BadAnswerError, RecursionError):
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
class Answer:
    """The object of an answer. ``text`` is the answer, repaired if need be and as long as before, ``text[start:end]``
    the object in it.
    """

    data: dict[str, Any]
    text: str
    start: int
    end: int


def find_object(text: str) -> Answer:
    """The one JSON object with a status in the text, wherever it stands. The text is repaired only if it cannot be read
    as it is.
    """
    if not isinstance(text, str):
        raise BadAnswerError(f"the answer is {type(text).__name__}, not text")
    if len(text) > MAX_ANSWER_LENGTH:
        raise BadAnswerError(f"the answer has {len(text):,} characters, more than {MAX_ANSWER_LENGTH:,}")
    begin = max((thought.end() for thought in _AFTER_THOUGHT.finditer(text)), default=0)
    # A thought is not an answer, but what looks like the end of one may be a word of the reasoning.
    for first in dict.fromkeys((begin, 0)):
        if answer := _only_object(text, first):
            return answer
    raise BadAnswerError("the answer holds no complete JSON object with a status")


def _only_object(text: str, begin: int) -> Answer | None:
    tried = set()
    for candidate in _repairs(text, begin):
        if candidate in tried:
            continue
        tried.add(candidate)
        objects, outside = _objects(candidate, begin)
        if len(objects) > 1:
            raise BadAnswerError(f"the answer holds {len(objects)} objects with a status")
        if objects and _OWN_KEY.search(straight_quotes(outside)):
            raise BadAnswerError("the answer holds a second, broken object beside the complete one")
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


def _objects(text: str, begin: int) -> tuple[list[Answer], str]:
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
                raise BadAnswerError("the answer holds too many broken objects") from None
            start = _OBJECT_START.search(text, start.end())
            continue
        if STATUS in value:
            objects.append(Answer(value, text, start.start(), end))
            outside.append(text[after : start.start()])
            after = end
        start = _OBJECT_START.search(text, end)
    return objects, "\n".join([*outside, text[after:]])


def _canonical(key: str) -> str:
    return _KEYS.get(" ".join(key.replace("_", " ").lower().split()), key)


_DECODER = strict_decoder(BadAnswerError, key=_canonical, control_characters=True)

_KEYS = {k.lower(): k for k in (COT, STATUS, ANOMALIES, REGION_T, LABEL, REASON, REGION, BBOX)}
