"""Ticks: which there are, the boxes at them, and the way back to frames."""

import math

import numpy as np
import pytest

from reward_model.evaluation.metrics.tubes import tube_iou
from reward_model.schema import Box, FrameRange
from reward_model.tracks.codec import to_frame_boxes
from reward_model.tracks.smoothing import to_box, to_track
from reward_model.tracks.ticks import at_ticks, expand_ticks, frame_times, things, tick_frames, ticks_within
from tests.campaigns import draws

TIMES = tuple(k / 8 for k in range(41))


@pytest.mark.parametrize(
    ("start", "end", "step", "ticks"),
    [
        (0, 2, 1.0, (0, 1, 2)),
        (0.13, 1.88, 0.5, (0.5, 1.0, 1.5)),
        (1.0, 1.0, 0.25, (1.0,)),
        (0.38, 0.38, 0.25, (0.38,)),
        (0.51, 0.74, 0.25, (0.63,)),
        (1.004, 2, 1.0, (1, 2)),  # within what two decimals can tell
        (1.02, 2, 1.0, (2,)),
    ],
)
def test_ticks_of_an_interval(start, end, step, ticks):
    assert ticks_within(start, end, step) == pytest.approx(ticks, abs=1e-9)


def test_the_expansion_between_two_ticks_is_linear_in_centre_and_log_size():
    track = to_track([Box(450, 450, 550, 550), Box(500, 300, 900, 700)])
    boxes = expand_ticks([0.0, 1.0], track, [], [0.0, 0.5, 1.0, 1.5], FrameRange(0, 3))
    assert boxes[1] == Box(500, 400, 700, 600)
    assert boxes[3] == boxes[2] == Box(500, 300, 900, 700)  # held beyond the last tick
    quarter = expand_ticks([0.0, 1.0], track, [], [0.0, 0.25], FrameRange(1, 1))[1]
    width = math.exp(0.75 * math.log(100) + 0.25 * math.log(400))
    assert (quarter.xmin, quarter.xmax) == (round(550 - width / 2), round(550 + width / 2))


def test_nothing_is_interpolated_across_a_break_and_nothing_drawn_outside_the_range():
    track = to_track([Box(0, 0, 100, 100), Box(800, 800, 900, 900)])
    boxes = expand_ticks([0.0, 1.0], track, [1], TIMES, FrameRange(2, 7))
    assert sorted(boxes) == [2, 3, 4, 5, 6, 7]
    assert {boxes[k] for k in (2, 3, 4)} == {Box(0, 0, 100, 100)} and boxes[5] == Box(800, 800, 900, 900)


def through(boxes, step, frames, smoother="whittaker"):
    """Boxes of one thing at ticks, and back."""
    ticks = ticks_within(TIMES[frames.start], TIMES[frames.end], step)
    found = at_ticks(boxes, TIMES, ticks, step)
    return to_frame_boxes({t: (found[t],) if t in found else () for t in ticks}, TIMES, frames, smoother)


def circling(period_s, size=200):
    angle = [2 * math.pi * t / period_s for t in TIMES]
    size_log = math.log(size)
    rows = [np.array([500 + 250 * math.sin(a), 500 + 250 * math.cos(a), size_log, size_log]) for a in angle]
    return {k: to_box(row) for k, row in enumerate(rows)}


def score(boxes, found):
    return tube_iou(found, {k: (b,) for k, b in boxes.items()})


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25])
def test_linear_motion_survives_the_round_trip(step):
    moving = {k: to_box(np.array([200 + 12 * k, 700 - 8 * k, math.log(150), math.log(90)])) for k in range(41)}
    assert score(moving, through(moving, step, FrameRange(0, 40))) >= 0.99


def test_curved_motion_is_kept_the_better_the_shorter_the_step():
    """A circle of half the picture in five seconds."""
    found = {step: score(circling(5), through(circling(5), step, FrameRange(0, 40))) for step in (1.0, 0.5, 0.25)}
    assert found[0.25] > found[0.5] > found[1.0]
    assert found[0.5] >= 0.85


@pytest.mark.parametrize("seed", range(draws(20, 6)))
def test_back_and_forth_is_linear_interpolation_of_numpy(seed):
    """An independent reference: np.interp of each coordinate between the ticks."""
    rng = np.random.default_rng(seed)
    step = (1.0, 0.5, 0.25)[seed % 3]
    first, last = sorted(rng.choice(41, 2, replace=False).tolist())
    frames = FrameRange(first, last)
    rows = np.stack([rng.uniform(400, 600, 41), rng.uniform(400, 600, 41), np.full(41, 5.0), np.full(41, 4.0)], axis=1)
    boxes = {k: to_box(rows[k]) for k in frames.frames()}
    ticks = ticks_within(TIMES[first], TIMES[last], step)
    seconds = [TIMES[k] for k in boxes]
    written = to_track(list(boxes.values()))
    at = [to_box(np.array([np.interp(t, seconds, c) for c in written.T])) for t in ticks]
    again = to_track(at)
    expected = {k: to_box(np.array([np.interp(TIMES[k], ticks, c) for c in again.T])) for k in boxes}
    found = through(boxes, step, frames, smoother="none")
    assert all(np.abs(np.subtract(found[k][0].as_list(), expected[k].as_list())).max() <= 1 for k in boxes)


def test_things_are_told_apart_in_any_order():
    left = {k: Box(100 + 5 * k, 0, 150 + 5 * k, 50) for k in range(5)}
    right = {k: Box(700 - 5 * k, 0, 750 - 5 * k, 50) for k in range(5)}
    mixed = {k: (left[k], right[k]) if k % 2 else (right[k], left[k]) for k in range(5)}
    assert sorted(things(mixed), key=lambda t: t[0].xmin) == [left, right]
    gone = {0: (left[0], right[0]), 1: (right[1],), 2: (), 3: (left[3], right[3])}
    assert sorted(things(gone), key=lambda t: t[0].xmin) == [{0: left[0], 3: left[3]}, {k: right[k] for k in (0, 1, 3)}]


def test_a_tick_far_from_any_box_has_none():
    """A thing that is gone has boxes at the edges of its absence alone."""
    edges = {0: Box(0, 0, 100, 100), 40: Box(100, 0, 200, 100)}
    assert sorted(at_ticks(edges, TIMES, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 1.0)) == [0.0, 5.0]
    assert sorted(at_ticks({3: Box(0, 0, 100, 100)}, TIMES, [0.0, 0.5, 1.0], 0.5)) == [0.5]


@pytest.mark.parametrize(
    ("fps", "zoom", "step", "frames", "kept"),
    [
        (16, 8, 1.0, FrameRange(0, 16), (0, 8, 16)),
        (16, 8, 0.25, FrameRange(3, 9), (4, 6, 8)),
        (24, 3, 0.25, FrameRange(0, 3), (0, 1, 2, 3)),  # more ticks than frames: each frame once
        (16, 8, 0.5, FrameRange(5, 7), (6,)),
    ],
)
def test_frames_at_ticks(fps, zoom, step, frames, kept):
    times = frame_times(range(0, fps * 3, fps // zoom), fps)
    assert tick_frames(frames, times, step) == kept
