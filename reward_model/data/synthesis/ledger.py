"""Every finished call, written down before its answer is used: a run that is killed pays nothing twice.

A JSONL file. A header line names the settings; each further line is one call. Lines are flushed to the disk one by one,
so a crash loses at most the calls in flight. A last line torn by a crash is cut off when the ledger is opened again.
Answers stay on the disk; memory holds where they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from reward_model.conversation import Completion
from reward_model.data.synthesis.ledger_header import LedgerError, LedgerHeader, check_header
from reward_model.data.synthesis.tally import Tally, is_answer
from reward_model.journal import Journal, Line, read_object

Kind = Literal["teacher", "judge"]


class CallId(NamedTuple):
    """Identity of a call. ``attempt`` counts the answers of this round that the token limit cut."""

    key: str
    kind: Kind
    round: int
    attempt: int


class Ledger:
    """An open ledger; one process at a time.

    Args:
        path: created with its folder, or continued.
        header: the settings of this run.
        accept_new_rules: continue although the rules changed; the recorded answers are then judged by the new ones.

    Raises:
        LedgerError: if another process has it open, it was made with other settings, or a line inside cannot be read.
    """

    def __init__(self, path: str | Path, header: LedgerHeader, *, accept_new_rules: bool = False) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._answers: dict[CallId, int] = {}
        self.tallies: dict[Kind, Tally] = {"teacher": Tally(), "judge": Tally()}
        taken = f"{path} is in use by another run; wait for it, or use another output folder"
        self._lines = Journal(self.path, in_use=LedgerError(taken))
        try:
            self._load(header, accept_new_rules)
        except BaseException:
            self._lines.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        """Calls that were answered."""
        return len(self._answers)

    def close(self) -> None:
        """Frees the file for other processes."""
        self._lines.close()

    def find(self, call: CallId) -> Completion | None:
        """The recorded answer of a call, or None."""
        with self._lock:
            place = self._answers.get(call)
        if place is None:
            return None
        entry = json.loads(self._lines.read(place))
        return Completion(entry["text"], finished=entry["finished"], num_tokens=entry["tokens_out"])

    def append(self, call: CallId, answer: Completion, retries: int = 0) -> None:
        """Writes one finished call; returns when it is on the disk. A call without an answer is counted only."""
        entry = {
            "call": list(call),
            "text": answer.text,
            "finished": answer.finished,
            "error": answer.error,
            "tokens_in": int(answer.extra.get("prompt_tokens") or 0),
            "tokens_out": answer.num_tokens,
            "retries": retries,
            "seconds": round(answer.seconds, 3),
        }
        # ASCII keeps lone surrogates, which a model may write and UTF-8 cannot.
        line = json.dumps(entry, ensure_ascii=True)
        with self._lock:
            self._count(entry, self._lines.append(line))

    def _count(self, entry: Mapping[str, Any], start: int) -> None:
        call = CallId(*entry["call"])
        self.tallies[call.kind].add(entry)
        if is_answer(entry["text"], entry["error"]):
            self._answers[call] = start

    def _load(self, header: LedgerHeader, accept_new_rules: bool) -> None:
        known = None
        for line in self._lines.lines():
            known = self._read_line(line, known)
        if known is None or check_header(self.path, known, header, accept_new_rules=accept_new_rules):
            self._lines.append(json.dumps(header.to_dict(), sort_keys=True))

    def _read_line(self, line: Line, known: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            entry = read_object(line.data)
            if "ledger" in entry:
                return entry
            if known is None:
                raise ValueError("the first line is not a header")
            self._count(entry, line.start)
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{self.path}, line {line.number} is damaged ({error}); restore the file, or delete that line and lose "
                "one call"
            ) from None
        return known
