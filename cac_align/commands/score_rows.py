"""Rows of ``cac-align score --output``: a line of JSON for each video, as soon as it is judged.

A later run with the same file takes the lines that were made from the same bytes by the same judge with the same
settings, and judges the rest. A line that a killed run left half written is judged again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from reward_model.files import check_output_folder

if TYPE_CHECKING:
    from reward_model.schema import Verdict


def record(verdict: Verdict, path: str, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A verdict as ``--json`` prints and ``--output`` keeps it."""
    found = {
        "video": path,
        "score": verdict.score,
        "status": verdict.status,
        "types": [t.value for t in verdict.types],
        "window_s": verdict.window_s,
        "error": verdict.error,
        "verdict": verdict.to_dict(),
    }
    return found if asked is None else {**found, "asked": dict(asked)}


class ScoreRows:
    """The lines of one file; :func:`open_rows` makes one."""

    def __init__(self, stream: IO[bytes], known: dict[str, dict[str, Any]]) -> None:
        self._stream, self._known = stream, known

    def find(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The line of a video that was judged under these conditions; None if there is none."""
        row = self._known.get(path)
        return row if row is not None and row.get("asked") == dict(asked) and row.get("score") is not None else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a line and hands it to the system."""
        self._stream.write(json.dumps(row, allow_nan=False).encode("utf-8") + b"\n")
        self._stream.flush()


def check_rows_file(path: Path) -> None:
    """Raises ValueError unless rows can be kept in a file of this name."""
    if path.is_dir():
        raise ValueError(f"--output {str(path)!r} is a folder; name a file, such as {path / 'scores.jsonl'}")
    if path.exists() and not path.is_file():
        raise ValueError(f"--output {str(path)!r} is not a regular file; name another")
    check_output_folder(path.parent)


@contextlib.contextmanager
def open_rows(path: Path) -> Iterator[ScoreRows]:
    """The rows of a file, locked against other runs.

    Raises:
        ValueError: if the file holds something else, or another run writes to it.
    """
    import fcntl

    check_rows_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run writes to {str(path)!r}; wait for it, or name another --output") from None
        stream.seek(0)
        known, whole = _read(stream.read(), path)
        stream.truncate(whole)
        stream.seek(0, os.SEEK_END)
        yield ScoreRows(stream, known)


def _read(data: bytes, path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The rows by video, the last of each, and the length of the whole lines."""
    whole = data.rfind(b"\n") + 1
    known = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            row = json.loads(line)
            known[row["video"]] = {**row, "score": row["score"], "asked": row["asked"]}
        except (ValueError, KeyError, TypeError) as error:
            kind = type(error).__name__
            raise ValueError(
                f"--output {str(path)!r}, line {number}: not a line that score wrote ({kind}); name another file"
            ) from None
    return known, whole


def digest(path: str) -> str:
    """SHA-256 of a file's bytes; ``""`` where it cannot be read, which the judge will say."""
    found = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    except OSError:
        return ""
    return found.hexdigest()
