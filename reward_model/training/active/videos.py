"""Videos of this training: the aliasing suite of the procedural world, or annotated files. Rows are light; frames come
later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.active.judging import episode_parts
from reward_model.chunks import chunk_truth
from reward_model.config import JudgeConfig
from reward_model.extras import need
from reward_model.schema import FrameRange, VideoAnnotation
from reward_model.training.grpo.videos import annotated_rows
from reward_model.world.aliasing import EASY, aliasing_rows, aliasing_scene

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_model.data.frame_cache import FrameCache

#: World scenes of this training; stages 1 to 3 draw theirs below 200,000, what is measured lies above 400,000.
ACTIVE_SEEDS = range(200_000, 300_000)


@dataclass(frozen=True)
class ActiveSample:
    """A video for an episode.

    Attributes:
        truth: the annotation; rounds read its status alone, a script also looks where it says.
        frames: native indices -> (N, H, W, 3) uint8.
        window: native frames in which something happens; None: nothing does.
        easy: the first view tells all.
        part: first and last native frame that may be looked at; None: the whole video.
    """

    truth: VideoAnnotation
    frames: Callable[[Sequence[int]], np.ndarray]
    window: FrameRange | None = None
    easy: bool = False
    part: tuple[int, int] | None = None


Load = Callable[[Mapping[str, Any]], ActiveSample]


def suite_rows(count: int, *, seed: int = 0, easy: float = 0.5) -> Dataset:
    """``count`` rows of the aliasing suite (:func:`reward_model.world.aliasing.aliasing_rows`) as a
    ``datasets.Dataset``, on scenes for training.

    Raises:
        ValueError: if there are fewer scenes than that.
    """
    Dataset = need("datasets", "this training").Dataset  # noqa: N806

    first = ACTIVE_SEEDS[0] + (seed % 7) * (len(ACTIVE_SEEDS) // 7)
    rows = aliasing_rows(count, first_seed=first, seed=seed, easy=easy)
    if rows[-1]["seed"] > ACTIVE_SEEDS[-1]:
        raise ValueError(f"rows={count} need more scenes than there are for training; use fewer rows")
    return Dataset.from_list(rows)


def suite_loader(size: int) -> Load:
    """Rows of :func:`suite_rows` -> samples of ``size`` x ``size`` pixels."""
    return partial(_load_scene, size=size)


def _load_scene(row: Mapping[str, Any], *, size: int) -> ActiveSample:
    from reward_model.world import make_annotation
    from reward_model.world.video import render

    scene, window = aliasing_scene(row)
    truth = make_annotation(scene, size)
    return ActiveSample(truth, lambda indices: render(scene, indices, size), window, row["story"] == EASY)


def footage_rows(path: str | Path, **options: Any) -> Dataset:
    """Rows of an annotation file, as :func:`reward_model.training.grpo.videos.annotated_rows` deals them to stage 3."""
    return annotated_rows(path, **options)


def footage_loader(judge: JudgeConfig, cache_dir: str | Path | None = None) -> Load:
    """Rows of :func:`footage_rows` -> samples. Of a video that is judged in parts the first that shows an anomaly, else
    the first.

    Args:
        judge: how episodes are asked.
        cache_dir: keeps decoded frames between runs; None keeps a few videos in memory.
    """
    from reward_model.data.frame_cache import FrameCache

    return partial(_load_footage, judge=judge, cache=FrameCache(cache_dir))


def _load_footage(row: Mapping[str, Any], *, judge: JudgeConfig, cache: FrameCache) -> ActiveSample:
    whole = VideoAnnotation.from_dict(json.loads(row["truth"]))
    parts = episode_parts(whole.num_frames, whole.fps, judge)
    truths = [chunk_truth(whole, range(first, last + 1)) for first, last in parts]
    number = next((k for k, truth in enumerate(truths) if truth.anomalies), 0)
    truth, part = truths[number], parts[number]
    hull = None
    if truth.anomalies:
        first, last = min(a.frames.start for a in truth.anomalies), max(a.frames.end for a in truth.anomalies)
        hull = FrameRange(max(first, part[0]), min(last, part[1]))
    grid = range(part[0], part[1] + 1, max(1, round(whole.fps / judge.start_fps)))
    easy = hull is None or sum(n in hull for n in grid) > 1
    kept = range(part[0], part[1] + 1)
    path, count = Path(row["video"]), whole.num_frames
    return ActiveSample(truth, lambda indices: cache.frames(path, indices, kept, count), hull, easy, part)
