"""Stage 1 from verified clips: one frame's paragraph, verdict and boxes, and nothing a single frame cannot show."""

from __future__ import annotations

import pytest

from reward_model.data.synthesis import single_frame_cot
from reward_model.parsing import format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport

HAND = Anomaly(
    AnomalyType.HUMAN,
    FrameRange(1, 3),
    {1: (Box(10, 20, 30, 40),), 2: (Box(11, 21, 31, 41), Box(50, 50, 60, 60))},
    reason="the hand has six fingers",
    region="left",
)
JUMP = Anomaly(AnomalyType.MOTION, FrameRange(2, 3), {2: (Box(0, 0, 9, 9),)}, reason="the cup jumps")

PAPER = """Step 1, frame by frame.
Frame 0: A man sits. All is well here.

**Frame 1:** A man waves. His hand has six fingers, unlike in Frame 0. Warm light.

Frame 2: Two hands, six fingers each. The cup is higher than in the previous frame.
Frame 3: Nothing else.

Step 2, over time. Frame 1: differs. The hand keeps its sixth finger.

Step 3, verdict.
1. Object Distortion: no anomaly.
2. Human Distortion: six fingers on one hand. It starts in Frame 1.
3. Motion Anomalies: the cup jumps.
4. Physical Violations: no anomaly
5. Character Anomalies: no anomaly"""


def clip(*anomalies, cot=PAPER):
    return format_report(TurnReport("abnormal" if anomalies else "normal", cot, anomalies))


def alone(answer, frame):
    text = single_frame_cot(answer, frame)
    return None if text is None else parse_turn(text, turn=2, num_frames=1)


def test_a_frame_with_an_anomaly():
    report = alone(clip(HAND), 1)
    assert report.cot == (
        "Frame 0: A man waves. Warm light. Object Distortion: no anomaly. "
        "Human Distortion: six fingers on one hand. Character Anomalies: no anomaly."
    )
    [found] = report.anomalies
    assert (found.type, found.frames, found.boxes) == (
        AnomalyType.HUMAN,
        FrameRange(0, 0),
        {0: (Box(10, 20, 30, 40),)},
    )
    assert found.reason == HAND.reason


def test_all_boxes_of_the_frame_are_kept():
    assert alone(clip(HAND), 2).anomalies[0].boxes == {0: HAND.boxes[2]}


def test_a_frame_before_the_anomaly_is_normal():
    report = alone(clip(HAND), 0)
    assert (report.status, report.anomalies) == ("normal", ())
    assert report.cot.startswith("Frame 0: A man sits. All is well here. Object Distortion: no anomaly. Human Dis")
    assert "six fingers" not in report.cot


def test_motion_and_physical_anomalies_are_no_targets():
    assert alone(clip(JUMP), 2) is None
    assert alone(clip(HAND, JUMP), 2) is None
    assert alone(clip(HAND, JUMP), 1) is not None
    assert alone(clip(JUMP), 1).status == "normal"


def test_an_anomaly_without_a_box_on_the_frame_is_no_target():
    assert alone(clip(HAND), 3) is None


def test_a_frame_of_which_only_comparisons_are_said_is_no_target():
    cot = "Frame 0: The same as in the next frame.\nFrame 1: All is well."
    assert alone(clip(cot=cot), 0) is None
    assert alone(clip(cot=cot), 1).status == "normal"


def test_reasoning_on_one_line():
    cot = "Frame 0: normal. Frame 1: a hand too many. The hand has six fingers."
    hand = Anomaly(AnomalyType.HUMAN, FrameRange(1, 1), {1: (Box(0, 0, 9, 9),)}, reason="the hand has six fingers")
    assert alone(clip(hand, cot=cot), 1).cot.startswith(
        "Frame 0: a hand too many. Object Distortion: no anomaly. Human Distortion: the hand has six fingers. Char"
    )
    assert alone(clip(cot="Frame 0: normal. No anomaly."), 0).cot.startswith("Frame 0: normal. Object")


def test_a_frame_outside_the_clip_is_an_error():
    with pytest.raises(ValueError, match="frame 4 is outside the clip of 4 frames"):
        single_frame_cot(clip(HAND), 4)
    with pytest.raises(ValueError, match="no complete JSON"):
        single_frame_cot("{", 0)
