"""Exchanges with a model, written down and played back: tests without a model, audits without a server.

One exchange per line of a JSONL file: the request's key, what it was in brief (texts; frames by hash), and the
response. A key is the SHA-256 of everything that decides the answer, pixels included, so a recording answers exactly
the requests it holds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reward_model.backends.base import Backend, BackendError
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.digests import array_digest
from reward_model.journal import append_lines, read_lines
from reward_model.schema import VerdictScore
from reward_model.turns import WORDS, words_after

logger = logging.getLogger(__name__)

Kind = Literal["generate", "score"]


def request_key(
    kind: Kind, conversation: Conversation, *, sampling: Sampling | None = None, prefix: str | None = None
) -> str:
    """SHA-256 (hex) over roles, texts, frames with shape and type, and the sampling or the prefix with the words that
    are to follow it.
    """
    digest = hashlib.sha256()

    def add(tag: str, data: bytes) -> None:
        # Lengths keep neighbouring parts apart: ("ab", "c") and ("a", "bc") are different requests.
        digest.update(f"{tag} {len(data)}\n".encode() + data)

    add("kind", kind.encode())
    for message in conversation:
        add("role", message.role.encode())
        for part in message.content:
            if isinstance(part, str):
                add("text", part.encode("utf-8", "surrogatepass"))
            else:
                add(f"frame {part.dtype} {part.shape}", np.ascontiguousarray(part).tobytes())
    if sampling is not None:
        add("sampling", json.dumps(dataclasses.asdict(sampling), sort_keys=True).encode())
    if prefix is not None:
        add("prefix", prefix.encode("utf-8", "surrogatepass"))
        if (words := words_after(prefix)) != WORDS:
            add("words", json.dumps(words).encode())
    return digest.hexdigest()


class RecordingBackend:
    """Passes every request on to ``inner`` and writes the exchange down before it returns.

    Args:
        inner: the backend that answers.
        path: JSONL file, created with its folder; exchanges are appended to an existing one.

    Example:
        >>> judge = RecordingBackend(OpenAIBackend("my-org/cac-8b"), "outputs/exchanges.jsonl")   # doctest: +SKIP
    """

    def __init__(self, inner: Backend, path: str | os.PathLike[str]) -> None:
        self.inner = inner
        self.name = inner.name
        self.path = Path(path)

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """The inner backend's answers, recorded."""
        answers = self.inner.generate(conversations, sampling)
        self._append(
            {
                "kind": "generate",
                "key": request_key("generate", conversation, sampling=sampling),
                "request": {"messages": _brief(conversation), "sampling": dataclasses.asdict(sampling)},
                "response": _completion_to_dict(answer),
            }
            for conversation, answer in zip(conversations, answers, strict=True)
        )
        return answers

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """The inner backend's scores, recorded."""
        scores = self.inner.score(conversations, prefixes)
        self._append(
            {
                "kind": "score",
                "key": request_key("score", conversation, prefix=prefix),
                "request": {"messages": _brief(conversation), "prefix": prefix, "words": words_after(prefix)},
                "response": None if score is None else dataclasses.asdict(score),
            }
            for conversation, prefix, score in zip(conversations, prefixes, scores, strict=True)
        )
        return scores

    def describe(self) -> dict[str, Any]:
        """The inner backend's provenance."""
        return self.inner.describe()

    def _append(self, exchanges: Iterable[dict[str, Any]]) -> None:
        by = self.inner.describe()
        append_lines(self.path, [json.dumps({**exchange, "backend": by}, ensure_ascii=True) for exchange in exchanges])


class ReplayBackend:
    """Answers from a recording, and only from it.

    A request without randomness (temperature 0, or a score) gets its last recorded response each time. A drawn one gets
    its recorded responses one after the other, so that several samples of one question stay several samples.

    Args:
        path: JSONL file written by :class:`RecordingBackend`. Lines that are cut off are skipped with a warning.

    Raises:
        BackendError: if there is no such file, or it holds no exchange.

    Example:
        >>> judge = ReplayBackend("outputs/exchanges.jsonl")                                      # doctest: +SKIP
    """

    name = "replay"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._played: defaultdict[str, int] = defaultdict(int)
        self._responses: defaultdict[str, list[Any]] = defaultdict(list)
        self._by: dict[str, Any] = {}
        torn = []
        for number, line in enumerate(self._lines(), 1):
            try:
                exchange = json.loads(line)
                self._responses[exchange["key"]].append(_response(exchange))
                self._by = exchange["backend"]
            except (ValueError, KeyError, TypeError):
                torn.append(number)
        if torn:
            logger.warning(
                "%s: skipped %d unreadable lines (first: %d), cut off while writing", self.path, len(torn), torn[0]
            )
        if not self._responses:
            raise BackendError(f"{self.path} holds no exchange; record some with RecordingBackend(backend, path)")

    def _lines(self) -> list[bytes]:
        if not self.path.is_file():
            raise BackendError(f"no recording at {self.path}; make one with RecordingBackend(backend, path)")
        return read_lines(self.path)

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """The recorded answers.

        Raises:
            BackendError: if a request was not recorded, or a drawn one fewer times than it is asked.
        """
        keys = [request_key("generate", conversation, sampling=sampling) for conversation in conversations]
        return [self._next(key, drawn=sampling.temperature > 0) for key in keys]

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """The recorded scores.

        Raises:
            BackendError: if a request was not recorded.
        """
        keys = [request_key("score", c, prefix=p) for c, p in zip(conversations, prefixes, strict=True)]
        return [self._next(key, drawn=False) for key in keys]

    def describe(self) -> dict[str, Any]:
        """Provenance of the recorded backend, and where it was replayed from."""
        return {**self._by, "replayed_from": str(self.path)}

    def _next(self, key: str, *, drawn: bool) -> Any:
        with self._lock:
            responses = self._responses.get(key)
            if responses is None:
                raise BackendError(
                    f"{self.path} does not hold this request (key {key[:12]}): its frames, wording, sampling or prefix "
                    "differ from what was recorded. Record it again with RecordingBackend(backend, path)"
                )
            if not drawn:
                return responses[-1]
            turn = self._played[key]
            if turn >= len(responses):
                raise BackendError(
                    f"{self.path} holds {len(responses)} sampled answers to this request (key {key[:12]}) and all "
                    "were played; record more, or open the file again"
                )
            self._played[key] += 1
            return responses[turn]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _brief(conversation: Conversation) -> list[dict[str, Any]]:
    def part(p: str | np.ndarray) -> str | dict[str, Any]:
        if isinstance(p, str):
            return p
        return {"frame": list(p.shape), "sha256": array_digest(p)}

    return [{"role": m.role, "content": [part(p) for p in m.content]} for m in conversation]


def _completion_to_dict(answer: Completion) -> dict[str, Any]:
    """All fields; of ``extra`` what JSON can hold, and the names of the rest."""
    fields = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)}
    kept = {k: v for k, v in answer.extra.items() if _is_json(v)}
    left_out = sorted(set(answer.extra) - set(kept))
    return {**fields, "extra": {**kept, "left_out": left_out} if left_out else kept}


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _response(exchange: dict[str, Any]) -> Completion | VerdictScore | None:
    response = exchange["response"]
    if exchange["kind"] == "generate":
        return Completion(**response)
    return None if response is None else VerdictScore(**response)
