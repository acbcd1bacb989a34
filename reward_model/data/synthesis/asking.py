"""Puts calls to the models, through the ledger: what is recorded is never asked again."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reward_model.backends.base import Backend, BackendError
from reward_model.backends.retrying import Backoff
from reward_model.conversation import Completion
from reward_model.data.synthesis.ledger import Kind, Ledger
from reward_model.data.synthesis.rounds import Call
from reward_model.data.synthesis.tally import is_answer


class Asker:
    """Asks the teacher and the judge, writes every finished call to the ledger, and stops when a model is gone.

    Args:
        backends: who answers calls of each kind.
        give_up_after: failed calls in a row after which :meth:`ask` raises.
    """

    def __init__(self, backends: Mapping[Kind, Backend], ledger: Ledger, give_up_after: int = 20) -> None:
        self.backends = backends
        self.ledger = ledger
        self.give_up_after = give_up_after
        self._retries = {kind: _watch(backend) for kind, backend in backends.items()}
        self._lock = threading.Lock()
        self._in_a_row = 0

    def recorded(self, call: Call) -> Completion | None:
        """The answer an earlier run was given, or None."""
        return self.ledger.find(call.id)

    def ask(self, calls: Sequence[Call]) -> list[Completion]:
        """Answers to calls of one kind and one sampling, asked as one batch.

        Raises:
            BackendError: if ``give_up_after`` calls in a row failed; everything answered so far is in the ledger.
            VideoError: if a video cannot be read.
        """
        kind = calls[0].id.kind
        answers = self.backends[kind].generate([call.build() for call in calls], calls[0].sampling)
        for call, answer in zip(calls, answers, strict=True):
            self.ledger.append(call.id, answer, self._retries[kind].take())
        for answer in answers:
            self._watch_failures(answer)
        return answers

    def _watch_failures(self, answer: Completion) -> None:
        with self._lock:
            self._in_a_row = 0 if is_answer(answer.text, answer.error) else self._in_a_row + 1
            if self._in_a_row >= self.give_up_after:  # above it: what other workers had asked by then
                raise BackendError(
                    f"{self.give_up_after} calls in a row gave no answer (the last: {answer.error or 'empty'}); what "
                    "was answered before is kept: run again to continue"
                )


@dataclass
class _Retries:
    """Attempts a backend made by itself and nobody has counted yet."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0

    def take(self) -> int:
        with self.lock:
            count, self.count = self.count, 0
        return count


@dataclass(frozen=True)
class _CountedBackoff(Backoff):
    """The same waits, counted: a server is asked for the length of a wait once before every further attempt."""

    retries: _Retries = field(default_factory=_Retries, compare=False)

    def wait_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        with self.retries.lock:
            self.retries.count += 1
        return super().wait_s(attempt, retry_after_s)


def _watch(backend: Backend) -> _Retries:
    """Counts the retries of a backend that stands on a chat server; others make none."""
    server = getattr(backend, "server", None)
    backoff = getattr(server, "backoff", None)
    if isinstance(backoff, _CountedBackoff):
        return backoff.retries
    retries = _Retries()
    if server is not None and isinstance(backoff, Backoff):
        server.backoff = _CountedBackoff(backoff.max_retries, backoff.base_s, backoff.cap_s, retries)
    return retries
