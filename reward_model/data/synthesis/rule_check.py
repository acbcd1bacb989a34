"""The rule check (section B.2) and the reviewer's numbers (Fig. S6), as pure functions.

An answer passes when its judgment and its set of types are those of the annotation and every annotated anomaly is met
by one predicted anomaly of its type, strictly above both IoU thresholds; space counts where the turn has boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from reward_model.data.synthesis.config import RuleConfig
from reward_model.grounding import mean_box_iou, temporal_iou
from reward_model.schema import Anomaly, AnomalyType, FrameRange, TurnReport, sort_types


class AnswerFault(NamedTuple):
    """Reason why an answer failed: a code that can be counted, and a sentence."""

    code: str
    detail: str


@dataclass(frozen=True)
class AnomalyMatch:
    """Match of one annotated anomaly. ``spatial`` is None if the turn or the annotation has no box."""

    found: bool
    temporal: float = 0.0
    spatial: float | None = None


@dataclass(frozen=True)
class RuleVerdict:
    """``matches`` has one entry per annotated anomaly, in their order; no ``faults`` means passed."""

    matches: tuple[AnomalyMatch, ...]
    faults: tuple[AnswerFault, ...]

    @property
    def passed(self) -> bool:
        return not self.faults


def rule_check(
    report: TurnReport, truth: Sequence[Anomaly], *, num_frames: int, boxes: bool, rules: RuleConfig | None = None
) -> RuleVerdict:
    """Holds one answer against the annotation.

    Args:
        report: the parsed answer.
        truth: the annotated anomalies on the frames of that turn; empty for a normal video.
        num_frames: frames of that turn.
        boxes: whether the turn has boxes (turn two).
        rules: thresholds and options.

    Example:
        >>> truth = [Anomaly(AnomalyType.OBJECT, FrameRange(2, 5))]
        >>> answer = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(4, 7)),))
        >>> rule_check(answer, truth, num_frames=21, boxes=False).faults[0].code
        'time'
    """
    rules = rules or RuleConfig()
    wanted = "abnormal" if truth else "normal"
    if report.status != wanted:
        lost = tuple(AnomalyMatch(False) for _ in truth)
        return RuleVerdict(lost, (AnswerFault("status", f"the answer is {report.status}, the annotation {wanted}"),))
    matches, spare = _match(report.anomalies, truth, num_frames, boxes, rules)
    faults = [*_type_faults(report, truth), *_place_faults(matches, truth, rules)]
    if spare and rules.one_to_one and not faults:
        faults.append(AnswerFault("count", f"{spare} more anomalies than annotated"))
    return RuleVerdict(matches, tuple(faults))


def boundary_check(
    pred: FrameRange, truth: FrameRange, *, max_offset: int = 2, min_overlap: float | None = 0.85
) -> bool:
    """Point 4 of Fig. S6: both ends at most ``max_offset`` frames off, and an IoU of at least ``min_overlap``.

    Turn two has no overlap clause: ``min_overlap=None``.

    Example:
        >>> boundary_check(FrameRange(2, 8), FrameRange(2, 7)), boundary_check(FrameRange(2, 7), FrameRange(2, 6))
        (True, False)
    """
    if abs(pred.start - truth.start) > max_offset or abs(pred.end - truth.end) > max_offset:
        return False
    return min_overlap is None or temporal_iou(pred, truth) >= min_overlap


def covers_clip(window: FrameRange, num_frames: int) -> bool:
    """True if a time region is the whole clip, which turn two's teacher is told to write (Fig. S4)."""
    return window == FrameRange(0, num_frames - 1)


def _match(
    pred: Sequence[Anomaly], truth: Sequence[Anomaly], num_frames: int, boxes: bool, rules: RuleConfig
) -> tuple[tuple[AnomalyMatch, ...], int]:
    """The pairing within types that meets the most anomalies, and how many predictions are left over."""
    table = [[_compare(p, t, num_frames, boxes, rules) for p in pred] for t in truth]
    # A met anomaly outweighs every sum of overlaps.
    gain = np.array([[_gain(m) for m in row] for row in table]).reshape(len(truth), len(pred))
    matches = [AnomalyMatch(False)] * len(truth)
    used = 0
    for row, column in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        match = table[row][column]
        if match is not None:
            matches[row] = match
            used += 1
    return tuple(matches), len(pred) - used


def _gain(match: AnomalyMatch | None) -> float:
    return 0.0 if match is None else 1000.0 * match.found + 1.0 + match.temporal + (match.spatial or 0.0)


def _compare(pred: Anomaly, truth: Anomaly, num_frames: int, boxes: bool, rules: RuleConfig) -> AnomalyMatch | None:
    if pred.type != truth.type:
        return None
    whole = boxes and rules.zoom_window == "either" and covers_clip(pred.frames, num_frames)
    temporal = 1.0 if whole else temporal_iou(pred.frames, truth.frames)
    in_time = temporal > rules.temporal_iou
    if rules.boundary and not whole:
        in_time &= boundary_check(pred.frames, truth.frames, min_overlap=None if boxes else 0.85)
    spatial = mean_box_iou(pred.boxes, truth.boxes) if boxes and truth.boxes else None
    return AnomalyMatch(in_time and (spatial is None or spatial > rules.spatial_iou), temporal, spatial)


def _type_faults(report: TurnReport, truth: Sequence[Anomaly]) -> list[AnswerFault]:
    wanted = sort_types(a.type for a in truth)
    return (
        [] if report.types == wanted else [AnswerFault("types", f"types {_names(report.types)}, not {_names(wanted)}")]
    )


def _place_faults(matches: Sequence[AnomalyMatch], truth: Sequence[Anomaly], rules: RuleConfig) -> list[AnswerFault]:
    faults = []
    for match, anomaly in zip(matches, truth, strict=True):
        name = f"{anomaly.type.value}, {anomaly.frames}"
        if match.found:
            continue
        if match.spatial is not None and match.spatial <= rules.spatial_iou:
            faults.append(
                AnswerFault("space", f"{name}: spatial IoU {match.spatial:.3f} is not above {rules.spatial_iou}")
            )
        elif match.temporal > rules.temporal_iou:
            faults.append(AnswerFault("time", f"{name}: a boundary is off by more than Fig. S6 allows"))
        else:
            faults.append(
                AnswerFault("time", f"{name}: temporal IoU {match.temporal:.3f} is not above {rules.temporal_iou}")
            )
    return faults


def _names(types: Sequence[AnomalyType]) -> str:
    return ", ".join(t.value for t in types) or "none"
