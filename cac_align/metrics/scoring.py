"""Metrics and rewards on videos: each video is decoded once, and what one of them cannot score costs no other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cac_align.metrics.native import Clip
from cac_align.metrics.weights import WeightsError
from cac_align.rewards.base import Reward, evaluate
from cac_align.rewards.model_reward import check_inputs
from reward_model.video.clip import Video, VideoError, VideoLike, load_video


@dataclass
class VideoScores:
    """Scores of one video by all metrics.

    Attributes:
        scores: by metric; None if it could not score.
        reasons: by metric, why a score is None.
        num_frames, fps: length and frame rate of the decoded video; 0 where it could not be decoded.
    """

    scores: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    num_frames: int = 0
    fps: float = 0.0

    def put(self, metric: str, score: float | None, reason: str | None = None) -> None:
        """Keeps a score, or the reason why there is none; NaN and infinity are none."""
        if score is not None and not math.isfinite(score):
            score, reason = None, f"{metric} gave {score}"
        self.scores[metric] = score
        if score is None:
            self.reasons[metric] = reason or "no reason given"


def score_videos(
    metrics: Mapping[str, Any],
    videos: Sequence[Any],
    prompts: Sequence[str] | str | None = None,
    *,
    fps: float | None = None,
) -> list[VideoScores]:
    """One entry per video. Arguments as in :meth:`VBenchMetric.evaluate`.

    Args:
        metrics: by name; those with a method ``measure`` are metrics of this package, all others rewards.

    Raises:
        WeightsError: if a weight file is missing or broken.
    """
    videos, texts, _ = check_inputs(videos, prompts, fps)
    by_package = [n for n, metric in metrics.items() if getattr(metric, "backend", None) == "package"]
    here = [n for n in metrics if n not in by_package]
    results = [_score(metrics, here, v, t, fps) for v, t in zip(videos, texts, strict=True)]
    for group in _alike(metrics, by_package):
        _ask_package(metrics, group, list(videos), texts, fps, results)
    return [VideoScores({n: f.scores[n] for n in metrics}, f.reasons, f.num_frames, f.fps) for f in results]


def _score(
    metrics: Mapping[str, Any], names: Sequence[str], video: VideoLike, prompt: str | None, fps: float | None
) -> VideoScores:
    result = VideoScores()
    try:
        loaded = load_video(video, fps)
    except VideoError as error:
        for name in names:
            result.put(name, None, str(error))
        return result
    result.num_frames, result.fps = loaded.num_frames, loaded.fps
    clip = Clip(loaded)
    for name in names:
        metric = metrics[name]
        try:
            if hasattr(metric, "measure"):
                clip.device, clip.batch_size = metric.device, metric.batch_size
                result.put(name, metric.measure(clip))
            else:
                result.put(name, *_ask_reward(metric, loaded, prompt))
        except WeightsError:
            raise
        except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: torch, CUDA's memory
            result.put(name, None, str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
    return result


def _ask_package(
    metrics: Mapping[str, Any],
    names: Sequence[str],
    videos: list[Any],
    prompts: list[str | None],
    fps: float | None,
    results: list[VideoScores],
) -> None:
    """Scores by the package, all videos in one call: its networks load once."""
    first = metrics[names[0]]
    dimensions = [metrics[n].name for n in names]
    answers = first.package.score(videos, dimensions, prompts=prompts, fps=fps)
    for name, dimension in zip(names, dimensions, strict=True):
        for video, result, (score, reason) in zip(videos, results, answers[dimension], strict=True):
            result.put(name, score, reason)
            if not result.num_frames and score is not None:
                result.num_frames, result.fps = _length(video, fps)


def _ask_reward(reward: Reward, video: Video, prompt: str | None) -> tuple[float | None, str | None]:
    answer = evaluate(reward, [video.in_memory()], None if prompt is None else [prompt], fps=video.fps)
    return answer.scores[0], answer.reasons[0]


def _length(video: VideoLike, fps: float | None) -> tuple[int, float]:
    """Frames and rate, which totals over frames are weighted by."""
    loaded = load_video(str(video) if isinstance(video, Path) else video, fps)
    return loaded.num_frames, loaded.fps


def _alike(metrics: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Names of metrics that the same environment, weights and device serve."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        metric = metrics[name]
        groups.setdefault(tuple(map(str, (metric.python, metric.cache_dir, metric._device))), []).append(name)
    return list(groups.values())
