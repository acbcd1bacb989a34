"""Checks that a ``result.json`` has the form this version writes, so that a page is never made of half of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

Check = tuple[Callable[[Any], bool], str]


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _score(value: object) -> bool:
    return value is None or _number(value)


def _positive(value: object) -> bool:
    return _number(value) and 0 < value < 1e6


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1e6


_RESULT: Mapping[str, Check] = {
    "prompt": (_is(str), "a text"),
    "best": (_is(int), "a whole number"),
    "ranking": (_is(list), "a list"),
    "fps": (_positive, "a number above zero"),
    "num_frames": (lambda v: isinstance(v, list) and all(map(_count, v)), "a list of whole numbers above zero"),
    "height": (_count, "a whole number above zero"),
    "width": (_count, "a whole number above zero"),
    "settings": (_is(dict), "an object"),
    "candidates": (lambda v: isinstance(v, list) and bool(v), "a list with entries"),
}
_CANDIDATE: Mapping[str, Check] = {
    "index": (_is(int), "a whole number"),
    "seed": (_is(int, str, type(None)), "a whole number"),
    "score": (_score, "a finite number or null"),
    "reason": (_is(str, type(None)), "a text or null"),
    "parts": (lambda v: isinstance(v, dict) and all(map(_score, v.values())), "an object of numbers"),
    "video": (_is(str), "a file name"),
    "scale": (_count, "a whole number above zero"),
    "verdict": (_is(dict, type(None)), "an object or null"),
}


def form_fault(result: Mapping[str, Any]) -> str | None:
    """The first fault of the form of a result, or None.

    Example:
        >>> form_fault({"prompt": 3})
        "'prompt' must be a text, found 3"
    """
    if fault := _fault(result, _RESULT, ""):
        return fault
    entries = (_candidate_fault(k, entry) for k, entry in enumerate(result["candidates"]))
    return next((fault for fault in entries if fault), None) or _numbers_fault(result)


def _candidate_fault(k: int, entry: object) -> str | None:
    if not isinstance(entry, dict):
        return f"candidate {k} must be an object, found {_short(entry)}"
    fault = _fault(entry, _CANDIDATE, f" of candidate {k}")
    wrong_index = fault is None and entry["index"] != k
    return f"'index' of candidate {k} must be {k}, found {entry['index']}" if wrong_index else fault


def _numbers_fault(result: Mapping[str, Any]) -> str | None:
    places = list(range(len(result["candidates"])))
    if not all(map(_is(int), result["ranking"])) or sorted(result["ranking"]) != places:
        return f"'ranking' must name each of the {len(places)} candidates once, found {_short(result['ranking'])}"
    if result["best"] not in places:
        return f"'best' must be the number of a candidate, found {result['best']}"
    if len(result["num_frames"]) != len(places):
        return f"'num_frames' must have {len(places)} entries, found {len(result['num_frames'])}"
    return None


def _fault(data: Mapping[str, Any], checks: Mapping[str, Check], place: str) -> str | None:
    for name, (passes, wanted) in checks.items():
        if name not in data:
            return f"{name!r}{place} is missing"
        if not passes(data[name]):
            return f"{name!r}{place} must be {wanted}, found {_short(data[name])}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
