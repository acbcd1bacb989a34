"""Tables of the experiment: what the scan flags, what one turn and two turns decide, and how far rows differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reward_model.evaluation.running.row import Row
from reward_model.statistics.intervals import Interval, bootstrap, wilson
from reward_model.statistics.second_look import two_turn_accuracy
from reward_model.statistics.table import Cell, Estimate, Table

#: Rows of a judge by seed, all on the same videos.
Seeds = Sequence[Sequence[Row]]
#: The part that turn two decides and the scan does not.
_ZOOM = "zoom"
_INTERVALS = (
    "Brackets: 95 % intervals. One seed: over videos (Wilson for shares, bootstrap for differences). Several seeds: "
    "they and the videos are both redrawn."
)


def ladder_table(bench: str, judges: Mapping[str, Seeds], *, num_resamples: int = 2000) -> Table:
    """One turn and two turns of every judge: accuracies, the gain of the second turn, its share, what the scan flags.

    The flags are those of the videos that only turn two can decide; of all videos where a bench has no such part.
    """
    lines = []
    for name, seeds in judges.items():
        one, two = values(seeds, scan_right), values(seeds, lambda row: row.correct)
        hard = _part(seeds, _ZOOM) or seeds
        lines.append(
            (
                name,
                _mean(one, num_resamples),
                _mean(two, num_resamples),
                _mean(two - one, num_resamples, share=False),
                _mean(values(seeds, lambda row: row.zoomed), num_resamples),
                *(_mean(values(_of(hard, status), flags), num_resamples) for status in ("normal", "abnormal")),
                len(seeds),
            )
        )
    columns = (
        *("judge", "one turn", "two turns", "two - one", "second turns"),
        *("scan flags, normal", "scan flags, abnormal", "seeds"),
    )
    return Table(f"One turn and two on {bench}", columns, [lines], (*_notes(judges), _INTERVALS))


def parts_table(bench: str, judges: Mapping[str, Seeds], *, num_resamples: int = 2000) -> Table:
    """Of every part of the bench: what the scan flags, and what is right after two turns, normal and abnormal apart."""
    first = next(iter(judges.values()), [[]])[0]
    lines: list[Sequence[Cell]] = []
    for part in dict.fromkeys(row.group for row in first):
        for name, seeds in judges.items():
            chosen = _part(seeds, part)
            cells: list[Cell] = []
            for read in (flags, lambda row: row.correct):
                cells += [_mean(values(_of(chosen, s), read), num_resamples) for s in ("normal", "abnormal")]
            lines.append((part or "all", name, *cells, len(chosen[0])))
    columns = (
        *("part", "judge", "scan flags, normal", "scan flags, abnormal"),
        *("right, normal", "right, abnormal", "videos"),
    )
    return Table(f"Parts of {bench}", columns, [lines], (_INTERVALS,))


def difference_table(
    bench: str, judges: Mapping[str, Seeds], against: str, names: Sequence[str], *, num_resamples: int = 2000
) -> Table:
    """Judges minus one of them, on the same videos and seeds: accuracy of two turns, and both overlaps."""
    reads: dict[str, tuple[Callable[[Row], float], bool]] = {
        "accuracy": (lambda row: float(row.correct), False),
        "accuracy, one turn": (lambda row: float(scan_right(row)), False),
        "temporal IoU, scan": (lambda row: row.temporal_iou or 0.0, True),
        "spatial IoU": (lambda row: row.spatial_iou or 0.0, True),
    }
    lines: list[Sequence[Cell]] = []
    for name in names:
        cells: list[Cell] = []
        for read, abnormal_only in reads.values():
            ours, theirs = (_of(judges[n], "abnormal") if abnormal_only else judges[n] for n in (name, against))
            cells.append(_mean(values(ours, read) - values(theirs, read), num_resamples, share=False))
        lines.append((name, *cells, max(len(judges[name]), len(judges[against]))))
    notes = ("Same videos for both, seed by seed; overlaps: abnormal videos, a missed one is 0.", _INTERVALS)
    return Table(f"Differences to {against}, {bench}", ("judge", *reads, "seeds"), [lines], notes)


def values(seeds: Seeds, read: Callable[[Row], float]) -> np.ndarray:
    """(S, N) numbers of a judge's rows, seed by seed and video by video.

    Raises:
        ValueError: if the seeds did not judge the same videos.
    """
    if len({tuple(row.video for row in rows) for rows in seeds}) > 1:
        raise ValueError("the seeds of a judge must have judged the same videos; judge them on one bench")
    return np.array([[float(read(row)) for row in rows] for rows in seeds])


def flags(row: Row) -> bool:
    """True if the scan suspects the video."""
    return row.scan_status == "abnormal"


def scan_right(row: Row) -> bool:
    """True if the scan alone decides rightly; an unparsed one is wrong."""
    return row.scan_status == row.truth


def _of(seeds: Seeds, status: str) -> Seeds:
    return [[row for row in rows if row.truth == status] for rows in seeds]


def _part(seeds: Seeds, part: str) -> Seeds:
    """The rows of a part of the bench, or of all its cases; empty if there are none."""
    chosen = [[row for row in rows if part in (row.group, row.group.partition("/")[0])] for rows in seeds]
    return chosen if chosen and chosen[0] else []


def _mean(found: np.ndarray, num_resamples: int, *, share: bool = True) -> Estimate:
    """Mean of (S, N) numbers with its interval, of shares where they are all 0 or 1."""
    seeds, num = found.shape
    if not num:
        return Estimate(None)
    mean = float(found.mean())
    if share and (seeds == 1 or found.min() == found.max()):
        # Seeds that all agree say no more than one of them.
        return Estimate(mean, wilson(round(mean * num), num))
    rng = np.random.default_rng(0)

    def redrawn(videos: np.ndarray) -> float:
        return float(found[rng.integers(seeds, size=seeds)][:, videos].mean())

    return Estimate(mean, Interval(*bootstrap(redrawn, num, num_resamples=num_resamples)))


def _notes(judges: Mapping[str, Seeds]) -> tuple[str, ...]:
    """The share of the bench that a scan cannot decide, and what that allows."""
    first = next(iter(judges.values()), [[]])[0]
    if not first or not any(row.group.startswith(_ZOOM) for row in first):
        return ()
    share = sum(row.group.partition("/")[0] == _ZOOM for row in first) / len(first)
    return (
        f"Only turn two can decide {share:.3f} of these {len(first)} videos: one turn reaches {1 - share / 2:.3f} at "
        f"most, two turns {two_turn_accuracy(share, 0.5):.3f} if the scan flags half of them and everything else is "
        "right.",
    )
