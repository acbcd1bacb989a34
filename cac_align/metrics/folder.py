"""A folder of videos, scored by a suite: resumable, and by any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cac_align.metrics.rows import MetricRow, RowWriter, check_kept, merge, read_metric_rows, values_digest
from cac_align.metrics.scoring import VideoScores
from cac_align.metrics.suite import MetricSuite
from cac_align.metrics.videos import VideoEntry
from reward_model.folders import file_digest, hold

#: Bump when a score changes meaning; older rows are then computed again.
REVISION = 1
#: The most a stopped run loses, balanced against loading the package's networks once more.
_PER_PACKAGE_CALL = 64


@dataclass(frozen=True)
class Process:
    """This process among those that share a run.

    ``wait`` returns when all have called it.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def first(self) -> bool:
        """True for the one that writes the tables."""
        return self.index == 0


def this_process() -> Process:
    """The place that ``accelerate launch`` or ``torchrun`` gave this process; alone without them.

    Loads torch only where there are several.
    """
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Process()
    from accelerate import PartialState

    from reward_model.engine.processes import several_on_cpu

    # A process that is done early waits for the others, which may take hours.
    state = PartialState(cpu=several_on_cpu(), timeout=timedelta(days=7))
    return Process(state.process_index, state.num_processes, state.wait_for_everyone)


def process_device(process: Process) -> str | None:
    """The GPU of this process; None if one process, or no GPU, is there to choose."""
    if process.count < 2:
        return None
    from accelerate import PartialState

    return str(PartialState().device)


def evaluate_videos(
    entries: Sequence[VideoEntry],
    suite: MetricSuite,
    output: Path,
    *,
    process: Process | None = None,
    say: Callable[[str], Any] = lambda text: None,
) -> list[MetricRow]:
    """The row of every video and metric, computed where it is not there yet.

    A row is kept as long as the file's bytes and the metric's settings and weights are the same. Failures are tried
    again.

    Args:
        entries: from :func:`~cac_align.metrics.videos.find_videos`.
        suite: the metrics.
        output: folder of the rows.
        process: None: :func:`this_process`.
        say: told of progress and failures.

    Returns:
        All rows, by video and metric, in every process the same.

    Raises:
        WeightsError: if a weight file is missing or broken; before the first video.
        FolderInUseError: another run writes rows there.
        RowsLostError: a row that was written is no longer there.
    """
    process = process or this_process()
    settings = {name: values_digest({"revision": REVISION, **suite.describe(name)}) for name in suite.metrics}
    files, unread = _digests(entries)
    with hold(output) if process.first else nullcontext():  # the processes of one run share it, two runs do not
        there = read_metric_rows(output)
        process.wait()  # all have read what there was, before any writes
        todo = [(e, names) for e in entries if (names := _missing(e, files[e.name], settings, there))]
        if any(e.name not in unread for e, _ in todo):
            suite.load()
        mine = todo[process.index :: process.count]
        say(f"{len(entries)} videos, {len(todo)} of them to score, {len(mine)} here")
        writer = RowWriter(output, process.index)
        written: list[MetricRow] = []
        for entry, names, scores in _scored(mine, unread, suite, say):
            written += writer.write(_rows(entry, names, scores, files[entry.name], settings))
        process.wait()
        if process.first:
            merge(output, ())
        process.wait()
        rows = read_metric_rows(output)
        check_kept(output, written, rows)
        process.wait()  # nobody lets go of the folder before all have read it
    return [rows[key] for e in entries for name in suite.metrics if (key := (e.name, name)) in rows]


def _scored(
    todo: Sequence[tuple[VideoEntry, list[str]]],
    unread: Mapping[str, str],
    suite: MetricSuite,
    say: Callable[[str], Any],
) -> Iterator[tuple[VideoEntry, list[str], VideoScores]]:
    """The videos and the metrics they lack, with their scores as they come; those that cannot be read first."""
    for entry, names in ((e, n) for e, n in todo if e.name in unread):
        yield entry, names, VideoScores(dict.fromkeys(names), dict.fromkeys(names, unread[entry.name]))
        say(f"{entry.name}: {unread[entry.name]}")
    for chunk in _chunks([(e, names) for e, names in todo if e.name not in unread], suite):
        for (entry, names), scores in zip(chunk, _score(chunk, suite), strict=True):
            yield entry, names, scores
            for name, reason in scores.reasons.items():
                say(f"{entry.name}: no {name}: {reason}")


def failures(rows: Sequence[MetricRow]) -> dict[str, list[MetricRow]]:
    """Rows without a score, by metric."""
    by_metric: dict[str, list[MetricRow]] = {}
    for row in rows:
        if row.score is None:
            by_metric.setdefault(row.metric, []).append(row)
    return by_metric


def _missing(
    entry: VideoEntry, file: str, settings: dict[str, str], there: dict[tuple[str, str], MetricRow]
) -> list[str]:
    def known(name: str) -> bool:
        row = there.get((entry.name, name))
        return (
            row is not None
            and row.score is not None
            and (row.file, row.setting, row.prompt) == (file, settings[name], entry.prompt)
        )

    return [name for name in settings if not known(name)]


def _chunks(todo: list[tuple[VideoEntry, list[str]]], suite: MetricSuite) -> list[list[tuple[VideoEntry, list[str]]]]:
    """Video by video; many at once where the package is asked, which loads its networks for every call."""
    packaged = any(getattr(m, "backend", None) == "package" for m in suite.metrics.values())
    size = _PER_PACKAGE_CALL if packaged else 1
    return [todo[k : k + size] for k in range(0, len(todo), size)]


def _score(chunk: list[tuple[VideoEntry, list[str]]], suite: MetricSuite) -> list[VideoScores]:
    names = [n for n in suite.metrics if any(n in wanted for _, wanted in chunk)]
    entries = [entry for entry, _ in chunk]
    return suite.evaluate([e.path for e in entries], [e.prompt for e in entries], only=names)


def _rows(
    entry: VideoEntry, names: Sequence[str], scores: VideoScores, file: str, settings: dict[str, str]
) -> list[MetricRow]:
    return [
        MetricRow(
            entry.name,
            entry.prompt,
            entry.index,
            file,
            name,
            settings[name],
            scores.scores[name],
            scores.reasons.get(name),
            scores.num_frames,
            scores.fps,
        )
        for name in names
    ]


def _digests(entries: Sequence[VideoEntry]) -> tuple[dict[str, str], dict[str, str]]:
    """The digest of each file, "" where it cannot be read, and for those the reason."""
    files: dict[str, str] = {}
    unread: dict[str, str] = {}
    for entry in entries:
        try:
            files[entry.name] = file_digest(entry.path)[:16]
        except OSError as error:
            files[entry.name], unread[entry.name] = "", str(error)
    return files, unread
