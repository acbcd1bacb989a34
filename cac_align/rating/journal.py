"""The journal of a rating page: JSON objects, one line each, written by one server at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_model import journal
from reward_model.journal import JournalError, read_object

__all__ = ["JournalError", "RatingJournal"]


class RatingJournal:
    """One journal, opened for writing by one process at a time.

    Args:
        path: the file; it and its folder are made if they do not exist.

    Attributes:
        events: what the file held when it was opened, oldest first.

    Raises:
        JournalError: if another process has it open, or a line that was once acknowledged is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        taken = f"{path} is in use by another server; stop that one, or let all raters use its page"
        self._lines = journal.Journal(path, in_use=JournalError(taken), private=True)
        try:
            self.events = [self._event(line) for line in self._lines.lines()]
        except BaseException:
            self.close()
            raise

    def append(self, event: dict[str, Any]) -> None:
        """Adds one event; when this returns, it is on the disk.

        Raises:
            OSError: if it could not be written (the disk is full, for instance); the file is as it was before.
        """
        self._lines.append(json.dumps(event, allow_nan=False))

    def close(self) -> None:
        """Lets the next process have it."""
        self._lines.close()

    def _event(self, line: journal.Line) -> dict[str, Any]:
        try:
            return read_object(line.data)
        except ValueError as error:
            raise JournalError(
                f"{self.path}, line {line.number} is damaged ({error}); restore the file, or remove this line"
            ) from error
