"""One OpenAI-compatible server: a request in, a checked answer out, every failure named and free of the key.

Nothing is taken on trust: answers are bounded in bytes before and after decompression, redirects are not followed, and
what came is checked field by field (:mod:`reward_model.backends.reply`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reward_model.backends.reply import Reply, read_reply
from reward_model.backends.retrying import (
    AttemptFailed,
    Backoff,
    Deadline,
    RequestRejected,
    ask_until_answered,
    parse_retry_after,
)
from reward_model.backends.secret import Secret
from reward_model.backends.server_errors import (
    MAX_ERROR_BYTES,
    body_text,
    connection_remedy,
    error_code,
    remedy,
    shortened,
)

if TYPE_CHECKING:
    import httpx2 as httpx  # of openai 3; older ones have httpx, with the same names

logger = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
#: Seconds for an answer of one token, with many frames to be read first; and more for each token that may be written,
#: at the pace of a full-size judge that shares its GPU.
BASE_TIMEOUT_S, TIMEOUT_S_PER_TOKEN = 120.0, 0.1
_CONNECT_TIMEOUT_S = 30.0
#: Bytes of an answer: 20 listed tokens of some 100 bytes for each token written, twice over.
_MAX_BYTES, _MAX_BYTES_PER_TOKEN = 1024 * 1024, 4096

#: Answers that may be different next time: timeout, conflict, too early, too many requests; and all of 5xx but "not
#: implemented".
_PASSING = frozenset({408, 409, 425, 429})

#: What a refused field is replaced by, keyed by the word a server's complaint must contain.
_FALLBACKS: dict[str, dict[str, str | None]] = {
    "logprobs": {"logprobs": None, "top_logprobs": None},
    "max_completion_tokens": {"max_tokens": "max_completion_tokens"},
}
_UNKNOWN = re.compile(r"unknown|unrecogni[sz]ed|unexpected|unsupported|not supported|not permitted|extra field", re.I)
#: What to try where a server says "too many" without a number.
_FEW_LOGPROBS = 5


@dataclass(frozen=True)
class Terms:
    """Limits of a server as found so far: the fields it ``refused``, and how many log-probabilities it lists."""

    refused: frozenset[str] = frozenset()
    top_logprobs: int | None = None

    def request(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request as the server takes it."""
        change: dict[str, str | None] = {k: v for word in self.refused for k, v in _FALLBACKS[word].items()}
        sent = {name: v for k, v in body.items() if (name := change.get(k, k)) is not None}
        if self.top_logprobs is not None and sent.get("top_logprobs"):
            sent["top_logprobs"] = min(sent["top_logprobs"], self.top_logprobs)
        return sent

    def after(self, error: RequestRejected, sent: dict[str, Any]) -> Terms | None:
        """The terms that follow from a refusal of what was ``sent``; None if it is about something else."""
        said = str(error)
        if error.status not in (400, 422):
            return None
        asked = sent.get("top_logprobs") or 0
        if "logprobs" in said and asked > 1 and (fewer := _fewer(said, asked)):
            return replace(self, top_logprobs=fewer)
        for word, change in _FALLBACKS.items():
            if word in said and any(k in sent for k in change):
                return replace(self, refused=self.refused | {word})
        return None


def _fewer(said: str, asked: int) -> int | None:
    """Number of log-probabilities to ask for after a complaint about ``asked``; None: ask for none."""
    if _UNKNOWN.search(said):
        return None
    smaller = [n for n in map(int, re.findall(r"\b\d{1,3}\b", said)) if n < asked]
    return max(smaller, default=_FEW_LOGPROBS if asked > _FEW_LOGPROBS else 0) or None


class ChatServer:
    """Posts chat requests, with retries.

    Args:
        base_url: http(s) address that ends before ``/chat/completions``; None is ``$OPENAI_BASE_URL``, else OpenAI
            itself.
        key: sent as bearer token; your own server may do without.
        timeout_s: seconds from sending a request to the last byte of its answer; None: 120, and a tenth of a second
            more for each token that the answer may have.
        backoff: when to ask again.

    Raises:
        ImportError: if the ``openai`` package is missing.
        ValueError: if the address is not an address, holds a login, or goes too far; or there is no key for OpenAI
            itself.
    """

    def __init__(self, base_url: str | None, key: Secret, *, timeout_s: float | None, backoff: Backoff) -> None:
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        parts = urlsplit(self.base_url or OPENAI_URL)
        if parts.username or parts.password or parts.query:
            raise ValueError("base_url holds a login or a query, which would end up in logs; pass the key as api_key")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url must look like http://host:8000/v1, got {self.base_url!r}")
        for tail in ("/chat/completions", "/completions", "/models"):
            if self.base_url and parts.path.rstrip("/").endswith(tail):
                short = self.base_url.rstrip("/").removesuffix(tail)
                raise ValueError(f"base_url={self.base_url!r} must end before {tail}, as in {short!r}")
        if not self.base_url and not key.reveal():
            raise ValueError(
                "no API key for api.openai.com: set OPENAI_API_KEY or pass api_key, or base_url for another server"
            )
        self.timeout_s = timeout_s
        self.backoff = backoff
        self._key = key
        self._reset()
        self.client()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._client: Any = None
        self._terms = Terms()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_client", "_terms")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def client(self) -> httpx.Client:
        """The HTTP client of the ``openai`` package, opened at first use in each process. It heeds the proxies of the
        environment and follows no redirect.
        """
        try:
            from openai import DefaultHttpxClient
        except ImportError as error:
            raise ImportError('the openai backend needs the openai package: pip install "cac-align[openai]"') from error
        with self._lock:
            if self._client is None:
                self._client = DefaultHttpxClient(follow_redirects=False)
            return self._client

    def hide(self, text: str) -> str:
        """The text with the key blotted out."""
        return self._key.hide(text)

    def timeout(self, tokens: int) -> float:
        """Seconds a request for an answer of up to ``tokens`` tokens may take."""
        return BASE_TIMEOUT_S + TIMEOUT_S_PER_TOKEN * tokens if self.timeout_s is None else self.timeout_s

    def post(self, body: dict[str, Any], deadline: Deadline) -> Reply:
        """The server's answer to one chat request.

        Fields that not every server knows (log-probabilities, ``max_tokens``) are left out or renamed once a server has
        refused them; one that lists fewer log-probabilities is asked for as many as it lists.

        Raises:
            RequestRejected: the server calls the request wrong, or answers what no server may.
            BackendError: no answer after all attempts, or none before the deadline.
        """
        terms = self._terms
        while True:
            sent = terms.request(body)
            try:
                answer = ask_until_answered(partial(self._attempt, sent), self.backoff, deadline)
            except RequestRejected as error:
                after = terms.after(error, sent)
                if after is None:
                    raise
                terms = after
                continue
            self._agree(terms)
            return answer

    def _agree(self, terms: Terms) -> None:
        """Keeps what a request has taught, and says so the first time."""
        with self._lock:
            old = self._terms
            fewest = min((n for n in (old.top_logprobs, terms.top_logprobs) if n is not None), default=None)
            self._terms = Terms(old.refused | terms.refused, fewest)
        for word in sorted(terms.refused - old.refused):
            fields = "/".join(_FALLBACKS[word])
            logger.warning("%s refuses the request with %s; it is asked without", self.base_url, fields)
        if fewest != old.top_logprobs and "logprobs" not in terms.refused:
            logger.warning(
                "%s lists at most %d log-probabilities; the probability of a word beyond them is an upper bound",
                self.base_url,
                fewest,
            )

    def _attempt(self, body: dict[str, Any], seconds: float) -> Reply:
        from openai import Timeout

        tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        limit = min(self.timeout(tokens), seconds)
        failure: AttemptFailed
        try:
            with self.client().stream(
                "POST",
                f"{(self.base_url or OPENAI_URL).rstrip('/')}/chat/completions",
                content=json.dumps(body).encode(),
                headers={"content-type": "application/json", "accept-encoding": "gzip", **_account()},
                auth=self._sign,
                timeout=Timeout(limit, connect=min(limit, _CONNECT_TIMEOUT_S)),
            ) as response:
                status = response.status_code
                is_answer = 200 <= status < 300
                room = _MAX_BYTES + _MAX_BYTES_PER_TOKEN * tokens if is_answer else MAX_ERROR_BYTES
                raw = _body(response, room, cut=not is_answer, limit=limit)
            if is_answer:
                return read_reply(raw, self.hide)
            failure = self._status_failure(status, response.headers, raw, str(body.get("model", "")))
        except AttemptFailed as error:
            failure = AttemptFailed(self._shown(error.reason), retry=error.retry)
        except _connection_errors() as error:
            if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
                failure = AttemptFailed(f"no answer within {limit:.1f} s", retry=True)
            else:
                cause = error.__cause__ or error
                said = f"{type(cause).__name__}: {cause} ({connection_remedy(self.base_url or OPENAI_URL)})"
                failure = AttemptFailed(self._shown(f"the connection failed: {said}"), retry=True)
        # Raised outside the handlers, so that no traceback leads to a request and its headers.
        raise failure

    def _sign(self, request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {self._key.reveal() or 'none'}"
        return request

    def _shown(self, text: str) -> str:
        """A reason without the key, short enough to be read; the key goes first, so that no half of it stays."""
        return shortened(self.hide(text))

    def _status_failure(self, status: int, headers: Mapping[str, str], raw: bytes, model: str) -> AttemptFailed:
        said = body_text(raw)
        todo = remedy(status, said, self.base_url or OPENAI_URL, model, headers)
        return AttemptFailed(
            f"HTTP {status}: {self._shown(said)}{f' ({self.hide(todo)})' if todo else ''}",
            # An empty account answers 429 as well, and waiting does not fill it.
            retry=(status in _PASSING or (status >= 500 and status != 501)) and error_code(raw) != "insufficient_quota",
            status=status,
            retry_after_s=parse_retry_after(headers.get("retry-after")),
        )


def _account() -> dict[str, str]:
    """The headers that tell OpenAI which account to charge, where the environment names one."""
    names = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    return {header: value for header, name in names.items() if (value := os.environ.get(name))}


def _body(response: httpx.Response, room: int, *, cut: bool, limit: float) -> bytes:
    """The body of a response, unpacked, of at most ``room`` bytes: more is an error, or with ``cut`` left unread."""
    end = time.monotonic() + limit
    unpack = _unpacker(response.headers.get("content-encoding", ""))
    raw = bytearray()
    for chunk in response.iter_raw():
        raw += unpack(chunk, room + 1 - len(raw))
        if len(raw) > room:
            if cut:
                break
            raise AttemptFailed(f"the answer is longer than the {room:,} bytes that it could need", retry=False)
        if time.monotonic() > end:
            raise AttemptFailed(f"the answer was not complete within {limit:.1f} s", retry=True)
    return bytes(raw[:room])


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """Unpacks the chunks of a body, each to a limit: a few kilobytes of gzip can hold gigabytes."""
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return lambda chunk, room: chunk
    if kind not in ("gzip", "deflate"):
        raise AttemptFailed(f"the answer is packed as {encoding[:40]!r}, which was not requested", retry=False)
    stream = zlib.decompressobj(wbits=47)

    def unpack(chunk: bytes, room: int) -> bytes:
        try:
            return stream.decompress(chunk, max(room, 1))
        except zlib.error:
            raise AttemptFailed(f"the answer is not the {kind} it says it is", retry=True) from None

    return unpack


def _connection_errors() -> tuple[type[Exception], ...]:
    """Errors of a connection, in ``openai`` or in the HTTP library under it; the library depends on its version."""
    names = (("openai", "OpenAIError"), *((m, e) for m in ("httpx", "httpx2") for e in ("HTTPError", "StreamError")))
    return (OSError, *(getattr(sys.modules[module], error) for module, error in names if module in sys.modules))
