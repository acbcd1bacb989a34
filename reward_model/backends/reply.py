"""Typed replies of a chat server: each field is checked once, on arrival, whatever the server sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from reward_model.backends.retrying import AttemptFailed
from reward_model.backends.server_errors import body_text
from reward_model.parsing import whole_characters

#: Where the text of an answer may stand: servers with a reasoning parser leave ``content`` empty when they take all of
#: it for a thought.
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning")
_MAX_NAME = 200
_MAX_TOKEN_BYTES = 1024
#: What servers write for "impossible", and what stands here for a log-probability that is not a number.
IMPOSSIBLE = -9999.0


@dataclass(frozen=True)
class Reply:
    """A checked chat completion.

    ``text`` came from the message's ``source`` field. ``tokens`` is ``logprobs.content``: for each token of the answer
    a dict of ``token`` (str), ``bytes`` (bytes or None), ``logprob`` (a finite float) and ``top_logprobs`` (a list of
    the same); empty if the server sent none, or one that is not of this form.
    """

    text: str
    source: str = "content"
    finish_reason: str = "stop"
    refusal: str = ""
    tokens: tuple[Mapping[str, Any], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    served_by: Mapping[str, str] = field(default_factory=dict)


def read_reply(raw: bytes, hide: Callable[[str], str] = str) -> Reply:
    """The answer in the body of a response; ``hide`` blots out what must not be kept, such as the key.

    Raises:
        AttemptFailed: if it is not a chat completion. Such an answer may be another one next time.
    """
    try:
        answer = json.loads(raw)
        choice = answer["choices"][0]
        message = choice["message"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise AttemptFailed(f"the answer is not a chat completion: {body_text(raw)}", retry=True) from None
    if not isinstance(message, dict):
        raise AttemptFailed(f"the answer is not a chat completion: {body_text(raw)}", retry=True)

    def clean(value: object) -> str:
        return hide(whole_characters(value)) if isinstance(value, str) else ""

    source, text = next(((name, t) for name in _TEXT_FIELDS if (t := _text(message.get(name)))), ("content", ""))
    names = {name: clean(answer.get(name))[:_MAX_NAME] for name in ("model", "system_fingerprint")}
    return Reply(
        text=clean(text),
        source=source,
        finish_reason=clean(choice.get("finish_reason"))[:_MAX_NAME] or "stop",
        refusal=clean(message.get("refusal"))[:_MAX_NAME],
        tokens=_tokens(choice.get("logprobs")),
        prompt_tokens=_count(answer.get("usage"), "prompt_tokens"),
        completion_tokens=_count(answer.get("usage"), "completion_tokens"),
        served_by={k: v for k, v in names.items() if v},
    )


def _text(value: object) -> str:
    """The text of a field: a string, or a list of parts with a text each."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def _count(usage: object, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0


def _tokens(logprobs: object) -> tuple[Mapping[str, Any], ...]:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = [_entry(item) for item in content] if isinstance(content, list) else []
    # With one token missing, the others would be taken for their neighbours.
    return () if None in entries else tuple(entry for entry in entries if entry is not None)


def _entry(item: object) -> dict[str, Any] | None:
    drawn = _token(item)
    if drawn is None or not isinstance(item, dict):
        return None
    listed = item.get("top_logprobs")
    others = [_token(other) for other in listed] if isinstance(listed, list) else []
    return {**drawn, "top_logprobs": [token for token in others if token is not None]}


def _token(item: object) -> dict[str, Any] | None:
    if not isinstance(item, dict) or not isinstance(item.get("token"), str):
        return None
    raw: object = item.get("bytes")
    value: object = item.get("logprob")
    return {
        "token": whole_characters(item["token"]),
        "bytes": bytes(raw) if _are_bytes(raw) else None,
        "logprob": float(value) if _is_number(value) else IMPOSSIBLE,
    }


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _are_bytes(raw: object) -> TypeGuard[list[int]]:
    return (
        isinstance(raw, list)
        and 0 < len(raw) <= _MAX_TOKEN_BYTES
        and all(type(byte) is int and 0 <= byte < 256 for byte in raw)
    )
