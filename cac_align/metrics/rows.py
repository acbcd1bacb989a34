"""Scores on disk, one line for each video and metric, so that a stopped run resumes and processes share the work."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reward_model.digests import json_digest
from reward_model.files import write_text
from reward_model.journal import append_lines, read_lines

ROWS, PARTS = "rows.jsonl", "rows.part*.jsonl"


@dataclass(frozen=True)
class MetricRow:
    """Score of one video by one metric.

    Attributes:
        video, prompt, index: those of :class:`~cac_align.metrics.videos.VideoEntry`.
        file: digest of the file's bytes.
        metric: its name.
        setting: digest of what its scores depend on.
        score: None if it could not score.
        reason: why not.
        num_frames, fps: length and frame rate of the video.
    """

    video: str
    prompt: str
    index: int
    file: str
    metric: str
    setting: str
    score: float | None
    reason: str | None = None
    num_frames: int = 0
    fps: float = 0.0

    @property
    def key(self) -> tuple[str, str]:
        """Video and metric."""
        return self.video, self.metric


def values_digest(value: Mapping[str, Any]) -> str:
    """A short digest of plain values."""
    return json_digest(value)[:16]


def read_metric_rows(folder: Path) -> dict[tuple[str, str], MetricRow]:
    """The rows of a folder, those of processes that never finished included. A line that broke off while it was
    written does not count.
    """
    rows: dict[tuple[str, str], MetricRow] = {}
    for path in [folder / ROWS, *sorted(folder.glob(PARTS))]:
        for line in read_lines(path):
            if (row := _parse(line)) is not None:
                rows[row.key] = row
    return rows


class RowWriter:
    """Appends rows of one process to its own file, each on disk before the next is computed."""

    def __init__(self, folder: Path, process: int) -> None:
        self.path = folder / PARTS.replace("*", str(process))

    def write(self, rows: Iterable[MetricRow]) -> list[MetricRow]:
        """Appends rows and returns them once they are on the disk."""
        written = list(rows)
        append_lines(self.path, [json.dumps(asdict(row), allow_nan=False) for row in written])
        return written


class RowsLostError(ValueError):
    """A row that was written is gone. The message names the folder and the remedy."""


def check_kept(folder: Path, written: Iterable[MetricRow], there: Mapping[tuple[str, str], MetricRow]) -> None:
    """Makes sure that a table is not made of less than was scored.

    Raises:
        RowsLostError: if a written row is not there, or another stands in its place.
    """
    lost = [row for row in written if there.get(row.key) != row]
    if lost:
        raise RowsLostError(
            f"{len(lost)} scores written to {str(folder)!r} are missing, the first of {lost[0].video!r}: "
            "another run removed or replaced them. Let one run at a time write there, and start this one again"
        )


def merge(folder: Path, keep: Iterable[tuple[str, str]]) -> list[MetricRow]:
    """Brings all rows into one file, sorted and whole, and removes the processes' own.

    Args:
        folder: folder of the rows.
        keep: videos and metrics whose rows are returned; others, of earlier runs, stay in the file.
    """
    rows = read_metric_rows(folder)
    lines = [json.dumps(asdict(rows[key]), allow_nan=False) for key in sorted(rows)]
    write_text(folder / ROWS, "".join(line + "\n" for line in lines))
    for part in folder.glob(PARTS):
        part.unlink()
    return [rows[key] for key in keep if key in rows]


def _parse(line: bytes) -> MetricRow | None:
    try:
        row = MetricRow(**json.loads(line))
        return row if row.score is None or math.isfinite(row.score) else None
    except (ValueError, TypeError):
        return None
