"""What an answer is held to: type, time, space, form, and the reviewer's word."""

from __future__ import annotations

import pytest

from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.form_check import LEAK_PHRASES, find_leak, frame_fault
from reward_model.data.synthesis.judge_check import review_word
from reward_model.data.synthesis.rule_check import boundary_check, rule_check
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport

OBJECT, HUMAN, MOTION = AnomalyType.OBJECT, AnomalyType.HUMAN, AnomalyType.MOTION
BIG, HALF, LESS = Box(0, 0, 100, 100), Box(0, 0, 100, 50), Box(0, 0, 100, 51)


def thing(kind=OBJECT, start=2, end=5, box=None):
    boxes = {} if box is None else dict.fromkeys(range(start, end + 1), (box,))
    return Anomaly(kind, FrameRange(start, end), boxes, reason="bent")


def check(pred, truth, *, boxes=False, **rules):
    report = TurnReport("abnormal" if pred else "normal", "", tuple(pred))
    return rule_check(report, truth, num_frames=21, boxes=boxes, rules=RuleConfig(**rules))


def codes(verdict):
    return [f.code for f in verdict.faults]


def test_the_truth_itself_passes():
    truth = [thing(box=BIG), thing(HUMAN, 8, 9, box=BIG)]
    verdict = check(truth, truth, boxes=True)
    assert verdict.passed
    assert [m.found for m in verdict.matches] == [True, True]
    assert check([], []).passed


def test_the_judgment_comes_first():
    assert codes(check([], [thing()])) == ["status"]
    verdict = check([thing()], [])
    assert codes(verdict) == ["status"]
    assert verdict.matches == ()


def test_types_must_be_the_same_set():
    assert codes(check([thing(HUMAN)], [thing()]))[0] == "types"
    both = check([thing(), thing(HUMAN)], [thing()])
    assert codes(both) == ["types"]
    assert both.matches[0].found  # the anomaly itself was met


@pytest.mark.parametrize(
    ("start", "end", "passes"),
    [(2, 5, True), (4, 7, False), (2, 3, False), (2, 4, True), (2, 9, False), (2, 8, True)],
)  # truth 2-5: IoU 1, .33, exactly .5, .75, exactly .5, .57
def test_time_must_lie_above_the_threshold(start, end, passes):
    verdict = check([thing(start=start, end=end)], [thing()])
    assert verdict.passed is passes
    assert codes(verdict) == ([] if passes else ["time"])


@pytest.mark.parametrize(("box", "passes"), [(BIG, True), (HALF, False), (LESS, True)])
def test_space_must_lie_above_the_threshold_where_the_turn_has_boxes(box, passes):
    assert check([thing(box=box)], [thing(box=BIG)], boxes=True).passed is passes
    assert check([thing(box=box)], [thing(box=BIG)], boxes=False).passed
    assert check([thing(box=box)], [thing()], boxes=True).passed  # nothing annotated to compare with


def test_a_frame_with_a_true_box_and_no_predicted_one_counts_as_missed():
    pred = Anomaly(OBJECT, FrameRange(2, 5), {2: (BIG,), 3: (BIG,)})
    assert codes(check([pred], [thing(box=BIG)], boxes=True)) == ["space"]


def test_two_anomalies_of_one_type_are_paired_so_that_most_are_met():
    truth = [thing(start=0, end=3), thing(start=2, end=9)]
    verdict = check([thing(start=2, end=8), thing(start=0, end=2)], truth)
    assert verdict.passed
    assert [round(m.temporal, 3) for m in verdict.matches] == [0.75, 0.875]
    one = check([thing(start=2, end=9)], truth)
    assert [m.found for m in one.matches] == [False, True]
    assert codes(one) == ["time"]


def test_more_anomalies_than_annotated_are_a_fault_of_their_own():
    pred = [thing(), thing(start=10, end=12)]
    assert codes(check(pred, [thing()])) == ["count"]
    assert check(pred, [thing()], one_to_one=False).passed


def test_a_clip_may_be_named_as_a_whole_only_where_that_is_asked_for():
    whole, truth = [thing(start=0, end=20, box=BIG)], [thing(start=2, end=5, box=BIG)]
    assert codes(check(whole, truth, boxes=True)) == ["time"], "B.2: above 0.5"
    assert check(whole, truth, boxes=True, zoom_window="either").passed
    assert codes(check(whole, truth, boxes=False, zoom_window="either")) == ["time"]  # never in the scan


@pytest.mark.parametrize(("length", "longer", "shorter", "shifted"), [
    (5, False, False, False), (6, True, False, False), (7, True, True, False), (12, True, True, False),
    (13, True, True, True),
])  # fmt: skip
def test_the_reviewers_overlap_clause(length, longer, shorter, shifted):
    """85 %: one frame too long passes from 6 true frames on, one too short from 7, shifted by one from 13."""
    truth = FrameRange(3, 3 + length - 1)
    assert boundary_check(FrameRange(3, truth.end + 1), truth) is longer
    assert boundary_check(FrameRange(3, truth.end - 1), truth) is shorter
    assert boundary_check(FrameRange(4, truth.end + 1), truth) is shifted


def test_the_reviewers_offsets():
    truth = FrameRange(10, 60)
    assert boundary_check(FrameRange(12, 62), truth)
    assert not boundary_check(FrameRange(13, 60), truth)
    assert not boundary_check(FrameRange(10, 63), truth)
    short = FrameRange(4, 5)
    assert not boundary_check(FrameRange(2, 7), short)
    assert boundary_check(FrameRange(2, 7), short, min_overlap=None)


def test_the_boundary_rule_applies_only_when_asked_for():
    pred, truth = [thing(start=2, end=4)], [thing()]
    assert check(pred, truth).passed
    strict = check(pred, truth, boundary=True)
    assert codes(strict) == ["time"]
    assert "Fig. S6" in strict.faults[0].detail


@pytest.mark.parametrize(
    "text",
    [
        "As told, the hand is wrong.",
        "The hint says so.",
        "according to the annotation it melts",
        "This agrees with the ground-truth.",
        "refined from the reference coordinates",
        "I was told to look here",
        "as instructed, I look at the hand",
        "seen in the enlarged picture",
        "people have judged it normal",
    ],
)
def test_words_of_the_hint_are_found(text):
    assert find_leak(TurnReport("normal", f"Frame 0: fine. {text}"))
    report = TurnReport("abnormal", "", (Anomaly(OBJECT, FrameRange(0, 0), reason=text),))
    assert find_leak(report)


@pytest.mark.parametrize(
    "text",
    [
        "A hint of blue on the wall, hints of red on the floor.",
        "The people have their hands up; a whinting horse.",
        "As described in the prompt, a ball rolls.",
        "The chintz is given to the man.",
    ],
)
def test_descriptions_are_not_taken_for_hints(text):
    assert find_leak(TurnReport("normal", text)) is None
    assert LEAK_PHRASES


@pytest.mark.parametrize(
    ("cot", "fault"),
    [
        ("Frame 0: a. Frame 1: b. Frame 2: c.", None),
        ("Step 1:\nFrame 0: a\n\n**Frame 1:** b\n- Frame 2: c\nStep 2\nFrame 1: moves on. Frame 0-2: same.", None),
        ("Frame 0: as in Frame 1: no.\nFrame 1: b\nFrame 2: c", None),  # not the opening of a paragraph
        ("Frame 0: a. Frame 2: c.", "no paragraph for frame 1"),
        ("Frame 0: a. Frame 1: b. Frame 1: b. Frame 2: c.", "more than one paragraph for frame 1"),
        ("Frame 0: a. Frames 1-2: same.", "several frames"),
        ("Frame 0 to Frame 2: same.", "several frames"),
        ("Frame 0: a. Frame 1: b. Frame 2: c. Frame 3: d.", "frame 3 of a clip of 3"),
        ("Frame 0: a. Frame 2: c. Frame 1: b.", "order"),
        ("Step 1: nothing. Step 2: Frame 0: a. Frame 1: b. Frame 2: c.", "no paragraph for frame 0, 1, 2"),
        ("", "no paragraph"),
    ],
)
def test_every_frame_has_one_paragraph(cot, fault):
    found = frame_fault(cot, 3)
    assert found is None if fault is None else fault in found


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("consistent", "consistent"),
        (" Inconsistent\n", "inconsistent"),
        ("consistent.", "unclear"),
        ("The report is consistent", "unclear"),
        ("consistent inconsistent", "unclear"),
        ("yes", "unclear"),
    ],
)
def test_the_reviewer_answers_with_one_word(answer, word):
    assert review_word(answer) == word


@pytest.mark.parametrize(
    ("kind", "values", "name"),
    [
        (RuleConfig, {"verify": "all"}, "verify"),
        (RuleConfig, {"temporal_iou": 1.0}, "temporal_iou"),
        (RuleConfig, {"salient_rounds": 4, "max_rounds": 3}, "salient_rounds"),
        (RuleConfig, {"max_rounds": 6}, "max_rounds"),
        (AskConfig, {"crop": "none"}, "crop"),
        (AskConfig, {"temperature": 0.0}, "temperature"),
        (AskConfig, {"min_zoom_frames": 9, "max_zoom_frames": 8}, "min_zoom_frames"),
        (AskConfig, {"normal_window_s": (1.0, 0.5)}, "normal_window_s"),
    ],
)
def test_settings_out_of_range_are_named(kind, values, name):
    with pytest.raises(ValueError, match=name):
        kind(**values)
