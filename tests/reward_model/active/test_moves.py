"""What a judge writes in an episode: operators round trip, answers are read as turn two's, the rest is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reward_model.active.moves import Hypothesis, hypothesis_report, read_move, write_look
from reward_model.active.operators import FACTORS, WIDTHS, Backtrack, Expand, Zoom
from reward_model.config import JudgeConfig
from reward_model.parsing import format_report
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.video.framing import Framing

INDICES = tuple(range(0, 81, 8))
CONFIG = JudgeConfig()
LOOKS = [Backtrack(3.0, 0.5), Expand(1.0, 0.0), Zoom(2.0, 3.5, 4)]
HELD = Hypothesis("abnormal", 70, (AnomalyType.OBJECT, AnomalyType.MOTION), (2.0, 3.0))


def read(text, **options):
    return read_move(text, INDICES, 16.0, CONFIG, **options)


@pytest.mark.parametrize("operator", LOOKS)
@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("held", [Hypothesis(), HELD])
def test_an_operator_is_read_as_it_was_written(operator, frames, held):
    text = write_look(operator, 'a "quoted" thought', held, indices=INDICES, fps=16.0, frames=frames)
    move = read(text, num_tokens=7)
    assert (move.operator, move.hypothesis, move.think) == (operator, held, 'a "quoted" thought')
    assert move.error is None and move.answer is None and move.status is None and move.num_tokens == 7


def test_any_operator_in_seconds_survives_being_written():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = sorted(np.round(rng.uniform(0, 5, 2), 3).tolist())
        for operator in (Backtrack(a, float(rng.choice(WIDTHS))), Expand(a, b), Zoom(a, b, int(rng.choice(FACTORS)))):
            assert read(write_look(operator)).operator == operator


def test_frames_of_the_view_stand_for_their_moments():
    assert read('{"hyp": {"status": "normal"}, "act": {"op": "zoom", "frames": "Frame 4-6", "k": 2}}').operator == (
        Zoom(2.0, 3.0, 2)
    )
    assert read('{"hyp": {"status": "normal"}, "act": {"op": "zoom", "frames": "3", "k": 8}}').operator == Zoom(
        1.5, 1.5, 8
    )
    text = '```json\n{"hyp": {"status": "normal"}, "act": {"op": "backtrack", "frame": 6, "w": 1}}\n```'
    assert read(text).operator == Backtrack(3.0, 1)


def test_an_answer_is_turn_two_s():
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(2, 3), {2: (Box(0, 300, 500, 600),)}, reason="bent")
    text = format_report(TurnReport("abnormal", "Bent.", (anomaly,)))
    framing = Framing((90, 160), 48, "pad")
    move = read_move(text, INDICES, 16.0, CONFIG, framing)
    assert move.operator is None and move.error is None and move.status == "abnormal"
    assert move.answer.report.anomalies[0].boxes[2] == (framing.to_native(Box(0, 300, 500, 600)),)
    outside = text.replace("Frame 2-3", "Frame 12-13")
    assert "outside the clip of frames 0-10" in read(outside).error
    assert read(text, cut_after=9).error == "cut after 9 tokens"
    assert read("no json at all").error and read("").error


def test_a_judge_may_think_of_operators_in_its_reasoning():
    text = format_report(TurnReport("normal", 'I could write {"act": {"op": "zoom"}}, but need not.'))
    assert read(text).status == "normal"


GOOD = {"think": "", "hyp": {"status": "normal", "p": 50, "types": [], "window": None}, "act": {"op": "expand"}}


def changed(**parts):
    act = {"op": "zoom", "a": 1, "b": 2, "k": 2}
    data = {**GOOD, "act": act}
    for name, value in parts.items():
        outer, _, inner = name.partition("__")
        data = {**data, outer: {**data[outer], inner: value} if inner else value}
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed(act="zoom"), "act must name one of backtrack, expand, zoom, got 'zoom'"),
        (changed(act__op="pan"), "act must name one of"),
        (changed(act__k=2.5), "zoom.k must be a whole number, got 2.5"),
        (changed(act__k=True), "zoom.k must be a whole number, got True"),
        (changed(act__a="1"), "zoom.a must be a number, got '1'"),
        (changed(act__frames="4-60"), "zoom.frames: frames 4-60 are outside the 11 frames"),
        (changed(act__frames="6-4"), "zoom.frames: frame range 6-4"),
        (changed(act__frames="x"), "zoom.frames must be frames such as '4-6'"),
        (changed(act={"op": "backtrack", "frame": 11, "w": 1}), "one of the view's 11 frames, got 11"),
        (changed(act={"op": "backtrack", "frame": "3", "w": 1}), "one of the view's 11 frames"),
        (changed(act={"op": "backtrack", "t": 1}), "backtrack.w must be a number, got None"),
        (changed(act={"op": "expand", "dl": 1}), "expand.dr must be a number, got None"),
        (changed(hyp=[]), "hyp must be an object"),
        (changed(hyp__status="odd"), 'hyp.status must be "normal" or "abnormal"'),
        (changed(hyp__p=101), "hyp.p must be a number from 0 to 100"),
        (changed(hyp__types=["melting"]), "hyp.types: unknown anomaly type 'melting'"),
        (changed(hyp__types="object"), "hyp.types must be a list of names"),
        (changed(hyp__window=[1]), "hyp.window must be two seconds"),
        (changed(think=3), "think must be a text, got 3"),
        (changed()[:-1] + ', "act": {"op": "expand"}}', "key 'act' is given twice"),
        (changed(act__a=float("nan")), "NaN is not a JSON number"),
        (changed() + format_report(TurnReport("normal", "")), "an operator and another object"),
        (changed() + changed(), "an operator and another object"),
        ('{"act": ' + '{"a": ' * 30_000, "nested too deeply"),
    ],
)
def test_what_is_neither_operator_nor_answer_is_named(text, said):
    move = read(text)
    assert move.operator is None and move.status is None and said in move.error


def test_a_cut_operator_does_not_count():
    assert read(changed(), cut_after=5).error == "cut after 5 tokens"


@pytest.mark.parametrize("text", ["{" * 50_000, '{"' * 50_000, '{"act"' * 20_000, "x" * 600_000, '{"a": "\\ud800"}'])
def test_hostile_texts_are_read_in_time(text):
    assert read(text).error


def test_a_hypothesis_is_a_report_of_turn_one():
    move = read(write_look(LOOKS[2], "Look.", HELD))
    report = hypothesis_report(move, INDICES, 16.0)
    assert report.status == "abnormal" and report.cot == "Look." and report.window == FrameRange(4, 6)
    assert report.types == HELD.types
    assert hypothesis_report(read(write_look(LOOKS[2])), INDICES, 16.0).status == "normal"
    vague = Hypothesis("abnormal", 60, (), (2.0, 3.0)), Hypothesis("abnormal", 60, HELD.types, (7.0, 8.0))
    for held in vague:
        assert hypothesis_report(read(write_look(LOOKS[2], "", held)), INDICES, 16.0) is None
