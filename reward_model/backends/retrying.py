"""Asking again: exponential backoff with jitter, Retry-After honoured, one deadline over all attempts.

Only what may pass by itself is tried again (busy, overloaded, unreachable, cut off); a request the server calls wrong
is not.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from reward_model.backends.base import BackendError
from reward_model.terminal.described import check_settings, setting

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: The longest that a server may make its clients wait before they ask again.
MAX_RETRY_AFTER_S = 600.0


class AttemptFailed(Exception):
    """One attempt failed. ``retry`` says whether another may succeed, ``retry_after_s`` how long the server asks to
    wait.
    """

    def __init__(
        self, reason: str, *, retry: bool, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry = retry
        self.status = status
        self.retry_after_s = retry_after_s


class RequestRejected(BackendError):
    """The server called the request itself wrong (4xx); ``status`` is its HTTP status."""

    def __init__(self, reason: str, status: int | None) -> None:
        super().__init__(reason)
        self.status = status


class Deadline:
    """A point in time that several requests share; ``Deadline(None)`` never passes."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, infinite without a deadline, never below zero."""
        return float("inf") if self._end is None else max(0.0, self._end - time.monotonic())


@dataclass(frozen=True)
class Backoff:
    """Waiting times: attempt k (from 0) is followed by up to ``base_s * 2**k`` seconds, at least half of it, at most
    ``cap_s``.
    """

    max_retries: int = setting(5, least=0)
    base_s: float = setting(0.5, least=0)
    cap_s: float = setting(30.0, least=0)

    def __post_init__(self) -> None:
        check_settings(self)

    def wait_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Seconds to wait; what the server asked for wins, up to ten minutes, with a little jitter so that waiting
        clients do not return together.
        """
        if retry_after_s is not None:
            return min(retry_after_s, MAX_RETRY_AFTER_S) + random.uniform(0, self.base_s)
        return min(self.cap_s, self.base_s * 2**attempt) * random.uniform(0.5, 1.0)


def ask_until_answered(attempt: Callable[[float], T], backoff: Backoff, deadline: Deadline) -> T:
    """Calls ``attempt(seconds_left)`` until it returns.

    Args:
        attempt: raises :class:`AttemptFailed` when it fails.
        backoff: how often and how long to wait.
        deadline: shared with other requests; no attempt starts and no wait ends after it.

    Raises:
        RequestRejected: if the failure cannot pass by itself.
        BackendError: attempts or time are used up; the message holds the last reason.
    """
    reason = ""
    for number in range(backoff.max_retries + 1):
        left = deadline.remaining()
        if left <= 0:
            raise BackendError(
                f"the deadline of {deadline.seconds} s passed after {number} attempts{': ' + reason if reason else ''}"
            )
        try:
            return attempt(left)
        except AttemptFailed as failed:
            failure = failed
        reason = failure.reason
        if not failure.retry:
            raise RequestRejected(reason, failure.status)
        if number == backoff.max_retries:
            break
        wait = backoff.wait_s(number, failure.retry_after_s)
        if wait >= deadline.remaining():
            raise BackendError(
                f"the next attempt would start {wait:.1f} s from now, after the deadline of {deadline.seconds} s "
                f"({number + 1} attempts made): {reason}"
            )
        logger.info(
            "attempt %d of %d failed, the next follows in %.2f s: %s", number + 1, backoff.max_retries + 1, wait, reason
        )
        time.sleep(wait)
    raise BackendError(f"gave up after {backoff.max_retries + 1} attempts: {reason}")


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or an HTTP date. None for anything else.

    Example:
        >>> parse_retry_after("1.5"), parse_retry_after("soon")
        (1.5, None)
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
