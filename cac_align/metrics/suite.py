"""Several metrics on the same videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cac_align.metrics.metric import VBenchMetric
from cac_align.metrics.scoring import VideoScores, score_videos
from cac_align.metrics.weights import WeightsError
from cac_align.rewards.base import Reward, check_callable


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
            WeightsError: if files are missing, all of which are named, or the first one that is broken.
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
        """Everything the scores of a metric depend on besides the video."""
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
            WeightsError: if a weight file is missing or broken.
        """
        names = list(self.metrics) if only is None else list(only)
        return score_videos({name: self.metrics[name] for name in names}, videos, prompts, fps=fps)


def _identity(reward: Reward) -> str:
    """Identity of a reward, the same in every process: no memory addresses."""
    if hasattr(reward, "__qualname__"):
        return f"{reward.__module__}.{reward.__qualname__}"
    text = repr(reward)
    return type(reward).__qualname__ if " at 0x" in text else text
