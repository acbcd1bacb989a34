"""A judge with and without its cascade: cases to calibrate on, and a comparison of both in one run.

Every batch is judged by all settings in turn, so that whatever else the machine does falls on all of them alike. Rows
go to a file after each batch; the same call continues a stopped run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reward_model.evaluation.benches.bench import Bench
from reward_model.evaluation.metrics.classification import auroc
from reward_model.journal import append_lines, read_lines
from reward_model.judge import TwoTurnJudge
from reward_model.schema import Verdict
from reward_model.statistics.cascade import CascadeCase
from reward_model.statistics.intervals import wilson
from reward_model.statistics.table import Cell, Estimate, Table

#: The judge without a cascade.
FULL = "full"


@dataclass(frozen=True)
class CascadeRow:
    """A video under one setting.

    Attributes:
        index: number of the video in its bench.
        setting: name of the setting, :data:`FULL` for the judge without a cascade.
        normal: truth of the video.
        status, score, decided_by: what the verdict says.
        first_log_odds: log-odds of normal before reasoning in turn one, the lowest of all parts of a long video.
        window: suspicious window in native frames.
        boxes: number of boxes.
        seconds: its share of the seconds of its batch.
    """

    index: int
    setting: str
    normal: bool
    status: str | None
    score: float | None
    decided_by: str
    first_log_odds: float | None
    window: tuple[int, int] | None
    boxes: int
    seconds: float


def cascade_row(index: int, setting: str, normal: bool, verdict: Verdict, seconds: float) -> CascadeRow:
    """The row of a verdict."""
    read = [t.direct_score.log_odds for t in verdict.turns if t.number == 1 and t.direct_score is not None]
    window = verdict.window
    return CascadeRow(
        index=index,
        setting=setting,
        normal=normal,
        status=verdict.status,
        score=verdict.score,
        decided_by=verdict.decided_by,
        first_log_odds=min(read, default=None),
        window=None if window is None else (window.start, window.end),
        boxes=sum(len(found) for anomaly in verdict.anomalies for found in anomaly.boxes.values()),
        seconds=seconds,
    )


def run_settings(
    judges: Mapping[str, TwoTurnJudge],
    bench: Bench,
    path: Path,
    mark: str,
    *,
    batch_size: int = 32,
    say: Callable[[str], None] = print,
) -> list[CascadeRow]:
    """Rows of every video of a bench under every setting.

    Args:
        judges: by the name of their setting.
        path: file of the rows, JSON lines; what it holds of this run is not judged again.
        mark: digest of model, settings and bench; kept in each line.

    Raises:
        ValueError: if the file holds rows of another run.
    """
    rows = _known(path, mark)
    done = {row.index for row in rows}
    missing = [k for k in range(len(bench)) if k not in done]
    for start in range(0, len(missing), batch_size):
        numbers = missing[start : start + batch_size]
        videos = [bench[k] for k in numbers]
        new = []
        for name, judge in judges.items():
            began = time.perf_counter()
            verdicts = judge.judge(
                [v.frames for v in videos], [v.truth.prompt for v in videos], fps=[v.truth.fps for v in videos]
            )
            seconds = (time.perf_counter() - began) / len(videos)
            new += [
                cascade_row(k, name, video.truth.status == "normal", verdict, seconds)
                for k, video, verdict in zip(numbers, videos, verdicts, strict=True)
            ]
        append_lines(path, [json.dumps({"mark": mark, **asdict(row)}) for row in new])
        rows += new
        say(f"{len(rows) // len(judges)} of {len(bench)} videos")
    return rows


def _known(path: Path, mark: str) -> list[CascadeRow]:
    found = []
    for line in read_lines(path) if path.is_file() else ():
        try:
            data = json.loads(line)
        except ValueError:
            continue  # cut off while it was written
        if data.pop("mark") != mark:
            raise ValueError(f"{path} holds rows of another model, setting or bench; name another --output")
        found.append(CascadeRow(**{**data, "window": None if data["window"] is None else tuple(data["window"])}))
    return found


def cases_of(rows: Sequence[CascadeRow]) -> list[CascadeCase]:
    """Cases of a calibration from the rows of the full judge; videos whose score could not be read are left out."""
    return [
        CascadeCase(row.first_log_odds, row.normal, None if row.status is None else row.status == "normal")
        for row in rows
        if row.setting == FULL and row.first_log_odds is not None
    ]


def cascade_table(rows: Sequence[CascadeRow], title: str) -> Table:
    """Settings side by side: videos a second, accuracy, AUROC of the score, and windows against the full judge's."""
    full = {row.index: row for row in rows if row.setting == FULL}
    names = list(dict.fromkeys(row.setting for row in rows))
    head = (
        "setting", "videos/s", "times full", "decided early", "accuracy", "same status", "AUROC", "same window",
        "with boxes", "videos",
    )  # fmt: skip
    body = [_setting_line([row for row in rows if row.setting == name], full) for name in names]
    return Table(title, head, (body,))


def _setting_line(of: Sequence[CascadeRow], full: Mapping[int, CascadeRow]) -> tuple[Cell, ...]:
    """The line of one setting: its rows, and those of the full judge by their videos."""
    seconds, whole = sum(row.seconds for row in of), sum(row.seconds for row in full.values())
    right = sum((row.status == "normal") == row.normal and row.status is not None for row in of)
    called = [row for row in of if row.status == "abnormal"]
    scored = [(row.score, row.normal) for row in of if row.score is not None]
    return (
        of[0].setting,
        round(len(of) / seconds, 3),
        round(whole / seconds, 2),
        _share([row.decided_by == "readout" for row in of]),
        Estimate(right / len(of), wilson(right, len(of))),
        _share([row.status == full[row.index].status for row in of]),
        round(auroc([score for score, _ in scored], [normal for _, normal in scored]), 4),
        _share([row.window == full[row.index].window for row in called]),
        _share([row.boxes > 0 for row in called]),
        len(of),
    )


def _share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 4) if hits else None
