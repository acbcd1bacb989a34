"""The vocabulary: what it accepts, what it refuses, and what survives a trip through JSON and between frame grids."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_model.schema import (
    Anomaly,
    AnomalyType,
    Box,
    FrameRange,
    Turn,
    TurnReport,
    Verdict,
    VerdictScore,
    VideoAnnotation,
    sort_types,
)
from tests.campaigns import draws

#: Other work on the machine must not fail a test: no time limits on single examples.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def words(longest: int) -> st.SearchStrategy[str]:
    """Text without surrogates, which UTF-8 cannot hold; by default Hypothesis tries each character in that codec."""
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=longest)


BOX = Box(10, 20, 30, 40)


@st.composite
def some_ranges(draw, length: int = 81) -> FrameRange:
    start = draw(st.integers(0, length - 1))
    return FrameRange(start, draw(st.integers(start, length - 1)))


@st.composite
def some_boxes(draw) -> Box:
    x0, y0 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    return Box(x0, y0, draw(st.integers(x0 + 1, 1000)), draw(st.integers(y0 + 1, 1000)))


FRAME_BOXES = st.lists(some_boxes(), min_size=1, max_size=2).map(tuple)


@st.composite
def some_anomalies(draw, length: int = 81) -> Anomaly:
    boxes = st.dictionaries(st.integers(0, length - 1), FRAME_BOXES, max_size=3)
    return Anomaly(
        type=draw(st.sampled_from(list(AnomalyType))),
        frames=draw(some_ranges(length)),
        boxes=draw(boxes),
        objects=tuple(draw(st.lists(words(5), max_size=2))),
        reason=draw(words(10)),
        region=draw(words(10)),
        salient=draw(st.sampled_from([None, True, False])),
    )


# --- types -----------------------------------------------------------------------------------------------------------


def test_types_have_the_papers_names_and_order():
    names = ["Object Distortion", "Human Distortion", "Motion Anomalies", "Physical Violations", "Character Anomalies"]
    assert [t.value for t in AnomalyType] == names and [t.rank for t in AnomalyType] == [0, 1, 2, 3, 4]
    assert [t.single_frame for t in AnomalyType] == [True, True, False, False, True]
    assert sort_types([AnomalyType.CHARACTER, AnomalyType.OBJECT, AnomalyType.CHARACTER]) == (
        AnomalyType.OBJECT,
        AnomalyType.CHARACTER,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Object Distortion", AnomalyType.OBJECT),
        ("object", AnomalyType.OBJECT),
        ("person inconsistency", AnomalyType.HUMAN),
        ("HUMAN_DISTORTIONS", AnomalyType.HUMAN),
        ("motion-anomaly", AnomalyType.MOTION),
        ("physics_violation", AnomalyType.PHYSICAL),
        ("  Text   Anomaly ", AnomalyType.CHARACTER),
    ],
)
def test_free_spellings_mean_a_type(name, expected):
    assert AnomalyType.parse(name) is expected


@pytest.mark.parametrize("name", ["", "distortion", "anomaly", "object human", "normal", "objectdistortion", "none"])
def test_other_names_are_refused_with_the_list_of_types(name):
    with pytest.raises(ValueError, match="Character Anomalies"):
        AnomalyType.parse(name)


def test_every_canonical_name_reads_back():
    assert all(AnomalyType.parse(t.value) is t and AnomalyType.parse(t.value.upper()) is t for t in AnomalyType)


# --- ranges and boxes ------------------------------------------------------------------------------------------------


@RELAXED
@given(some_ranges())
def test_ranges_hold_both_ends(frames):
    inside = [k for k in range(100) if k in frames]
    assert inside == list(frames.frames()) and len(frames) == len(inside) and inside[-1] == frames.end
    assert str(frames) == f"Frame {frames.start}-{frames.end}"


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3)])
def test_backward_and_negative_ranges_are_refused(start, end):
    with pytest.raises(ValueError, match="0 <= start <= end"):
        FrameRange(start, end)


@pytest.mark.parametrize("corners", [(0, 0, 0, 5), (5, 0, 4, 5), (0, 0, 1001, 5), (-1, 0, 3, 5), (0, 7, 5, 7)])
def test_empty_swapped_and_outside_boxes_are_refused(corners):
    with pytest.raises(ValueError, match="xmin < xmax"):
        Box(*corners)


@settings(RELAXED, max_examples=draws(100, 20))
@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_grid_boxes_enclose_their_pixels_and_never_by_more_than_a_step(width, height, data):
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    box = Box.from_pixels(x0, y0, x1, y1, width, height)
    left, top, right, bottom = box.to_pixels(width, height)
    slack = 1e-9
    assert left <= x0 + slack and top <= y0 + slack and right >= x1 - slack and bottom >= y1 - slack
    assert max(x0 - left, right - x1) <= width / 1000 + slack and max(y0 - top, bottom - y1) <= height / 1000 + slack


def test_boxes_outside_the_picture_are_clipped_and_stay_boxes():
    assert Box.from_pixels(-5, -5, 500, 500, 100, 100) == Box(0, 0, 1000, 1000)
    assert Box.from_pixels(100, 100, 100, 100, 100, 100) == Box(999, 999, 1000, 1000)


# --- annotations -----------------------------------------------------------------------------------------------------


def annotation(*anomalies: Anomaly, **changes) -> VideoAnnotation:
    return VideoAnnotation(
        **{"video_id": "v", "num_frames": 81, "fps": 16.0, "width": 32, "height": 24, "anomalies": anomalies, **changes}
    )


@settings(RELAXED, max_examples=draws(60, 8))
@given(st.lists(some_anomalies(), max_size=3))
def test_annotations_survive_json(anomalies):
    truth = annotation(*anomalies, prompt="a ball", source="world")
    assert VideoAnnotation.from_dict(json.loads(json.dumps(truth.to_dict()))) == truth
    assert truth.status == ("abnormal" if anomalies else "normal")


@pytest.mark.parametrize(
    "make",
    [
        lambda: annotation(num_frames=0),
        lambda: annotation(fps=0),
        lambda: annotation(fps=math.nan),
        lambda: annotation(Anomaly(AnomalyType.MOTION, FrameRange(80, 81))),
        lambda: annotation(Anomaly(AnomalyType.MOTION, FrameRange(0, 1), {81: (BOX,)})),
        lambda: VideoAnnotation.from_dict({**annotation().to_dict(), "status": "abnormal"}),
    ],
)
def test_annotations_that_contradict_themselves_are_refused(make):
    with pytest.raises(ValueError, match="v: "):
        make()


# --- from native frames to a sampled grid ----------------------------------------------------------------------------

GRID = list(range(0, 81, 4))


@settings(RELAXED, max_examples=draws(100, 15))
@given(some_anomalies(), st.integers(1, 9))
def test_a_window_on_a_grid_is_the_sampled_frames_inside_it(anomaly, stride):
    grid = list(range(0, 81, stride))
    moved = anomaly.on_grid(grid)
    inside = [k for k, n in enumerate(grid) if n in anomaly.frames]
    if inside:
        assert list(moved.frames.frames()) == inside
    elif moved is not None:
        distance = [abs(n - (anomaly.frames.start + anomaly.frames.end) / 2) for n in grid]
        assert len(moved.frames) == 1 and distance[moved.frames.start] == min(distance)
    if moved is not None:
        assert set(moved.boxes) <= set(moved.frames.frames())
        assert set(moved.boxes.values()) <= set(anomaly.boxes.values())
        assert (moved.type, moved.reason) == (anomaly.type, anomaly.reason)


def test_every_frame_of_its_own_grid_keeps_its_box():
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(4, 12), {n: (Box(n, n, n + 1, n + 1),) for n in range(4, 13)})
    assert anomaly.on_grid(GRID).boxes == {1: (Box(4, 4, 5, 5),), 2: (Box(8, 8, 9, 9),), 3: (Box(12, 12, 13, 13),)}
    assert anomaly.on_grid(range(81)) == anomaly


def test_windows_outside_the_clip_are_gone():
    anomaly = Anomaly(AnomalyType.MOTION, FrameRange(10, 12))
    assert anomaly.on_grid([20, 24]) is None and anomaly.on_grid([0, 4]) is None and anomaly.on_grid([]) is None


def test_an_annotation_keeps_what_a_grid_touches():
    near, far = Anomaly(AnomalyType.MOTION, FrameRange(5, 6)), Anomaly(AnomalyType.OBJECT, FrameRange(40, 44))
    truth = VideoAnnotation("v", 81, 16, 64, 64, anomalies=(near, far))
    assert truth.on_grid(GRID) == tuple(m for m in (near.on_grid(GRID), far.on_grid(GRID)) if m is not None)
    assert [a.type for a in truth.on_grid(range(38, 50))] == [AnomalyType.OBJECT] and truth.on_grid([]) == ()


def test_windows_between_two_samples_move_to_the_nearest():
    assert Anomaly(AnomalyType.MOTION, FrameRange(5, 6)).on_grid(GRID).frames == FrameRange(1, 1)
    assert Anomaly(AnomalyType.MOTION, FrameRange(7, 7)).on_grid(GRID).frames == FrameRange(2, 2)


def test_boxes_of_the_last_visible_frame_move_into_the_window():
    """A thing that vanishes has its box just before the window; the grid must not lose it."""
    anomaly = Anomaly(AnomalyType.MOTION, FrameRange(8, 19), {7: (BOX,), 20: (Box(0, 0, 1, 1),)})
    moved = anomaly.on_grid(GRID)
    assert moved.frames == FrameRange(2, 4) and moved.boxes[2] == (BOX,) and moved.boxes[4] == (Box(0, 0, 1, 1),)


# --- reports, scores, verdicts ---------------------------------------------------------------------------------------


def test_status_and_anomalies_must_agree():
    anomaly = Anomaly(AnomalyType.MOTION, FrameRange(3, 5))
    for status, anomalies in (("normal", (anomaly,)), ("abnormal", ())):
        with pytest.raises(ValueError, match="contradicts"):
            TurnReport(status, anomalies=anomalies)


def test_window_of_a_report_is_the_hull_of_its_ranges():
    a, b = Anomaly(AnomalyType.MOTION, FrameRange(3, 5)), Anomaly(AnomalyType.OBJECT, FrameRange(9, 9))
    assert TurnReport("abnormal", anomalies=(b, a)).window == FrameRange(3, 9)
    assert TurnReport("abnormal", anomalies=(b, a)).types == (AnomalyType.OBJECT, AnomalyType.MOTION)
    assert TurnReport("normal").window is None


@pytest.mark.parametrize(
    ("normal", "abnormal", "expected"),
    [
        (-1, -2, 0.7311),
        (-0.1, -3, 0.9478),
        (-2, -1, 0.2689),
        (0, 0, 0.5),
        (0, -2000, 1.0),
        (-2000, 0, 0.0),
        (0, -math.inf, 1.0),
    ],
)
def test_probability_is_equation_seven_without_overflow(normal, abnormal, expected):
    score = VerdictScore(normal, abnormal)
    assert score.p_normal == pytest.approx(expected, abs=5e-5) and score.log_odds == normal - abnormal


@settings(RELAXED, max_examples=draws(100, 20))
@given(st.floats(-700, 0), st.floats(-700, 0))
def test_probabilities_of_both_words_add_to_one(a, b):
    assert VerdictScore(a, b).p_normal + VerdictScore(b, a).p_normal == pytest.approx(1, abs=1e-12)


def test_verdicts_survive_json_and_pickle():
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(4, 7), {4: (BOX, BOX)}, reason="squashed")
    score = VerdictScore(-0.1 - 0.2, -1e-300, forced=True, bounded=True)
    turn = Turn(
        1,
        (0, 4, 8),
        4.0,
        "text",
        "abnormal",
        TurnReport("abnormal", "cot", (anomaly,)),
        None,
        None,
        score,
        None,
        7,
        0.25,
    )
    failed = Turn(2, (4, 6), 8.0, "", error="server down")
    verdict = Verdict(
        "abnormal", 0.25, (turn, failed), FrameRange(4, 8), (anomaly,), "paper", -1.5, True, None, 81, 16.0, {"seed": 3}
    )
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert verdict.window_s == (0.25, 9 / 16) and verdict.types == (AnomalyType.OBJECT,)
    silent = Verdict(None, None, error="no frames")
    assert Verdict.from_dict(json.loads(json.dumps(silent.to_dict()))) == silent and silent.window_s is None
