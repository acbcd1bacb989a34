"""How good a judge is: metrics with intervals, benches whose truth is exact, and the table that joins them."""

from reward_model.evaluation.bench import BenchVideo, WorldBench
from reward_model.evaluation.metrics import (
    Confusion,
    Interval,
    auroc,
    bootstrap,
    calibration_error,
    confusion,
    saturation_share,
    wilson,
)
from reward_model.evaluation.result import EvaluationResult, Metric
from reward_model.evaluation.runner import evaluate

__all__ = [
    "BenchVideo",
    "Confusion",
    "EvaluationResult",
    "Interval",
    "Metric",
    "WorldBench",
    "auroc",
    "bootstrap",
    "calibration_error",
    "confusion",
    "evaluate",
    "saturation_share",
    "wilson",
]
