"""Rows of ``cac-align score --output``: a line of JSON for each video, as soon as it is judged.

A later run with the same file takes the lines that were made from the same bytes by the same judge with the same
settings, and judges the rest. A line that a killed run left half written is judged again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.files import check_output_folder
from reward_model.folders import file_digest
from reward_model.journal import Journal, read_object

if TYPE_CHECKING:
    from reward_model.schema import Verdict


def record(verdict: Verdict, path: str, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A verdict as ``--json`` prints and ``--output`` keeps it."""
    row = {
        "video": path,
        "score": verdict.score,
        "status": verdict.status,
        "types": [t.value for t in verdict.types],
        "window_s": verdict.window_s,
        "out_of_domain": verdict.out_of_domain,
        "readouts_disagree": verdict.readouts_disagree,
        "error": verdict.error,
        "verdict": verdict.to_dict(),
    }
    return row if asked is None else {**row, "asked": dict(asked)}


class ScoreRows:
    """The lines of one file; :func:`open_rows` makes one."""

    def __init__(self, journal: Journal, known: dict[str, dict[str, Any]]) -> None:
        self._journal, self._known = journal, known

    def find(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The line of a video that was judged under these conditions; None if there is none."""
        row = self._known.get(path)
        return row if row is not None and row.get("asked") == dict(asked) and row.get("score") is not None else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a line; when this returns, it is on the disk."""
        self._journal.append(json.dumps(row, allow_nan=False))


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
    check_rows_file(path)
    taken = f"another run writes to {str(path)!r}; wait for it, or name another --output"
    with contextlib.closing(Journal(path, in_use=ValueError(taken))) as journal:
        yield ScoreRows(journal, _read(journal))


def _read(journal: Journal) -> dict[str, dict[str, Any]]:
    """The rows by video, the last of each."""
    known = {}
    for line in journal.lines():
        try:
            row = read_object(line.data)
            known[row["video"]] = {**row, "score": row["score"], "asked": row["asked"]}
        except (ValueError, KeyError, TypeError) as error:
            kind = type(error).__name__
            raise ValueError(
                f"--output {str(journal.path)!r}, line {line.number}: not a line that score wrote ({kind}); name "
                "another file"
            ) from None
    return known


def video_digest(path: str) -> str:
    """SHA-256 of a file's bytes; ``""`` where it cannot be read, which the judge will say."""
    try:
        return file_digest(path)
    except OSError:
        return ""
