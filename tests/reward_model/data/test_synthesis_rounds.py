"""The course of one sample: which round passes, what becomes salient, what is discarded, what stays open."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reward_model.conversation import Completion
from reward_model.data.records import Record
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.rounds import call_seed, course
from reward_model.data.synthesis.tasks import plan
from reward_model.parsing import format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VideoAnnotation

ASK = AskConfig(call_attempts=3)
BOX = {n: (Box(100, 100, 300, 300),) for n in range(16, 33)}
HAND = Anomaly(AnomalyType.HUMAN, FrameRange(16, 32), BOX, reason="six fingers")
CUP = Anomaly(AnomalyType.OBJECT, FrameRange(40, 60), {n: (Box(0, 0, 500, 500),) for n in range(40, 61)}, reason="bent")


def task_of(*anomalies, turn="scan"):
    tasks = plan([Record("a.mp4", VideoAnnotation("a", 81, 16, 64, 64, anomalies=anomalies))])
    return next(t for t in tasks if t.turn == turn)


def answer(task, *anomalies, cot=None):
    cot = cot if cot is not None else "\n".join(f"Frame {k}: seen." for k in range(len(task.indices)))
    report = TurnReport("abnormal" if anomalies else "normal", cot, anomalies)
    return Completion(format_report(report, boxes=task.turn == "zoom"))


def play(task, answers, *, words=(), **rules):
    """Runs a course; ``answers`` and ``words`` are taken in the order they are asked for. Returns outcome and calls."""
    left = {"teacher": list(answers), "judge": [Completion(w) if isinstance(w, str) else w for w in words]}
    calls = []
    running = course(task, lambda: (), ASK, RuleConfig(**{"verify": "rule", **rules}))
    try:
        call = next(running)
        while True:
            calls.append(call)
            call = running.send(left[call.id.kind].pop(0))
    except StopIteration as end:
        return end.value, calls


SCAN = task_of(HAND)
GOOD, BAD = answer(SCAN, *SCAN.truth), answer(SCAN)


@pytest.mark.parametrize(
    ("wrong", "decision"), [(0, "salient"), (2, "salient"), (3, "non-salient"), (4, "non-salient"), (5, "discarded")]
)
def test_the_round_decides_the_saliency(wrong, decision):
    outcome, calls = play(SCAN, [*[BAD] * wrong, GOOD])
    assert outcome.decision == decision
    assert len(calls) == min(wrong + 1, 5)
    assert [r.number for r in outcome.rounds] == list(range(1, len(calls) + 1))
    assert outcome.first_match == ({} if wrong == 5 else {0: wrong + 1})
    assert (outcome.answer is None) == (wrong == 5)
    if wrong == 5:
        assert "met: Human Distortion, Frame 4-8" in outcome.reason


def test_the_kept_answer_is_canonical():
    loose = Completion("```json\n" + GOOD.text.replace('"Frame 4-8"', '"4 to 8"') + "\n```")
    outcome, _ = play(SCAN, [loose])
    assert outcome.answer == GOOD.text
    parse_turn(outcome.answer, turn=1, num_frames=21)


def test_every_round_and_every_cut_answer_has_a_seed_of_its_own():
    _, calls = play(SCAN, [BAD, replace(GOOD, finished=False), BAD, BAD, BAD, BAD])
    assert [(c.id.round, c.id.attempt) for c in calls] == [(1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (5, 0)]
    assert len({c.sampling.seed for c in calls}) == len(calls)
    assert calls[0].sampling.seed == call_seed(ASK.seed, 1, 0)
    assert {c.sampling.temperature for c in calls} == {ASK.temperature}


def test_each_anomaly_has_its_first_matching_round_and_all_must_be_in_the_answer_that_is_kept():
    task = task_of(HAND, CUP)
    hand, cup = task.truth
    outcome, _ = play(task, [answer(task, hand), answer(task, cup), BAD, answer(task, hand, cup)])
    assert outcome.first_match == {0: 1, 1: 2}
    assert outcome.decision == "non-salient"
    never, _ = play(task, [answer(task, hand), answer(task, cup)] * 3)
    assert never.decision == "discarded"
    assert never.reason == "no round of 5 passed as a whole"


def test_failed_calls_are_no_rounds_and_leave_the_sample_open():
    gone = Completion("", finished=False, error="server down")
    outcome, calls = play(SCAN, [gone, gone, GOOD])
    assert (outcome.decision, outcome.rounds[0].number, len(calls)) == ("salient", 1, 3)
    assert {c.id.attempt for c in calls} == {0}
    outcome, calls = play(SCAN, [BAD, gone, gone, gone, GOOD])
    assert (outcome.decision, len(outcome.rounds), len(calls)) == ("open", 1, 4)
    assert outcome.reason == "round 2: server down"


def test_an_answer_is_a_cut_one_only_when_every_attempt_was_cut():
    cut = replace(GOOD, finished=False)
    outcome, calls = play(SCAN, [cut, cut, GOOD])
    assert (outcome.decision, outcome.rounds[0].faults) == ("salient", ())
    outcome, calls = play(SCAN, [cut, cut, cut, GOOD])
    assert outcome.rounds[0].faults[0].code == "cut"
    assert outcome.rounds[-1].number == 2
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda t: t[:-1], "parse"),
        (lambda t: t.replace("seen.", "seen, as told.", 1), "leak"),
        (lambda t: t.replace("Frame 3: seen.", ""), "frames"),
    ],
)
def test_form_is_checked_before_anything_is_credited(spoil, code):
    outcome, _ = play(SCAN, [Completion(spoil(GOOD.text))] * 5)
    assert outcome.decision == "discarded"
    assert {f.code for r in outcome.rounds for f in r.faults} == {code}
    assert outcome.first_match == {}


def test_the_frame_check_can_be_left_out():
    bare = answer(SCAN, *SCAN.truth, cot="Something is wrong.")
    assert play(SCAN, [bare] * 5)[0].decision == "discarded"
    assert play(SCAN, [bare], check_frames=False)[0].decision == "salient"


def test_the_reviewer_is_asked_only_about_what_passed_the_rule():
    outcome, calls = play(SCAN, [BAD, GOOD, GOOD], words=["inconsistent", "consistent"], verify="both")
    assert [c.id.kind for c in calls] == ["teacher", "teacher", "judge", "teacher", "judge"]
    assert [[f.code for f in r.faults] for r in outcome.rounds] == [["status"], ["review_inconsistent"], []]
    assert outcome.first_match == {0: 3}


def test_an_unclear_reviewer_is_a_failed_check():
    outcome, _ = play(SCAN, [GOOD] * 5, words=["Consistent, mostly"] * 5, verify="both")
    assert outcome.decision == "discarded"
    assert [r.faults[0].code for r in outcome.rounds] == ["review_unclear"] * 5


def test_a_reviewer_that_does_not_answer_leaves_the_sample_open():
    gone = Completion("", error="down")
    assert play(SCAN, [GOOD], words=[gone, gone, "consistent"], verify="both")[0].decision == "salient"
    assert play(SCAN, [GOOD], words=[gone, gone, gone], verify="both")[0].decision == "open"


def test_the_reviewer_alone_decides_all_but_the_judgment():
    elsewhere = replace(SCAN.truth[0], frames=FrameRange(0, 1))
    outcome, calls = play(SCAN, [BAD, answer(SCAN, elsewhere)], words=["consistent"], verify="judge")
    assert (outcome.decision, outcome.first_match, len(calls)) == ("salient", {0: 2}, 3)


def test_the_reviewer_sees_report_and_truth():
    _, calls = play(SCAN, [GOOD], words=["consistent"], verify="both")
    text = calls[1].build()[0].content[0]
    assert "six fingers" in text and "Human Distortion, Frame 4-8" in text and GOOD.text in text
    assert f"Segment ID: {SCAN.key}\nVideo ID: a\n" in text
    assert "85 %" in text
    zoom = task_of(HAND, turn="zoom")
    _, calls = play(zoom, [answer(zoom, *zoom.truth)], words=["consistent"], verify="both")
    assert "85 %" not in calls[1].build()[0].content[0]


def test_normal_samples_are_verified_by_their_status_alone():
    task = task_of()
    outcome, calls = play(task, [answer(task)], verify="both")
    assert (outcome.decision, len(calls)) == ("salient", 1)
    late, _ = play(task, [Completion("{")] * 4 + [answer(task)], verify="both")
    assert (late.decision, late.rounds[-1].number) == ("salient", 5)


def test_an_anomaly_in_a_normal_video_discards_it_at_once():
    task = task_of()
    seen = Anomaly(AnomalyType.OBJECT, FrameRange(0, 3), reason="bent")
    outcome, calls = play(task, [answer(task, seen), answer(task)], verify="both")
    assert (outcome.decision, len(calls)) == ("discarded", 1)
    assert "annotated as normal" in outcome.reason
