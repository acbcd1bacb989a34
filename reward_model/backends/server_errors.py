"""Reasons why a server, or something on the way to it, did not answer: its own words, and what to do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from html import unescape
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

_MAX_SHOWN = 400
#: A body longer than this says no more; the rest of an error page is not read.
MAX_ERROR_BYTES = 64 * 1024
_TAG = re.compile(r"<[^<>]*+>")


def body_text(raw: bytes) -> str:
    """Message of a response body on one line: that of an error in JSON, in any of the places that servers put it, the
    text of a web page, or the beginning of whatever it is.

    Example:
        >>> body_text(b'{"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}')
        'body.seed: not permitted'
        >>> body_text(b"<html><title>413 Too Large</title><hr>nginx</html>")
        'a web page: 413 Too Large nginx'
    """
    text = raw[:MAX_ERROR_BYTES].decode("utf-8", "replace")
    if text.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            text = _message(json.loads(raw)) or text
    elif text.lstrip().startswith("<"):
        text = "a web page: " + unescape(_TAG.sub(" ", text))
    return one_line(text) or "an empty body"


def one_line(text: str) -> str:
    """The text without control characters and line breaks. It is cut by :func:`shortened`, after the key is out."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shortened(text: str, limit: int = _MAX_SHOWN) -> str:
    return text if len(text) <= limit else f"{text[: limit - 60]} ... {text[-50:]}"


def _message(data: object) -> str:
    """The words of an error: ``{"error": {"message"}}``, ``{"error"}``, ``{"message"}``, ``{"detail"}``, with a list of
    places and messages in it.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        return "; ".join(filter(None, map(_message, data[:10])))
    if not isinstance(data, dict):
        return ""
    if isinstance(data.get("msg"), str):
        place = data.get("loc")
        return f"{'.'.join(map(str, place))}: {data['msg']}" if isinstance(place, list) else data["msg"]
    return next((said for key in ("error", "message", "detail", "errors") if (said := _message(data.get(key)))), "")


def error_code(raw: bytes) -> str:
    """The ``code`` of an error in JSON; empty if there is none."""
    try:
        error = json.loads(raw)["error"]
        return str(error.get("code") or error.get("type") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def remedy(status: int, said: str, base_url: str, model: str, headers: Mapping[str, str]) -> str:
    """Remedy for an HTTP status, as the end of a sentence; empty if the server's own words must do."""
    todo = ""
    if 300 <= status < 400:
        todo = (
            f"it redirects to {_place(headers.get('location', ''))}, and redirects are not followed, because frames "
            "and prompt would go there; if that is the server, pass its address as base_url"
        )
    elif status == 401:
        todo = "the server rejects this key: set $OPENAI_API_KEY, or pass api_key"
    elif status == 403:
        todo = f"this key may not use {model!r} there, or a gateway on the way refuses" + _by_proxy(base_url)
    elif status in (404, 405):
        todo = _not_found(said, base_url)
    elif status == 407:
        todo = "the proxy requires a login" + _by_proxy(base_url)
    elif status == 413:
        todo = (
            "the frames of one question exceed its limit: send them smaller (frame_size, image_format='jpeg'), "
            "fewer (scan_fps, max_zoom_frames), or raise its limit (nginx: client_max_body_size)"
        )
    elif status == 429:
        todo = "too many requests at once or in a minute: lower concurrency"
    elif status in (502, 503, 504):
        todo = f"the server behind {base_url} is down, starting or too slow" + _by_proxy(base_url)
    return todo


def _not_found(said: str, base_url: str) -> str:
    if "model" in said.lower():
        return f"{base_url.rstrip('/')}/models lists the names under which models are served there"
    if urlsplit(base_url).path.rstrip("/").endswith("/v1"):
        return f"there is no chat server at {base_url}; is the address right?"
    return f"there is no chat server at {base_url}; base_url usually ends in /v1: {base_url.rstrip('/')}/v1"


def _place(address: str) -> str:
    """An address without login, query and the path of the request."""
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "an invalid address"
    shown = urlunsplit((parts.scheme, host, parts.path.removesuffix("/chat/completions"), "", ""))
    return shortened(one_line(shown), 200) or "nowhere"


def _by_proxy(base_url: str) -> str:
    """The proxy that requests to this address go through, from the environment."""
    parts = urlsplit(base_url)
    try:
        proxy = getproxies().get(parts.scheme) or getproxies().get("all")
        if not proxy or proxy_bypass(parts.netloc):
            return ""
    except (OSError, ValueError):
        return ""
    return (
        f"; requests go through the proxy {_place(proxy)} of ${parts.scheme.upper()}_PROXY (add {parts.hostname} to "
        "$NO_PROXY to go without it)"
    )


def connection_remedy(base_url: str) -> str:
    """Remedy for a connection that failed."""
    return f"is the server at {base_url} up?{_by_proxy(base_url)}"
