"""An append-only file of JSON lines in which every acknowledged line survives a killed process and a lost machine.

``append`` returns only after the line and its newline are on the disk (fsync). A process that dies while writing
leaves at most one line without a newline; the next one to open the journal cuts it off.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


class JournalError(ValueError):
    """The journal cannot be read, or another process is writing it. The message names the file and the remedy."""


class Journal:
    """One journal, opened for writing by one process at a time.

    Args:
        path: the file; it and its folder are made if they do not exist.

    Attributes:
        events: what the file held when it was opened, oldest first.

    Raises:
        JournalError: if another process has it open, or a line that was once acknowledged is damaged.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._claim()
            self.events = self._read()
        except BaseException:
            os.close(self._file)
            raise
        _sync_folder(path.parent)

    def append(self, event: dict[str, Any]) -> None:
        """Adds one event; when this returns, it is on the disk.

        Raises:
            OSError: if it could not be written (the disk is full, for instance); the file is as it was before.
        """
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def close(self) -> None:
        """Lets the next process have it."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _claim(self) -> None:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JournalError(
                    f"{self.path} is in use by another server; stop that one, or let all raters use its page"
                ) from None

    def _read(self) -> list[dict[str, Any]]:
        data = self.path.read_bytes()
        whole, newline, torn = data.rpartition(b"\n")
        if torn:
            os.ftruncate(self._file, len(whole) + len(newline))
            os.fsync(self._file)
        events = []
        for number, line in enumerate(whole.split(b"\n") if newline else [], 1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise JournalError(
                    f"{self.path}, line {number} is damaged ({error}); restore the file, or remove this line"
                ) from error
            if not isinstance(event, dict):
                raise JournalError(f"{self.path}, line {number} is not a JSON object; remove this line")
            events.append(event)
        return events


def _sync_folder(folder: Path) -> None:
    """A new file's name must be on the disk too."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
