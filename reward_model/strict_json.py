"""JSON by the letter: a key given twice and numbers that JSON does not know are errors; what differs is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard


def strict_decoder(
    error: Callable[[str], Exception] = ValueError, *, key: Callable[[str], str] = str, control_characters: bool = False
) -> json.JSONDecoder:
    """A decoder that refuses a key given twice, NaN and infinities.

    Args:
        error: what is raised of its message.
        key: the spelling under which a key is kept; two that come to the same are the same key.
        control_characters: texts may hold them as they are.

    Example:
        >>> strict_decoder().decode('{"a": 1, "a": 2}')
        Traceback (most recent call last):
            ...
        ValueError: key 'a' is given twice
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for written, value in pairs:
            name = key(written)
            if name in entries:
                raise error(f"key {name!r} is given twice")
            entries[name] = value
        return entries

    def no_number(name: str) -> float:
        raise error(f"{name} is not a JSON number")

    return json.JSONDecoder(strict=not control_characters, object_pairs_hook=unique, parse_constant=no_number)


_DECODER = strict_decoder()


def read_strictly(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: if it is not JSON by the letter.
        RecursionError: if it is nested too deeply.
    """
    return _DECODER.decode(text)


def is_int(value: object) -> TypeGuard[int]:
    """True for a JSON integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite JSON number; true and false are none."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


def differences(before: object, now: object, name: str = "") -> list[str]:
    """Changes between two JSON values, one phrase per leaf; long values are cut.

    Example:
        >>> differences({"verify": "both", "seed": 0}, {"verify": "rule", "top_p": 1})
        ['seed was 0, now absent', 'top_p was absent, now 1', 'verify was "both", now "rule"']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(before.keys() | now.keys())
        return [d for k in keys for d in differences(before.get(k), now.get(k), f"{name}.{k}" if name else k)]
    return [] if before == now else [f"{name} was {_shown(before)}, now {_shown(now)}"]


def _shown(value: object) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
