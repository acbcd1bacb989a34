"""Overlaps against golden numbers and against references that count pixels and try every pairing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_model.grounding import match_boxes, mean_box_iou, spatial_iou, temporal_iou, type_iou
from reward_model.schema import AnomalyType, Box, FrameRange
from tests.campaigns import draws

#: Other work on the machine must not fail a test: no time limits on single examples.
RELAXED = settings(max_examples=draws(100, 20), deadline=None, suppress_health_check=[HealthCheck.too_slow])


SIZE = 40  # references count pixels of the lower left corner of the grid; the formula knows no corner


@st.composite
def boxes(draw) -> Box:
    x = sorted(draw(st.lists(st.integers(0, SIZE), min_size=2, max_size=2, unique=True)))
    y = sorted(draw(st.lists(st.integers(0, SIZE), min_size=2, max_size=2, unique=True)))
    return Box(x[0], y[0], x[1], y[1])


@st.composite
def ranges(draw) -> FrameRange:
    a, b = draw(st.integers(0, 30)), draw(st.integers(0, 30))
    return FrameRange(min(a, b), max(a, b))


def pixels(box: Box) -> np.ndarray:
    picture = np.zeros((SIZE, SIZE), bool)
    picture[box.ymin : box.ymax, box.xmin : box.xmax] = True
    return picture


def test_golden_values_of_the_equations():
    assert temporal_iou(FrameRange(4, 7), FrameRange(2, 5)) == pytest.approx(1 / 3)
    assert type_iou({AnomalyType.OBJECT, AnomalyType.MOTION}, {AnomalyType.OBJECT}) == 0.5
    assert spatial_iou(Box(0, 0, 1000, 1000), Box(500, 500, 1000, 1000)) == 0.25


@RELAXED
@given(ranges(), ranges())
def test_temporal_iou_counts_frames(a, b):
    frames_a, frames_b = np.zeros(31, bool), np.zeros(31, bool)
    frames_a[a.start : a.end + 1], frames_b[b.start : b.end + 1] = True, True
    expected = (frames_a & frames_b).sum() / (frames_a | frames_b).sum()
    assert temporal_iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert temporal_iou(a.frames(), list(b.frames())) == temporal_iou(a, b) == temporal_iou(b, a)


def test_temporal_iou_reads_generators_gaps_and_nothing():
    assert temporal_iou((k for k in (1, 2, 3)), [2, 2, 9]) == 0.25
    assert temporal_iou(None, FrameRange(0, 3)) == 0.0
    assert temporal_iou([], []) == temporal_iou(None, None) == 1.0


@RELAXED
@given(boxes(), boxes())
def test_spatial_iou_counts_pixels(a, b):
    expected = (pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum()
    assert spatial_iou(a, b) == pytest.approx(expected, abs=1e-12)
    assert spatial_iou(a, b) == spatial_iou(b, a)
    assert (spatial_iou(a, b) == 1.0) == (a == b)


def test_boxes_that_touch_do_not_overlap():
    assert (
        spatial_iou(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == spatial_iou(Box(0, 0, 10, 10), Box(10, 10, 20, 20)) == 0.0
    )


@settings(RELAXED, max_examples=draws(60, 20))
@given(st.lists(boxes(), max_size=4), st.lists(boxes(), max_size=4))
def test_pairing_is_the_best_of_all(pred, truth):
    found = match_boxes(pred, truth)
    padded = [*pred, *[None] * len(truth)]
    best = max(
        (
            sum(spatial_iou(t, p) for t, p in zip(truth, choice, strict=True) if p is not None)
            for choice in itertools.permutations(padded, len(truth))
        ),
        default=0.0,
    )
    assert len(found) == len(truth) and sum(found) == pytest.approx(best, abs=1e-12)


def test_greedy_pairing_would_lose():
    truth = [Box(0, 0, 10, 10), Box(0, 0, 10, 20)]
    pred = [Box(0, 0, 10, 14), Box(0, 0, 10, 9)]
    assert match_boxes(pred, truth) == [pytest.approx(0.9), pytest.approx(0.7)]
    assert match_boxes(pred[::-1], truth) == match_boxes(pred, truth)


def test_unmatched_truth_is_zero_and_extra_predictions_are_free():
    box = Box(0, 0, 10, 10)
    assert match_boxes([], [box, box]) == [0.0, 0.0]
    assert match_boxes([box], [box, box]) in ([1.0, 0.0], [0.0, 1.0])
    assert match_boxes([box, box, Box(5, 5, 900, 900)], [box]) == [1.0]
    assert match_boxes([box], []) == []


def test_mean_box_iou_averages_true_boxes_on_the_common_frames():
    box, half = Box(0, 0, 10, 10), Box(0, 0, 10, 5)
    truth = {0: (box,), 1: (box, Box(500, 500, 510, 510)), 5: (box,)}
    assert mean_box_iou({0: (box,), 1: (half,)}, truth, frames=[0, 1, 2]) == pytest.approx((1 + 0.5 + 0) / 3)
    assert mean_box_iou({0: (box,)}, truth) == pytest.approx(1 / 4)
    assert mean_box_iou({0: (box,)}, truth, frames=[9]) == mean_box_iou({}, {}) == 0.0


@RELAXED
@given(st.sets(st.sampled_from(list(AnomalyType))), st.sets(st.sampled_from(list(AnomalyType))))
def test_type_iou_is_jaccard(a, b):
    votes = np.array([[t in a, t in b] for t in AnomalyType])
    union = votes.any(1).sum()
    assert type_iou(a, b) == pytest.approx(votes.all(1).sum() / union if union else 1.0)
