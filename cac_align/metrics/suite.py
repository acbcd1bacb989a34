"""Several metrics on the same videos: each video is decoded once, and what one metric cannot score costs no other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cac_align.metrics.metric import VBenchMetric
from cac_align.metrics.native import Clip
from cac_align.metrics.weights import WeightsError
from cac_align.rewards.base import check_callable, evaluate
from cac_align.rewards.inputs import check_inputs
from reward_model.video.clip import Video, VideoError
from reward_model.video.load import load_video


@dataclass
class VideoScores:
    """What the metrics said of one video.

    Attributes:
        scores: by metric; None where it could not score.
        reasons: by metric, why a score is None.
        num_frames, fps: of the decoded video; 0 where it could not be decoded.
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


class MetricSuite:
    """Metrics by name, and rewards too: whatever has the call shape of a reward.

    Args:
        metrics: dimensions of VBench, :class:`VBenchMetric` objects, or a mapping from names to these or to rewards.
        **options: for metrics given by name, as :class:`VBenchMetric` takes them.

    Raises:
        ValueError: no metric, an unknown one, or a name twice.

    Example:
        >>> suite = MetricSuite(["subject_consistency", "imaging_quality"])                      # doctest: +SKIP
        >>> suite.evaluate(["dog.mp4"])[0].scores                                                # doctest: +SKIP
        {'subject_consistency': 0.9512, 'imaging_quality': 0.6713}
    """

    def __init__(self, metrics: Sequence[str | VBenchMetric] | Mapping[str, Any], **options: Any) -> None:
        if isinstance(metrics, str):
            raise ValueError(f"metrics must be a list of names, got {metrics!r}; pass [{metrics!r}]")
        pairs = (
            list(metrics.items())
            if isinstance(metrics, Mapping)
            else [(m if isinstance(m, str) else m.name, m) for m in metrics]
        )
        if not pairs or len({name for name, _ in pairs}) < len(pairs):
            raise ValueError(f"a suite needs at least one metric and each once, got {[name for name, _ in pairs]}")
        self.metrics = {name: VBenchMetric(m, **options) if isinstance(m, str) else m for name, m in pairs}
        for metric in self.metrics.values():
            check_callable(metric)

    def load(self) -> None:
        """Loads all networks, so that a missing file stops a run before its first video.

        Raises:
            WeightsError: files are missing, all of which are named, or the first one that is broken.
        """
        self.check_files()
        for metric in self.metrics.values():
            if isinstance(metric, VBenchMetric):
                metric.load()

    def check_files(self) -> None:
        """Raises WeightsError with a line for each weight file that is missing."""
        missing: dict[str, None] = {}
        for metric in self.metrics.values():
            for weights in metric.dimension.weights if isinstance(metric, VBenchMetric) else ():
                try:
                    weights.find(metric.cache_dir)
                except WeightsError as error:
                    missing[str(error)] = None
        if len(missing) == 1:
            raise WeightsError(next(iter(missing)))
        if missing:
            raise WeightsError("\n".join([f"{len(missing)} weight files are missing", *missing]))

    def describe(self, name: str) -> dict[str, Any]:
        """What the scores of a metric depend on besides the video."""
        metric = self.metrics[name]
        return metric.describe() if isinstance(metric, VBenchMetric) else {"reward": _identity(metric)}

    def evaluate(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        only: Sequence[str] | None = None,
    ) -> list[VideoScores]:
        """One entry per video. Arguments as in :meth:`VBenchMetric.evaluate`.

        Args:
            only: these metrics, where not all are wanted.

        Raises:
            WeightsError: a weight file is missing or broken.
        """
        videos, texts, _ = check_inputs(videos, prompts, fps)
        names = list(self.metrics) if only is None else list(only)
        by_package = [n for n in names if getattr(self.metrics[n], "backend", None) == "package"]
        here = [n for n in names if n not in by_package]
        found = [self._score(v, t, fps, here) for v, t in zip(videos, texts, strict=True)]
        for group in _alike(self.metrics, by_package):
            self._ask_package(group, list(videos), texts, fps, found)
        return [VideoScores({n: f.scores[n] for n in names}, f.reasons, f.num_frames, f.fps) for f in found]

    def _score(self, video: Any, prompt: str | None, fps: float | None, names: Sequence[str]) -> VideoScores:
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
            metric = self.metrics[name]
            try:
                if isinstance(metric, VBenchMetric):
                    clip.device, clip.batch_size = metric.device, metric.batch_size
                    result.put(name, metric.measure(clip))
                else:
                    result.put(name, *_ask_reward(metric, loaded, prompt))
            except WeightsError:
                raise
            except (
                ValueError,
                RuntimeError,
                MemoryError,
            ) as error:  # RuntimeError: torch, CUDA's memory
                result.put(name, None, str(error).strip().splitlines()[0] if str(error).strip() else repr(error))
        return result

    def _ask_package(
        self,
        names: Sequence[str],
        videos: list[Any],
        prompts: list[str | None],
        fps: float | None,
        found: list[VideoScores],
    ) -> None:
        """Scores by the package, all videos in one call: its networks load once."""
        first = self.metrics[names[0]]
        dimensions = [self.metrics[n].name for n in names]
        answers = first.package.score(videos, dimensions, prompts=prompts, fps=fps)
        for name, dimension in zip(names, dimensions, strict=True):
            for video, result, (score, reason) in zip(videos, found, answers[dimension], strict=True):
                result.put(name, score, reason)
                if not result.num_frames and score is not None:
                    result.num_frames, result.fps = _length(video, fps)


def _identity(reward: Any) -> str:
    """What tells a reward from another one, the same in every process: no addresses."""
    if hasattr(reward, "__qualname__"):
        return f"{reward.__module__}.{reward.__qualname__}"
    text = repr(reward)
    return type(reward).__qualname__ if " at 0x" in text else text


def _ask_reward(reward: Any, video: Video, prompt: str | None) -> tuple[float | None, str | None]:
    answer = evaluate(reward, [np.asarray(video.frames)], None if prompt is None else [prompt], fps=video.fps)
    return answer.scores[0], answer.reasons[0]


def _length(video: Any, fps: float | None) -> tuple[int, float]:
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
