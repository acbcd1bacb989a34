"""Labels of videos in stage 3: what a data set tells of them, and the truth with nothing but a video-level label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from reward_model.rewards import ANNOTATED, Need
from reward_model.schema import Anomaly, FrameRange, VideoAnnotation
from reward_model.training.grpo.rollouts import GrpoSample

#: How much of an annotation trains: all of it, or its video-level label.
Labels = Literal["full", "video"]
LABELS = ("full", "video")
#: What a video-level label tells: normal or abnormal, and of which types.
VIDEO_LEVEL: frozenset[Need] = frozenset({"gt_status", "gt_types"})


def label_of(truth: VideoAnnotation) -> VideoAnnotation:
    """The status and types of a truth and no more: an anomaly of each type over the whole video, without box, object
    or words.
    """
    whole = FrameRange(0, truth.num_frames - 1)
    return replace(truth, anomalies=tuple(Anomaly(kind, whole) for kind in truth.types))


def given_by(truths: Iterable[VideoAnnotation]) -> frozenset[Need]:
    """The facts that these truths tell together.

    Boxes or windows are missing where no anomaly has any: one that has no box and lasts as long as its video is what a
    video-level label becomes. Single anomalies without a box are usual (of what has vanished there is none to draw).
    """
    found = [(a, truth) for truth in truths for a in truth.anomalies]
    if not found or any(a.boxes for a, _ in found):
        return ANNOTATED
    if any(len(a.frames) < truth.num_frames for a, truth in found):
        return ANNOTATED - {"gt_boxes"}
    return VIDEO_LEVEL


def check_labels(labels: str) -> None:
    """Raises ValueError unless ``labels`` is one of :data:`LABELS`."""
    if labels not in LABELS:
        raise ValueError(f"data: labels={labels!r} must be one of {', '.join(map(repr, LABELS))}")


def told(
    load: Callable[[Mapping[str, Any]], GrpoSample], given: frozenset[Need]
) -> Callable[[Mapping[str, Any]], GrpoSample]:
    """The samples of ``load`` that say what is given of them; a video-level label replaces a truth that has no more."""
    return load if given == ANNOTATED else partial(_told, load=load, given=given)


def _told(
    row: Mapping[str, Any], *, load: Callable[[Mapping[str, Any]], GrpoSample], given: frozenset[Need]
) -> GrpoSample:
    sample = load(row)
    truth = label_of(sample.truth) if given <= VIDEO_LEVEL else sample.truth
    return replace(sample, truth=truth, given=given)
