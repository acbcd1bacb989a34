"""The log of a run: trackers, and files with a JSON object per line and step, which a resumed run continues."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_model.engine.trackers import Trackers, check_reporters
from reward_model.files import write_text
from reward_model.journal import append_lines, read_lines

METRICS = "metrics.jsonl"


class RunWriter:
    """Writes the log of a run; in processes other than the main one it writes nothing.

    Args:
        folder: folder of the run.
        active: False in all processes but one.
        first_step: steps done: what a stopped run logged beyond them is dropped; -1 drops all, also what was logged
            before step 1.
        lines: names of the files with a JSON object per line.
        report_to, project: trackers to show it in as well, see :class:`~reward_model.engine.trackers.Trackers`;
            TensorBoard's events go into ``folder/tensorboard``.
        settings: shown with the run.
        digits: numbers in the files are rounded to; None: not at all.

    Raises:
        ValueError: if a tracker is not installed, or does not open.
    """

    def __init__(
        self,
        folder: Path,
        *,
        active: bool = True,
        first_step: int = 0,
        lines: Sequence[str] = (METRICS,),
        report_to: Sequence[str] = ("tensorboard",),
        project: str | None = None,
        settings: Mapping[str, Any] | None = None,
        digits: int | None = None,
    ) -> None:
        self.folder, self.active, self.digits = folder, active, digits
        self.trackers: Trackers | None = None
        if not active:
            return
        check_reporters(report_to, project)
        folder.mkdir(parents=True, exist_ok=True)
        for name in lines:
            drop_lines_after(folder / name, first_step)
        self.trackers = Trackers(report_to, folder, project=project, first_step=first_step, settings=settings)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics; values that are not finite are left out, JSON has no word for them."""
        if self.trackers is None:
            return
        finite = {k: float(v) for k, v in values.items() if math.isfinite(float(v))}
        self.trackers.numbers(step, finite)
        rounded = finite if self.digits is None else {k: round(v, self.digits) for k, v in finite.items()}
        self.append(METRICS, {"step": step, **rounded})

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """One line of a file."""
        append_lines(self.folder / name, [json.dumps(row, ensure_ascii=False)], sync=False)

    def flush(self) -> None:
        """Writes what a tracker still holds back."""
        if self.trackers is not None:
            self.trackers.flush()

    def close(self) -> None:
        """Ends the trackers."""
        if self.trackers is not None:
            self.trackers.close()


def drop_lines_after(path: Path, step: int) -> None:
    """Removes what a stopped run logged beyond the checkpoint it continues from, and a line cut off by a kill."""
    if not path.is_file():
        return
    kept = []
    for line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line.decode("utf-8", "replace") + "\n")
    write_text(path, "".join(kept))
