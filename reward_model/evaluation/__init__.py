"""Evaluation of judges: metrics with intervals, benches whose truth is exact, baselines, and tables."""

from reward_model.evaluation.benches.bench import (
    Bench,
    BenchVideo,
    CalibrationBench,
    DevBench,
    MainBench,
    OodBench,
    WorldBench,
)
from reward_model.evaluation.benches.demanding import DemandingBench
from reward_model.evaluation.benches.hard import HardBench
from reward_model.evaluation.benches.records import JsonlBench, RecordBench, VifCotBench
from reward_model.evaluation.benches.second_look import SecondLookBench
from reward_model.evaluation.benches.shift import ShiftBench
from reward_model.evaluation.metrics.calibration import (
    ReliabilityBin,
    calibration_error,
    reliability_bins,
    saturation_share,
)
from reward_model.evaluation.metrics.classification import Confusion, ImpliedRates, auroc, confusion, implied_rates
from reward_model.evaluation.metrics.tubes import tube_iou
from reward_model.evaluation.running.measure import measure
from reward_model.evaluation.running.result import EvaluationResult, Metric, TypeRecall
from reward_model.evaluation.running.row import Row, make_row
from reward_model.evaluation.running.runner import evaluate_judge
from reward_model.evaluation.running.store import RowStore, read_rows
from reward_model.evaluation.tables.paper_tables import PaperTable, load_paper_tables, paper_table
from reward_model.lazy import former_names
from reward_model.statistics.intervals import Interval, bootstrap, wilson
from reward_model.statistics.significance import mcnemar, paired_bootstrap, paired_permutation
from reward_model.statistics.table import Estimate, Table

__all__ = [
    "Bench",
    "BenchVideo",
    "CalibrationBench",
    "Confusion",
    "DemandingBench",
    "DevBench",
    "Estimate",
    "EvaluationResult",
    "HardBench",
    "ImpliedRates",
    "Interval",
    "JsonlBench",
    "MainBench",
    "Metric",
    "OodBench",
    "PaperTable",
    "RecordBench",
    "ReliabilityBin",
    "Row",
    "RowStore",
    "SecondLookBench",
    "ShiftBench",
    "Table",
    "TypeRecall",
    "VifCotBench",
    "WorldBench",
    "auroc",
    "bootstrap",
    "calibration_error",
    "confusion",
    "evaluate_judge",
    "implied_rates",
    "load_paper_tables",
    "make_row",
    "mcnemar",
    "measure",
    "paired_bootstrap",
    "paired_permutation",
    "paper_table",
    "read_rows",
    "reliability_bins",
    "saturation_share",
    "tube_iou",
    "wilson",
]

__getattr__ = former_names(__name__, {"evaluate": "evaluate_judge"})
