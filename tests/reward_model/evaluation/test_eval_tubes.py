"""vIoU against pixel counting and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_model.evaluation.metrics.tubes import rollout_tube_iou, tube_iou
from reward_model.evaluation.running.row import rollout_of
from reward_model.grounding import union_area, union_iou
from reward_model.rewards import Rollout, spatial_reward, total_reward
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Turn, TurnReport, Verdict, VideoAnnotation
from tests.campaigns import draws


@st.composite
def boxes(draw):
    found = []
    for _ in range(draw(st.integers(1, 3))):
        x, y = draw(st.integers(0, 20)), draw(st.integers(0, 20))
        found.append(Box(x, y, x + draw(st.integers(1, 9)), y + draw(st.integers(1, 9))))
    return found


def picture(found):
    mask = np.zeros((40, 40), bool)
    for b in found:
        mask[b.ymin : b.ymax, b.xmin : b.xmax] = True
    return mask


@settings(deadline=None, max_examples=draws(60, 20))
@given(boxes(), boxes())
def test_union_iou_counts_pixels(a, b):
    p, q = picture(a), picture(b)
    assert union_iou(a, b) == pytest.approx((p & q).sum() / (p | q).sum())
    assert union_area(a) == p.sum()


def test_tubes_by_hand():
    whole, half = [Box(0, 0, 10, 10)], [Box(0, 0, 10, 5)]
    assert tube_iou({1: whole, 2: whole}, {1: whole, 2: whole}) == 1.0
    assert tube_iou({1: whole, 2: half, 3: whole}, {2: whole, 3: whole, 4: whole}) == pytest.approx((0.5 + 1) / 4)
    assert tube_iou({1: whole}, {2: whole}) == tube_iou({}, {2: whole}) == tube_iou({2: []}, {2: whole}) == 0.0
    assert tube_iou({}, {}) == 1.0


def anomaly(start, end, box):
    frames = FrameRange(start, end)
    return Anomaly(AnomalyType.OBJECT, frames, dict.fromkeys(frames.frames(), (box,)))


def test_a_wrong_window_hides_from_equation_five_but_not_from_the_tube():
    box = Box(100, 100, 300, 300)
    truth = VideoAnnotation("v", 81, 16, 48, 48, anomalies=(anomaly(20, 59, box),))
    clip = tuple(range(40, 72, 2))
    seen = anomaly(0, 15, box)  # everywhere in a clip that reaches too far
    scan = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(10, 17)),))
    rollout = Rollout(scan, TurnReport("abnormal", "", (seen,)), True, range(0, 81, 4), clip)
    assert spatial_reward(rollout, truth) == 1.0
    # On the 8-fps grid the truth holds 20-58 (20 frames), the clip 40-70 (16 frames), 10 of them common.
    assert rollout_tube_iou(rollout, truth) == pytest.approx(10 / 26)
    assert rollout_tube_iou(Rollout(None, None, False, ()), truth) == 0.0


def test_clips_of_windows_far_apart_are_measured_as_one():
    """Two windows with a clip each, both right; the third anomaly between them was not shown, and counts."""
    box = Box(100, 100, 300, 300)
    truth = VideoAnnotation("v", 81, 16, 48, 48, anomalies=(anomaly(4, 8, box), anomaly(72, 76, box)))
    scan = TurnReport("abnormal", "", tuple(Anomaly(AnomalyType.OBJECT, FrameRange(*r)) for r in ((1, 2), (18, 19))))
    seen = TurnReport("abnormal", "", (anomaly(0, 2, box),))
    turns = (
        Turn(1, tuple(range(0, 81, 4)), 4, "", "abnormal", scan),
        Turn(2, (72, 74, 76), 8, "", "abnormal", seen),
        Turn(2, (4, 6, 8), 8, "", "abnormal", seen),
    )
    verdict = Verdict("abnormal", 0.0, turns, num_frames=81, fps=16)
    rollout = rollout_of(verdict)
    assert rollout.clip_indices == (4, 6, 8, 72, 74, 76)
    assert (spatial_reward(rollout, truth), rollout_tube_iou(rollout, truth)) == (1.0, 1.0)
    third = replace(truth, anomalies=(*truth.anomalies, anomaly(40, 44, box)))
    assert rollout_tube_iou(rollout, third) == pytest.approx(6 / 9)
    assert total_reward(rollout, truth).total == 9
