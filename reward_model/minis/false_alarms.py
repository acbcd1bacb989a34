"""A judge's own false alarms on normal training videos, and their place among the clips of stage 2.

What a scan suspects in a normal video is the clip that turn two is asked about, and the answer is "normal". Made-up
suspicions (:func:`reward_model.minis.rows.draw_hint`) and those of look-alikes are guesses at it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset

from reward_model.digests import json_digest
from reward_model.files import write_text
from reward_model.minis.rows import Row, draw_rows, shot_of
from reward_model.schema import FrameRange, Verdict
from reward_model.video.clip import native_window
from reward_model.world.kinds import KINDS

#: Seeds of the scanned videos' draw; stage 2 draws its rows from others.
_DRAW = 9_000_000


class _Scanner(Protocol):
    def judge(self, videos: Any, prompts: Any = None, *, fps: Any = None) -> list[Verdict]: ...


@dataclass
class AlarmFile:
    """False alarms of one judge on one set of videos, written whole after every batch.

    Attributes:
        path: the file, JSON lines: what it belongs to, then a row for each alarm.
        mark: digest of judge and videos; rows of another one are not continued.
        scanned: videos scanned so far.
        rows: rows of the task ``zoom`` with ``alarm`` (first and last native frame) and ``said``.
    """

    path: Path
    mark: str
    scanned: int = 0
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def open(cls, path: str | Path, mark: str) -> AlarmFile:
        """The file as an earlier run left it, or an empty one.

        Raises:
            ValueError: if it holds the alarms of another judge or of other videos.
        """
        found = cls(Path(path), mark)
        if not found.path.is_file():
            return found
        head, rows = _read(found.path)
        if head["mark"] != mark:
            raise ValueError(
                f"{found.path} holds the false alarms of another judge or of other videos; name another --output, or "
                "delete it"
            )
        return cls(found.path, mark, head["scanned"], rows)

    def save(self) -> None:
        """Writes the file, atomically."""
        lines: list[Any] = [{"mark": self.mark, "scanned": self.scanned}, *self.rows]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def normal_rows(
    count: int, *, seed: int = 0, stories: Mapping[str, float] | None = None, kinds: Sequence[str] = tuple(KINDS)
) -> list[Row]:
    """Rows of ``count`` normal training videos, each to be scanned once."""
    found: list[Row] = []
    for turn in range(20):
        drawn = draw_rows(["scan"] * count, seed=_DRAW + 20 * seed + turn, abnormal=0.0, stories=stories, kinds=kinds)
        # A slight squash may be drawn as one that counts.
        found += [dict(row) for row in drawn if not row["kind"]]
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"kinds={list(kinds)} draw hardly any normal video; name more kinds")


def find_alarms(judge: _Scanner, rows: Sequence[Row], *, batch_size: int = 16) -> Iterator[list[Row]]:
    """The false alarms among normal videos, batch after batch.

    Args:
        judge: asked as it is in use; of a judge of one turn alone the scan is asked for, which is enough.
        rows: as :func:`normal_rows` draws them.
        batch_size: videos at once.
    """
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        shots = [shot_of(row) for row in batch]
        videos = [shot.take(range(shot.truth.num_frames)) for shot in shots]
        prompts, rates = [s.truth.prompt for s in shots], [s.truth.fps for s in shots]
        verdicts = judge.judge(videos, prompts, fps=rates)
        alarms = []
        for row, verdict in zip(batch, verdicts, strict=True):
            if (found := _alarm(verdict)) is not None:
                window, said = found
                alarms.append({**row, "task": "zoom", "alarm": [window.start, window.end], "said": said})
        yield alarms


def _alarm(verdict: Verdict) -> tuple[FrameRange, str] | None:
    """Window and reasoning of the first scan that suspects something."""
    for turn in verdict.turns:
        if turn.number == 1 and turn.report is not None and turn.report.window is not None:
            return native_window(turn.report.window, turn.frame_indices, verdict.num_frames), turn.report.cot
    return None


def read_alarms(path: str | Path) -> list[Row]:
    """The rows of a file that ``recipes/false_alarms.py`` wrote.

    Raises:
        ValueError: if there is none, it is another kind of file, or it holds no alarm.
    """
    if not Path(path).is_file():
        raise ValueError(f"false_alarms={str(path)!r} is not a file; recipes/false_alarms.py writes one")
    rows = _read(Path(path))[1]
    if not rows:
        raise ValueError(
            f"false_alarms={str(path)!r} holds no alarm: the judge suspected no normal video; leave it out"
        )
    return rows


def with_alarms(rows: Dataset, alarms: Sequence[Row], share: float, *, seed: int) -> Dataset:
    """Rows of stage 2 in which ``share`` of the zooms on normal videos are false alarms, in turn and drawn once more.

    Raises:
        ValueError: if the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"false_alarm_share={share} must be above 0 and at most 1")
    rng = np.random.default_rng([seed, 81])
    order = rng.permutation(len(alarms))
    found: list[Row] = []
    taken = 0
    for row in rows:
        plain = {**row, "alarm": [], "said": ""}
        if row["task"] == "zoom" and not row["kind"] and rng.random() < share:
            alarm = alarms[order[taken % len(alarms)]]
            plain = {**plain, **{k: v for k, v in alarm.items() if k in plain}}
            taken += 1
        found.append(plain)
    return Dataset.from_list(found)


def alarm_mark(judge: str, **drawn: Any) -> str:
    """Digest of a judge, by its fingerprint, and of how the videos are drawn."""
    return json_digest([judge, drawn])


def _read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    try:
        head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if not {"mark", "scanned"} <= set(head) or any("alarm" not in row for row in rows):
            raise ValueError("its lines are not those of false alarms")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a file of recipes/false_alarms.py ({error})") from None
    return head, rows
