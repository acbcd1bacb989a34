"""Episodes on the aliasing suite, a row for each, kept in a file that a later run continues."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reward_model.active.environment import VideoEnvironment
from reward_model.active.episodes import Believe, Episode, EvidencePolicy, run_episodes
from reward_model.active.judging import episode_limits
from reward_model.active.policies import OraclePolicy
from reward_model.active.utility import utility
from reward_model.config import JudgeConfig
from reward_model.digests import json_digest
from reward_model.files import write_text
from reward_model.journal import append_lines, read_lines
from reward_model.schema import FrameRange, VideoAnnotation
from reward_model.turns import VideoView
from reward_model.video.framing import Framing
from reward_model.world import make_annotation
from reward_model.world.aliasing import aliasing_rows, aliasing_scene
from reward_model.world.video import SIZE, render

#: Scenes to be reported, and scenes for choices; other benches end below 860,000.
SUITE_SEED, DEV_SUITE_SEED = 860_000, 880_000


@dataclass(frozen=True)
class PlayedRow:
    """One episode.

    Attributes:
        video: number in the suite.
        story: ``aliased`` or ``easy``.
        status, said: truth, and what was answered.
        operators: names of the operators used.
        num_frames, num_tokens: shown, and written.
        refused: operators that were refused.
        utility: what it was worth, by the beliefs of the judge that is measured.
        seconds: its share of its batch.
        forced: no answer can be read, and ``said`` is the likelier verdict word at its last view, before any reasoning.
    """

    video: int
    story: str
    status: str
    said: str
    operators: tuple[str, ...]
    num_frames: int
    num_tokens: int
    refused: int
    utility: float
    seconds: float
    forced: bool = False

    @property
    def correct(self) -> bool:
        return self.said == self.status

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlayedRow:
        return cls(**{**data, "operators": tuple(data["operators"])})


@dataclass(frozen=True)
class Suite:
    """The reserved videos.

    Args:
        count: videos, even; half of them easy, normal and abnormal 1:1.
        first_seed: of the scenes.
        size: of the pictures in pixels.
    """

    count: int = 400
    first_seed: int = SUITE_SEED
    size: int = SIZE

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the suite, in their order."""
        return aliasing_rows(self.count, first_seed=self.first_seed, seed=0, easy=0.5)


@dataclass(frozen=True)
class SuiteVideo:
    """A video of the suite: its row, truth, where something happens, and its frames."""

    row: Mapping[str, Any]
    truth: VideoAnnotation
    window: FrameRange | None
    view: VideoView


def open_video(row: Mapping[str, Any], size: int, judge: JudgeConfig) -> SuiteVideo:
    """A video of the suite as a judge sees it."""
    scene, window = aliasing_scene(row)
    truth = make_annotation(scene, size)
    framing = Framing((truth.height, truth.width), judge.frame_size, judge.frame_fit)
    view = VideoView(
        truth.num_frames, truth.fps, lambda indices: framing.show(render(scene, indices, size)), truth.prompt, framing
    )
    return SuiteVideo(row, truth, window, view)


#: Videos of a batch -> a policy for them.
MakePolicy = Callable[[Sequence[SuiteVideo]], EvidencePolicy]


def play(
    suite: Suite,
    make_policy: MakePolicy,
    believe: Believe,
    judge: JudgeConfig,
    *,
    path: Path | None = None,
    fingerprint: str = "",
    batch_size: int = 16,
    say: Callable[[int, int], None] = lambda done, count: None,
) -> list[PlayedRow]:
    """An episode about each video.

    Args:
        suite: the videos.
        make_policy: makes the policy of a batch; a fresh one for each, so that a row depends on its batch alone.
        believe: the beliefs that utilities go by.
        judge: limits of episodes, and how frames are shown.
        path: file of the rows; None keeps none. Rows of another ``fingerprint`` are played anew.
        batch_size: videos in step.
        say: told of videos done and all.
    """
    rows, mark = suite.rows(), json_digest([fingerprint, asdict(suite), batch_size, "forced"])
    known = list(_known(path, mark))
    if path is not None and not known:
        write_text(path, json.dumps({"fingerprint": mark}) + "\n")
    for start in range(len(known) // batch_size * batch_size, len(rows), batch_size):
        batch = [open_video(row, suite.size, judge) for row in rows[start : start + batch_size]]
        started = time.perf_counter()
        limits = episode_limits(judge)
        episodes = run_episodes(make_policy(batch), [VideoEnvironment(v.view, limits) for v in batch], believe=believe)
        seconds = (time.perf_counter() - started) / len(batch)
        made = [
            _row(start + k, video, episode, judge, seconds)
            for k, (video, episode) in enumerate(zip(batch, episodes, strict=True))
        ]
        fresh = made[max(0, len(known) - start) :]
        if path is not None:
            append_lines(path, [json.dumps(asdict(row)) for row in fresh])
        known += fresh
        say(len(known), len(rows))
    return known


def _row(number: int, video: SuiteVideo, episode: Episode, judge: JudgeConfig, seconds: float) -> PlayedRow:
    if episode.error is not None:
        raise RuntimeError(f"video {number} of the suite: {episode.error}")
    truth, said, forced = video.truth.status, episode.status, episode.status is None
    if said is None:
        said = "abnormal" if episode.beliefs[-1] > 0.5 else "normal"
    return PlayedRow(
        video=number,
        story=video.row["story"],
        status=truth,
        said=said,
        operators=tuple(o.operator.name for o in episode.operators if o.operator is not None),
        num_frames=episode.num_frames,
        num_tokens=sum(m.num_tokens for m in episode.moves),
        refused=sum(o.refused is not None for o in episode.operators),
        # Scripts let the judge answer where it was not taught to: the form of an answer is charged to nobody here.
        utility=utility(
            episode.looks(),
            correct=said == truth,
            abnormal=truth == "abnormal",
            max_view_frames=judge.max_view_frames,
        ),
        seconds=seconds,
        forced=forced,
    )


def oracle_of(batch: Sequence[SuiteVideo]) -> EvidencePolicy:
    """The policy that knows the truth about a batch."""
    return OraclePolicy([v.truth for v in batch], [v.window for v in batch])


def _known(path: Path | None, mark: str) -> Iterator[PlayedRow]:
    lines = read_lines(path) if path is not None and path.is_file() else []
    if not lines or json.loads(lines[0]).get("fingerprint") != mark:
        return
    for line in lines[1:]:
        try:
            yield PlayedRow.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError):  # a kill cut it; what was played again follows
            continue
