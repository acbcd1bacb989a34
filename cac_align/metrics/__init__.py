"""VBench metrics with the call shape of a reward: in this process, or by the real ``vbench`` package in its own
environment.

Example:
    >>> from cac_align.metrics import VBenchMetric                                               # doctest: +SKIP
    >>> VBenchMetric("imaging_quality")(["dog.mp4"])                                             # doctest: +SKIP
    [0.6713]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "DIMENSIONS": "cac_align.metrics.dimensions",
    "MetricSuite": "cac_align.metrics.suite",
    "VBenchMetric": "cac_align.metrics.metric",
    "VBenchPackage": "cac_align.metrics.package",
    "WeightsError": "cac_align.metrics.weights",
    "evaluate_videos": "cac_align.metrics.folder",
    "export_videos": "cac_align.metrics.export",
    "find_videos": "cac_align.metrics.videos",
    "read_results": "cac_align.metrics.results",
}

__all__ = [
    "DIMENSIONS",
    "MetricSuite",
    "VBenchMetric",
    "VBenchPackage",
    "WeightsError",
    "evaluate_videos",
    "export_videos",
    "find_videos",
    "read_results",
]

if TYPE_CHECKING:
    from cac_align.metrics.dimensions import DIMENSIONS
    from cac_align.metrics.export import export_videos
    from cac_align.metrics.folder import evaluate_videos
    from cac_align.metrics.metric import VBenchMetric
    from cac_align.metrics.package import VBenchPackage
    from cac_align.metrics.results import read_results
    from cac_align.metrics.suite import MetricSuite
    from cac_align.metrics.videos import find_videos
    from cac_align.metrics.weights import WeightsError

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
