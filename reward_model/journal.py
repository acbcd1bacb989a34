"""Append-only files of JSON lines: what was acknowledged survives a killed process and a lost machine.

A :class:`Journal` belongs to one process as long as it is open; :func:`append_lines` adds to a file that several
processes share. A process that dies while writing leaves at most one line without a newline. A journal cuts it off; in
a shared file it is ended instead, so that it costs itself and not the next line too. What stands in a line, and what is
said of one that is damaged, is the caller's.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from reward_model.files import to_disk
from reward_model.folders import lock

_BLOCK = 1 << 16


class JournalError(ValueError):
    """The journal cannot be read, or another process is writing it. The message names the file and the remedy."""


class Line(NamedTuple):
    """A line of a journal: its number from 1, the byte it starts at, and its bytes without the newline."""

    number: int
    start: int
    data: bytes


class Journal:
    """A file of lines, open for writing in one process at a time.

    What a killed process left of its last line does not count; it goes before the next line is written. A file that
    was only looked at stays as it is.

    Args:
        path: the file; it and its folder are made if they do not exist.
        in_use: raised if another process has it open.
        private: only its owner may read a new file.

    Raises:
        OSError: if the file cannot be opened for writing.
    """

    def __init__(self, path: str | Path, *, in_use: Exception, private: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600 if private else 0o666)
        try:
            if not lock(self._file):
                raise in_use
            self._end = _whole_length(self._file)  # bytes of whole lines
        except BaseException:
            os.close(self._file)
            raise
        to_disk(self.path.parent)  # a new file's name must be on the disk too

    def lines(self) -> Iterator[Line]:
        """All whole lines, oldest first.

        A line without a newline that is the only one, and does not begin as a killed process leaves it, is not the rest
        of a journal but somebody's file: it is handed out, so that the caller refuses it.
        """
        start, end = 0, self._end
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if start >= end and (start or line[:1] in b"{\0"):
                    break
                yield Line(number, start, line.removesuffix(b"\n"))
                start += len(line)

    def append(self, line: str) -> int:
        """Adds a line of JSON; when this returns, it is on the disk.

        Returns:
            The byte it starts at.

        Raises:
            OSError: if it could not be written (the disk is full, for instance); the file is as it was before.
        """
        data = line.encode() + b"\n"
        with self._lock:
            start = self._end
            if os.fstat(self._file).st_size > start:
                os.ftruncate(self._file, start)
            _write(self._file, data, start, self.path)
            self._end = start + len(data)
            return start

    def read(self, start: int) -> bytes:
        """The line that starts at a byte, without its newline."""
        with self._lock, os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(start)
            return file.readline().removesuffix(b"\n")

    def close(self) -> None:
        """Lets the next process have the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def append_lines(path: str | Path, lines: Iterable[str], *, sync: bool = True) -> None:
    """Adds lines of JSON to a file that any number of processes and threads write, all of them or none.

    Args:
        path: the file; it and its folder are made if they do not exist.
        lines: without newlines; those of one call stand together.
        sync: return only when they are on the disk, not just with the system.

    Raises:
        OSError: if they could not be written; the file is as it was before.
    """
    data = "".join(line + "\n" for line in lines).encode()
    if not data:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        lock(file, wait=True)
        size = os.fstat(file).st_size
        if _whole_length(file) < size:
            data = b"\n" + data
        _write(file, data, size, path, sync=sync)
    finally:
        os.close(file)


def read_lines(path: str | Path) -> list[bytes]:
    """The lines of a file that are not blank, the rest of one that broke off included; none if there is no file.

    Only a newline ends a line: JSON may hold the other characters that ``str.splitlines`` takes for one.
    """
    path = Path(path)
    return [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.is_file() else []


def read_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        ValueError: if it is something else.
    """
    try:
        entry = json.loads(line)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    return entry


def _whole_length(file: int) -> int:
    """Bytes up to the last newline and with it."""
    end = os.lseek(file, 0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        os.lseek(file, start, os.SEEK_SET)
        newline = os.read(file, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write(file: int, data: bytes, size: int, path: Path, *, sync: bool = True) -> None:
    """Appends bytes to a file of a size; on failure it has that size again."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        if sync:
            os.fsync(file)
    except OSError as error:
        with contextlib.suppress(OSError):  # then it is a torn line, like that of a killed process
            os.ftruncate(file, size)
        raise OSError(error.errno, error.strerror, str(path)) from error
