"""One OpenAI-compatible server: a request in, a checked JSON answer out, every failure named and free of the key."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reward_model.backends.retrying import (
    AttemptFailed,
    Backoff,
    Deadline,
    RequestRejected,
    ask_until_answered,
    parse_retry_after,
)

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

logger = logging.getLogger(__name__)

#: Answers that may be different next time: timeout, conflict, too early, too many requests; and all of 5xx but "not
#: implemented".
_PASSING = frozenset({408, 409, 425, 429})

#: What a refused field is replaced by, keyed by the word a server's complaint must contain.
_FALLBACKS: dict[str, dict[str, str | None]] = {
    "logprobs": {"logprobs": None, "top_logprobs": None},
    "max_completion_tokens": {"max_tokens": "max_completion_tokens"},
}


class Secret:
    """A key that shows itself to nobody. A pickle does not hold it: the copy reads ``$OPENAI_API_KEY`` of its own
    process.
    """

    def __init__(self, value: str | None = None) -> None:
        value = (value or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError(
                "the API key holds characters no key has (spaces, line breaks or non-ASCII); pass the bare key"
            )
        self._value = value

    def reveal(self) -> str:
        """The key; empty if there is none."""
        return self._value

    def hide(self, text: str) -> str:
        """The text with the key blotted out: servers quote it back."""
        return text.replace(self._value, "[key]") if self._value else text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> tuple[type[Secret], tuple[()]]:
        return Secret, ()


class ChatServer:
    """Posts chat requests, with retries.

    Args:
        base_url: http(s) address that ends before ``/chat/completions``; None is ``$OPENAI_BASE_URL``, else OpenAI
            itself.
        key: sent as bearer token; a server of one's own may do without.
        timeout_s: seconds from sending a request to the last byte of its answer.
        backoff: when to ask again.

    Raises:
        ImportError: the ``openai`` package is missing.
        ValueError: the address is not an address, or holds a login; or there is no key for OpenAI itself.
    """

    def __init__(self, base_url: str | None, key: Secret, *, timeout_s: float, backoff: Backoff) -> None:
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        parts = urlsplit(self.base_url or "https://api.openai.com/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("base_url holds a login or a query, which would end up in logs; pass the key as api_key")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url must look like http://host:8000/v1, got {self.base_url!r}")
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
        self._client: OpenAI | None = None
        self._refused: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_client", "_refused")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def client(self) -> OpenAI:
        """The ``openai`` client, opened at first use in each process."""
        try:
            from openai import OpenAI
        except ImportError as error:
            raise ImportError('the openai backend needs the openai package: pip install "cac-align[openai]"') from error
        with self._lock:
            if self._client is None:
                self._client = OpenAI(api_key=self._key.reveal() or "none", base_url=self.base_url, max_retries=0)
            return self._client

    def post(self, body: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """The server's answer to one chat request: a dict whose ``choices[0].message`` exists.

        Fields that not every server knows (log-probabilities, ``max_tokens``) are left out or renamed once a server has
        refused them.

        Raises:
            RequestRejected: the server calls the request wrong.
            BackendError: no answer after all attempts, or none before the deadline.
        """
        refused = set(self._refused)
        while True:
            sent = _without(body, refused)
            try:
                answer = ask_until_answered(partial(self._attempt, sent), self.backoff, deadline)
            except RequestRejected as error:
                complaint = next((word for word in _FALLBACKS if _complains(error, word, sent)), None)
                if complaint is None:
                    raise
                refused.add(complaint)
                continue
            for word in refused - self._refused:
                logger.warning(
                    "%s refuses the request with %s; it is asked without", self.base_url, "/".join(_FALLBACKS[word])
                )
            self._refused |= refused
            return answer

    def _attempt(self, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        import openai

        timeout = min(self.timeout_s, seconds)
        end = time.monotonic() + timeout
        rest = {k: v for k, v in body.items() if k not in ("model", "messages")}
        raw = bytearray()
        try:
            with self.client().chat.completions.with_streaming_response.create(
                model=body["model"], messages=body["messages"], extra_body=rest, timeout=timeout
            ) as response:
                for chunk in response.iter_bytes():
                    raw += chunk
                    if time.monotonic() > end:
                        raise AttemptFailed(f"the answer was not complete within {timeout:.1f} s", retry=True)
            return _checked(bytes(raw))
        except AttemptFailed as error:
            failure = AttemptFailed(self._key.hide(error.reason), retry=error.retry)
        except openai.APITimeoutError:
            failure = AttemptFailed(f"no answer within {timeout:.1f} s", retry=True)
        except openai.APIStatusError as error:
            failure = self._status_failure(error)
        except _connection_errors() as error:
            cause = error.__cause__ or error
            failure = AttemptFailed(
                self._key.hide(
                    f"the connection failed: {type(cause).__name__}: {cause} (is the server at {self.base_url} up?)"
                ),
                retry=True,
            )
        # Raised outside the handlers, so that no traceback leads to a request and its headers.
        raise failure

    def _status_failure(self, error: APIStatusError) -> AttemptFailed:
        status = error.status_code
        body = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error.message)[:500]
        retry = status in _PASSING or (status >= 500 and status != 501)
        return AttemptFailed(
            self._key.hide(f"HTTP {status}: {message}"),
            # An empty account answers 429 as well, and waiting does not fill it.
            retry=retry and error.code != "insufficient_quota",
            status=status,
            retry_after_s=parse_retry_after(error.response.headers.get("retry-after")),
        )


def _checked(raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
        message = answer["choices"][0]["message"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise AttemptFailed(f"the answer is no chat completion: {raw[:120]!r}", retry=True) from None
    if not isinstance(message, dict):
        raise AttemptFailed(f"the answer is no chat completion: {raw[:120]!r}", retry=True)
    return answer


def _without(body: dict[str, Any], refused: set[str]) -> dict[str, Any]:
    """The request with the refused fields left out or renamed."""
    change: dict[str, str | None] = {k: v for word in refused for k, v in _FALLBACKS[word].items()}
    return {name: v for k, v in body.items() if (name := change.get(k, k)) is not None}


def _complains(error: RequestRejected, word: str, sent: dict[str, Any]) -> bool:
    return error.status in (400, 422) and word in str(error) and any(k in sent for k in _FALLBACKS[word])


def _connection_errors() -> tuple[type[Exception], ...]:
    """What may go wrong on the wire, in ``openai`` or in the HTTP library under it; which one that is depends on its
    version.
    """
    names = (("openai", "OpenAIError"), ("httpx", "HTTPError"), ("httpx2", "HTTPError"))
    return (OSError, *(getattr(sys.modules[module], error) for module, error in names if module in sys.modules))
