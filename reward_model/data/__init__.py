"""Annotated videos: files and their rules, splits, statistics, human review, other formats, exactly annotated
corruptions, synthesis of reasoning, and the views of the training stages.

Names load when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "AnnotationError": "reward_model.data.annotations",
    "Problem": "reward_model.data.validation",
    "Record": "reward_model.data.records",
    "ValidationReport": "reward_model.data.validation",
    "dataset_statistics": "reward_model.data.statistics",
    "draw_spot_check": "reward_model.data.review",
    "read_annotations": "reward_model.data.annotations",
    "review_agreement": "reward_model.data.review",
    "split_records": "reward_model.data.splits",
    "validate_annotations": "reward_model.data.validation",
    "video_path": "reward_model.data.records",
    "write_annotations": "reward_model.data.annotations",
}

__all__ = [
    "AnnotationError",
    "Problem",
    "Record",
    "ValidationReport",
    "dataset_statistics",
    "draw_spot_check",
    "read_annotations",
    "review_agreement",
    "split_records",
    "validate_annotations",
    "video_path",
    "write_annotations",
]

if TYPE_CHECKING:
    from reward_model.data.annotations import AnnotationError, read_annotations, write_annotations
    from reward_model.data.records import Record, video_path
    from reward_model.data.review import draw_spot_check, review_agreement
    from reward_model.data.splits import split_records
    from reward_model.data.statistics import dataset_statistics
    from reward_model.data.validation import Problem, ValidationReport, validate_annotations

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
