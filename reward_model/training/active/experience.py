"""A round's file: the episodes that were drawn, written video by video, so that a run that was killed goes on.

Each process writes the videos it draws into a journal of its own; once all are there the first joins them into
``rounds/round-<n>.jsonl``, whole or not at all. Episodes are token ids: frames are made again when they are needed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_model.files import write_text
from reward_model.journal import append_lines, read_lines
from reward_model.training.active.pairs import KINDS, EpisodePair, Judged
from reward_model.training.active.rollouts import Drawn

FOLDER = "rounds"


@dataclass(frozen=True)
class DrawnVideo:
    """The episodes of one video of a round.

    Attributes:
        number: place in the round.
        row: its row of the data set.
        status: truth about it.
        easy: whether its first view tells all.
        held_out: whether its pairs are not learned from.
        episodes: as they were drawn.
    """

    number: int
    row: int
    status: str
    easy: bool
    held_out: bool
    episodes: tuple[Drawn, ...]

    def to_line(self) -> str:
        """The video as a line of the file."""
        named = ("number", "row", "status", "easy", "held_out")
        said = {name: getattr(self, name) for name in named}
        return json.dumps({**said, "episodes": [e.to_dict() for e in self.episodes]})

    @classmethod
    def from_line(cls, line: bytes | str) -> DrawnVideo:
        """The video of a line."""
        data = json.loads(line)
        episodes = tuple(Drawn.from_dict(e) for e in data.pop("episodes"))
        return cls(**data, episodes=episodes)


class RoundFiles:
    """The files of one round.

    Args:
        output_dir: folder of the run.
        number: of the round, from 1.
    """

    def __init__(self, output_dir: Path, number: int) -> None:
        self.folder = output_dir / FOLDER
        self.path = self.folder / f"round-{number}.jsonl"
        self.number = number

    def journal(self, process: int) -> Path:
        """Journal of a process."""
        return self.folder / f"round-{self.number}.process-{process}.jsonl"

    def drawn(self, process: int) -> dict[int, DrawnVideo]:
        """Videos that a process has drawn, by their places; lines that a kill cut are left out."""
        return {video.number: video for video in _whole_lines(self.journal(process))}

    def add(self, process: int, video: DrawnVideo) -> None:
        """Writes a video down."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_lines(self.journal(process), [video.to_line()])

    def join(self, processes: int, count: int) -> None:
        """Makes one file of the journals of all processes, and removes them.

        Raises:
            ValueError: if a video is missing.
        """
        videos = {n: v for process in range(processes) for n, v in self.drawn(process).items()}
        if missing := sorted(set(range(count)) - set(videos)):
            raise ValueError(f"round {self.number} lacks video {missing[0]} of {count}; run again to draw it")
        write_text(self.path, "".join(videos[n].to_line() + "\n" for n in range(count)))
        for journal in self.folder.glob(f"round-{self.number}.process-*.jsonl"):
            journal.unlink()

    def read(self) -> list[DrawnVideo]:
        """The videos of a round that was drawn to its end."""
        return [DrawnVideo.from_line(line) for line in read_lines(self.path)]


def forget_rounds(output_dir: Path, after: int) -> None:
    """Removes the files of rounds that a run continues before, or all with ``after=0``."""
    for path in (output_dir / FOLDER).glob("round-*.jsonl"):
        number = path.name.removeprefix("round-").partition(".")[0]
        if number.isdigit() and int(number) > after:
            path.unlink()


def judged_videos(videos: Sequence[DrawnVideo], *, held_out: bool) -> dict[int, list[Judged]]:
    """Material of pairs, by the places of videos."""
    return {v.number: [e.judged for e in v.episodes] for v in videos if v.held_out == held_out}


def round_numbers(videos: Sequence[DrawnVideo], pairs: Sequence[EpisodePair]) -> dict[str, float]:
    """Numbers of a round: what its episodes were worth, what they did, and how many pairs of each kind there are."""
    free = _free(videos)
    if not free:
        return {}
    numbers = {
        **_means_of(free),
        "round/operator_entropy": entropy_of(first_words(free)),
        "round/pairs": float(len(pairs)),
    }
    for easy in (True, False):
        part = _free([v for v in videos if v.easy == easy])
        if part:
            name = "easy" if easy else "aliased"
            numbers[f"round/accuracy_{name}"] = _mean([float(e.judged.correct) for e in part])
            numbers[f"round/operators_{name}"] = _mean([len(e.judged.operators) for e in part])
    return numbers | {f"round/pairs_{kind}": float(sum(p.kind == kind for p in pairs)) for kind in KINDS}


def _free(videos: Sequence[DrawnVideo]) -> list[Drawn]:
    """Episodes that were drawn from their beginning, not from a branch of another."""
    return [e for v in videos for e in v.episodes if e.judged.branch is None]


def first_words(episodes: Sequence[Drawn]) -> Counter[str]:
    """Number of uses of each operator; and ``answer``, where an episode used none."""
    return Counter(name.partition(" ")[0] for e in episodes for name in (e.judged.operators or ("answer",)))


def entropy_of(counts: Mapping[str, int]) -> float:
    """Entropy of shares in bits.

    Example:
        >>> entropy_of({"zoom": 5, "answer": 5})
        1.0
    """
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values() if c) if total else 0.0


def _means_of(episodes: Sequence[Drawn]) -> dict[str, float]:
    return {
        "round/accuracy": _mean([float(e.judged.correct) for e in episodes]),
        "round/utility": _mean([e.judged.utility for e in episodes]),
        "round/operators": _mean([len(e.judged.operators) for e in episodes]),
        "round/frames": _mean([e.num_frames for e in episodes]),
        "round/refused": _mean([e.refused for e in episodes]),
        "round/format_errors": _mean([float(e.format_error) for e in episodes]),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _whole_lines(path: Path) -> Iterator[DrawnVideo]:
    for line in read_lines(path) if path.is_file() else []:
        try:
            yield DrawnVideo.from_line(line)
        except (ValueError, KeyError, TypeError):
            continue
