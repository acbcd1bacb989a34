"""Rows on disk: whole after every batch, continued by a later run, and never mixed with those of another judge or
bench.

One JSONL file per judge and bench. Its first line says what the rows belong to; a run whose fingerprint differs starts
over.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reward_model.digests import array_digest, json_digest
from reward_model.evaluation.benches.bench import Bench
from reward_model.evaluation.running.row import Row
from reward_model.files import write_text
from reward_model.journal import read_lines

logger = logging.getLogger(__name__)

#: Bump when a column changes meaning; rows of another format are then judged again.
FORMAT = 2


@dataclass
class RowStore:
    """The rows of one judge on one bench.

    Args:
        path: the file; it need not exist.
        fingerprint: fingerprint of judge, settings and bench together, see :func:`bench_fingerprint`.
    """

    path: Path
    fingerprint: str
    rows: list[Row] = field(default_factory=list)
    judge: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)
    num_videos: int = 0

    @classmethod
    def open(cls, path: str | Path, fingerprint: str) -> RowStore:
        """The store with the rows it already holds, or an empty one where the file is absent or belongs to another
        judge, bench or format.

        Raises:
            ValueError: if the file is damaged.
        """
        store = cls(Path(path), fingerprint)
        if not store.path.is_file():
            return store
        known = read_rows(store.path)
        if known.fingerprint != fingerprint:
            logger.warning("%s holds rows of another judge, bench or setting; judging again", store.path)
            return store
        return known

    @property
    def complete(self) -> bool:
        """True if every video has its row."""
        return self.num_videos > 0 and len(self.rows) == self.num_videos

    def add(self, rows: Sequence[Row]) -> None:
        """Appends rows and writes the file as a whole: a stop at any time leaves the old file or the new one."""
        self.rows.extend(rows)
        self.save()

    def save(self) -> None:
        """Writes the file, atomically."""
        head = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "num_videos": self.num_videos,
            "bench": self.bench,
            "judge": self.judge,
        }
        lines = [head, *(r.to_dict() for r in self.rows)]
        write_text(self.path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_rows(path: str | Path) -> RowStore:
    """A finished or unfinished store, whatever it belongs to.

    Raises:
        ValueError: if the file is missing, damaged, or no store.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no evaluation rows at {str(path)!r}")
    try:
        head, *lines = (json.loads(line) for line in read_lines(path))
        if head["format"] != FORMAT:
            return RowStore(path, f"format {head['format']}")
        rows = [Row.from_dict(line) for line in lines]
        return RowStore(path, head["fingerprint"], rows, head["judge"], head["bench"], head["num_videos"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a file of evaluation rows ({error}); delete it to judge again") from error


def bench_fingerprint(bench: Bench) -> str:
    """Changes with what the bench says of itself and with the pixels and truth of its first and last video."""
    marks: list[Any] = [bench.describe(), len(bench)]
    for index in sorted({0, len(bench) - 1}):
        video = bench[index]
        marks += [array_digest(video.frames), video.truth.to_dict()]
    return json_digest([marks])
