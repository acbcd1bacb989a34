"""Writes what a checkpoint knows of its training videos: ``domain.safetensors`` and ``trained_on`` in ``judge.json``.

Both are written whole or not at all, beside weights that are never touched.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.backends.base import Observing
from reward_model.backends.local import LocalBackend
from reward_model.config import JUDGE_FILE, JudgeConfig
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.domain import MIN_FIT, MIN_REFERENCE, Signs, TrainedOn, fit_domain
from reward_model.files import write_text
from reward_model.judge import Rates, TwoTurnJudge
from reward_model.schema import VerdictScore
from reward_model.video.clip import LazyFrames, Video, load_video, resize_frames

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

#: Of seven videos, those that quantiles are taken from; the others are fitted.
_REFERENCE = (2, 5)
#: Fewest videos that give enough of both.
LEAST_VIDEOS = max(-(-MIN_FIT * 7 // 5), -(-MIN_REFERENCE * 7 // 2))
#: Videos at the end of a stage: 400 to fit, 160 to take quantiles from.
DOMAIN_VIDEOS = 560
_BATCH = 8


class _Onlooker:
    """Stands for a backend that is asked for the verdict alone, and looks at the questions only."""

    name = "onlooker"

    def __init__(self, backend: Observing) -> None:
        self.backend, self.signs = backend, list[Signs]()

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        raise RuntimeError("an onlooker is asked for verdicts alone, and writes no answer")

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        self.signs += [one for one in self.backend.observe(conversations) if one is not None]
        return [VerdictScore(-0.1, -3.0) for _ in conversations]

    def describe(self) -> dict[str, Any]:
        return {}


class _SampleFrames(LazyFrames):
    """The frames of a sample of stage 3, which may hold only those that a turn can show."""

    def __init__(self, sample: Any) -> None:
        self.sample = sample
        self.shape = (sample.truth.num_frames, sample.truth.height, sample.truth.width, 3)

    def __len__(self) -> int:
        return int(self.shape[0])

    def take(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        frames: np.ndarray = self.sample.frames(list(indices))
        return frames if size is None else resize_frames(frames, size)


def signs_of_videos(backend: Observing, config: JudgeConfig, videos: Sequence[Any], fps: Rates = None) -> list[Signs]:
    """Statistics of the scans that a judge would ask about these videos; a long one gives several. Videos that cannot
    be read are left out.
    """
    onlooker = _Onlooker(backend)
    judge = TwoTurnJudge(onlooker, config, reasoning=False, num_turns=1, readout="direct", batch_size=_BATCH)
    judge.judge(videos, fps=fps)
    return onlooker.signs


def write_domain(
    folder: str | Path,
    videos: Iterable[Any],
    *,
    footage: str = "",
    facts: Sequence[tuple[int, float, int, int]] = (),
    device: Any = None,
) -> Path:
    """Fits a checkpoint's domain on videos of the kind that it was trained on, and states their ranges.

    Args:
        folder: the checkpoint; its ``judge.json``, where it has one, gets ``trained_on``.
        videos: files, or :class:`~reward_model.video.clip.Video`; read a few at a time.
        footage: the kind of footage in words.
        facts: frames, frames per second, width and height of the training videos, where they are more than these.

    Raises:
        ValueError: if too few of the videos can be read.
    """
    backend = LocalBackend(folder, device=device)
    backend.watch = False  # the file that is there may belong to other weights
    signs: list[Signs] = []
    seen: list[tuple[int, float, int, int]] = []
    part: list[Any] = []

    def look() -> None:
        found = signs_of_videos(backend, backend.config, part)
        signs.extend(found)
        part.clear()

    for video in videos:
        try:
            opened = load_video(video)
        except ValueError as error:
            log.warning("left out: %s", error)
            continue
        height, width = opened.drawn_size
        seen.append((opened.num_frames, opened.fps, width, height))
        part.append(opened)
        if len(part) == _BATCH:
            look()
    if part:
        look()
    path = save_domain(folder, signs)
    state_training(folder, TrainedOn.of(facts or seen, footage))
    return path


def procedural_videos(count: int, seed: int = 0) -> Iterator[Video]:
    """Training videos of the world, normal and abnormal in turn; a normal one has the setting of an anomaly."""
    from reward_model.world import KINDS, make_scene, make_video

    kinds = list(KINDS)
    for k in range(seed, seed + count):
        if k % 2:
            frames = make_video(k, kinds[k // 2 % len(kinds)])[0]
        else:
            frames = make_video(k, setting=make_scene(k + 1, kinds[(k + 1) // 2 % len(kinds)]).setting)[0]
        yield Video(frames, 16.0)


def save_domain(folder: str | Path, signs: Sequence[Signs]) -> Path:
    """Fits a domain on five of seven videos, takes its quantiles from the others, and writes it.

    Raises:
        ValueError: if there are too few.
    """
    if len(signs) < LEAST_VIDEOS:
        raise ValueError(
            f"{len(signs)} videos are too few to know a domain by; give at least {LEAST_VIDEOS}, better some hundred"
        )
    training = [one for k, one in enumerate(signs) if k % 7 not in _REFERENCE]
    reference = [one for k, one in enumerate(signs) if k % 7 in _REFERENCE]
    return fit_domain(training, reference).save(folder)


def state_training(folder: str | Path, stated: TrainedOn) -> None:
    """Writes ``trained_on`` into a checkpoint's ``judge.json``; a checkpoint without one, which is asked by the
    defaults, is left as it is.
    """
    path = Path(folder) / JUDGE_FILE
    if path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**settings, "trained_on": stated.to_dict()}, indent=2) + "\n")


def domain_of_scans(
    folder: str | Path, rows: Iterable[Mapping[str, Any]], load: Callable[[Any], Any], count: int
) -> Path | None:
    """:func:`save_domain` at the end of stage 2, from scans of its own rows. Whatever goes wrong is said and leaves the
    judge without a domain, or with none but its old one.

    Args:
        rows, load: of the stage; rows of other tasks than ``scan`` are passed over.
        count: most scans to look at; 0: none.
    """

    def fit() -> Path | None:
        chosen = _spread_over([row for row in rows if row.get("task") == "scan"], count)
        if len(chosen) < LEAST_VIDEOS:
            log.info("%d scans are too few to know a domain by (%d needed)", len(chosen), LEAST_VIDEOS)
            return None
        backend = LocalBackend(folder)
        backend.watch = False
        signs: list[Signs] = []
        asked_frames: list[int] = []
        for start in range(0, len(chosen), _BATCH):
            asked = [load(row).conversation for row in chosen[start : start + _BATCH]]
            signs += [one for one in backend.observe(asked) if one is not None]
            asked_frames += [sum(isinstance(p, np.ndarray) for m in c for p in m.content) for c in asked]
        path = save_domain(folder, signs)
        state_training(folder, TrainedOn(seconds=_lengths(asked_frames, backend.config)))
        return path

    return _kept(fit)


def _lengths(counts: Sequence[int], config: JudgeConfig) -> tuple[float, float] | None:
    """Seconds of videos by the frames of their scans, to a stride; None where long ones were thinned or cut."""
    if config.max_scan_frames is not None and max(counts) >= config.max_scan_frames:
        return None
    return round(max(min(counts) - 1, 0.5) / config.scan_fps, 2), round(max(counts) / config.scan_fps, 2)


def domain_of_samples(
    folder: str | Path, rows: Dataset, load: Callable[[Any], Any], count: int, footage: str = ""
) -> Path | None:
    """:func:`write_domain` at the end of stage 3, from videos of its own rows; fails as :func:`domain_of_scans`.

    The ranges in ``judge.json`` are those of all rows: ``count`` of them may lack the shortest, or the smallest.
    """
    from reward_model.training.grpo.videos import facts_of_rows

    def fit() -> Path | None:
        chosen = _spread_over(rows, count)
        if len(chosen) < LEAST_VIDEOS:
            log.info("%d videos are too few to know a domain by (%d needed)", len(chosen), LEAST_VIDEOS)
            return None
        samples = (load(row) for row in chosen)
        videos = (Video(_SampleFrames(s), s.truth.fps) for s in samples)
        return write_domain(folder, videos, footage=footage, facts=facts_of_rows(rows, load))

    return _kept(fit)


def _spread_over(rows: Dataset | list[Any], count: int) -> list[Any]:
    """At most ``count`` rows, evenly spread over all."""
    length = len(rows)
    return [rows[k * length // count] for k in range(count)] if length > count > 0 else list(rows) if count else []


def _kept(fit: Callable[[], Path | None]) -> Path | None:
    try:
        return fit()
    except Exception as error:  # the judge is written already, and complete without it
        log.warning("no domain file: %s; write it with `cac-align data domain`", error)
        return None
