"""Codecs of turn two: what is asked, written and read; the paper's schema to the byte, ticks strictly."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_model.config import JudgeConfig, judge_json, load_judge_config
from reward_model.evaluation.metrics.tubes import tube_iou
from reward_model.grounding import join_boxes
from reward_model.parsing import ParseError, format_report, parse_turn
from reward_model.prompts import load_prompts
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport
from reward_model.tracks.codec import STEPS, PerFrame, Ticks, asked_for, codec_of
from reward_model.turns import read_answer
from tests.campaigns import draws

TIMES = tuple(k / 8 for k in range(17))
KINDS = list(AnomalyType)


def moving(first, last, *, kind=AnomalyType.OBJECT, dx=10, x=100, more=()):
    """A thing that moves to the right over the frames, and perhaps others."""
    boxes = {k: (Box(x + dx * k, 200, x + dx * k + 100, 300), *(b for b in more)) for k in range(first, last + 1)}
    return Anomaly(kind, FrameRange(first, last), boxes, reason="it bends", region="left")


def report(*anomalies):
    return TurnReport("abnormal" if anomalies else "normal", "Frame 0: seen.", tuple(anomalies))


def answer(time="0-2 s", boxes=None, **more):
    item = {
        "Attributed Time Region": time,
        "Attributed Label": "Object Distortion",
        "Reason for Anomaly": "it bends",
        "Problem Region": "left",
        "BBOX": {"0": [0, 0, 100, 100], "1": [0, 0, 100, 100], "2": [0, 0, 100, 100]} if boxes is None else boxes,
        **more,
    }
    return json.dumps({"COT": "seen", "status": "abnormal", "anomalies": [item]})


def test_the_papers_schema_is_untouched():
    codec, told = codec_of(JudgeConfig()), report(moving(2, 7), moving(9, 12, kind=AnomalyType.MOTION))
    assert codec == PerFrame() and codec.version is None
    text = codec.write(told, TIMES)
    assert text == format_report(told)
    assert codec.parse(text, TIMES) == parse_turn(text, turn=2, num_frames=17)
    chat = load_prompts("paper").zoom(np.zeros((2, 4, 4, 3), np.uint8))
    assert asked_for(codec, chat, TIMES) is chat


def test_ticks_in_seconds_to_the_letter():
    text = Ticks(0.5).write(report(moving(3, 13)), TIMES)
    item = json.loads(text)["anomalies"][0]
    assert item["Attributed Time Region"] == "0.38-1.63 s"
    assert item["BBOX"] == {"0.5": [140, 200, 240, 300], "1": [180, 200, 280, 300], "1.5": [220, 200, 320, 300]}
    assert [*item] == [*json.loads(format_report(report(moving(3, 13))))["anomalies"][0]]


def test_ticks_of_a_wording_that_knows_frames_by_their_marks():
    text = Ticks(0.5, "compact").write(report(moving(3, 13)), TIMES)
    item = json.loads(text)["anomalies"][0]
    assert item["Attributed Time Region"] == "Frame 3-13"
    assert item["BBOX"] == {
        "Frame 4": [140, 200, 240, 300],
        "Frame 8": [180, 200, 280, 300],
        "Frame 12": [220, 200, 320, 300],
    }


@pytest.mark.parametrize("wording", ["paper", "compact"])
@pytest.mark.parametrize("track", STEPS)
def test_what_is_written_is_read_back_as_boxes_on_every_frame(track, wording):
    """Linear motion loses what lies outside the first and last tick, which is held; between ticks nothing."""
    codec = codec_of(JudgeConfig(track=track, prompts=wording))
    told = report(moving(0, 16), moving(0, 8, kind=AnomalyType.MOTION, x=500, dx=0, more=[Box(0, 900, 50, 950)]))
    found = codec.parse(codec.write(told, TIMES), TIMES, complete=True)
    assert (found.status, found.cot, found.types, found.window) == (told.status, told.cot, told.types, told.window)
    for ours, true in zip(found.anomalies, told.anomalies, strict=True):
        assert (ours.frames, ours.reason, ours.region) == (true.frames, true.reason, true.region)
        assert {k: sorted(b) for k, b in ours.boxes.items()} == {k: sorted(b) for k, b in true.boxes.items()}


def test_a_short_anomaly_between_two_ticks_keeps_its_box():
    for wording in ("paper", "compact"):
        codec = Ticks(1.0, wording)
        found = codec.parse(codec.write(report(moving(3, 5, dx=0)), TIMES), TIMES, complete=True).anomalies[0]
        assert found.frames == FrameRange(3, 5)
        assert found.boxes == {k: (Box(100, 200, 200, 300),) for k in (3, 4, 5)}


def test_a_thing_that_is_gone_keeps_the_boxes_at_the_edges():
    gone = Anomaly(AnomalyType.MOTION, FrameRange(1, 7), {1: (Box(0, 0, 100, 100),)}, reason="gone", region="left")
    for wording in ("paper", "compact"):
        codec = Ticks(0.5, wording)
        text = codec.write(report(gone), TIMES)
        assert len(json.loads(text)["anomalies"][0]["BBOX"]) == 1
        assert codec.parse(text, TIMES).anomalies[0].boxes[3] == (Box(0, 0, 100, 100),)


def test_several_spans_of_one_anomaly():
    text = answer("0-0.5 s, 1.5-2 s", {"0": [0, 0, 100, 100], "1.5": [500, 0, 600, 100], "2": [600, 0, 700, 100]})
    first, second = Ticks(0.5).parse(text, TIMES).anomalies
    assert first.frames == FrameRange(0, 4) and second.frames == FrameRange(12, 16)
    assert first.boxes[2] == (Box(0, 0, 100, 100),) and second.boxes[14] == (Box(550, 0, 650, 100),)


def test_the_models_own_cut_ends_a_segment():
    boxes = {"0": [0, 0, 100, 100], "1": [200, 0, 300, 100], "2": [200, 0, 300, 100]}
    smooth, cut = (Ticks(1.0).parse(answer(boxes=boxes, **more), TIMES).anomalies[0] for more in ({}, {"Cuts": [1]}))
    assert smooth.boxes[4] == (Box(100, 0, 200, 100),)
    assert cut.boxes[4] == (Box(0, 0, 100, 100),) and cut.boxes[5] == (Box(200, 0, 300, 100),)


BOX = [0, 0, 100, 100]


@pytest.mark.parametrize(
    ("time", "boxes", "reason"),
    [
        ("0-2 s", {"soon": BOX}, "not a time in seconds"),
        ("0-2 s", {"Frame 1": BOX}, "not a time in seconds"),
        ("0-2 s", {"-1": BOX}, "not a time in seconds"),
        ("0-2 s", {"nan": BOX}, "not a time in seconds"),
        ("0-2 s", {"1e0": BOX}, "not a time in seconds"),
        ("0-2 s", {"0.3": BOX}, "not a tick of"),
        ("0-1 s", {"2": BOX}, "not a tick of"),
        ("0-2 s", {"7": BOX}, "not a tick of"),
        ("0-2 s", {"1": BOX, "1.0": BOX}, "twice"),
        ("0-2 s", {}, "must map seconds to boxes"),
        ("0-2 s", [BOX], "must map seconds to boxes"),
        ("0-2 s", {"1": [0, 0, 100]}, "four whole numbers"),
        ("0-2 s", {"1": [100, 0, 0, 100]}, "must satisfy"),
        ("3-4 s", {"3": BOX}, "outside the clip of 0-2 s"),
        ("2-1 s", {"1": BOX}, "reversed"),
        ("Frame 3-7", {"1": BOX}, "must be text such as '0.5-1.25 s'"),
        (1.5, {"1": BOX}, "must be text such as '0.5-1.25 s'"),
        (None, {"1": BOX}, "must be text such as '0.5-1.25 s'"),
    ],
)
def test_what_breaks_the_schema_of_ticks_is_refused(time, boxes, reason):
    with pytest.raises(ParseError, match=reason):
        Ticks(0.5).parse(answer(time, boxes), TIMES)


def test_cuts_that_are_no_times_are_refused():
    for cuts in ("soon", [True], [-1], [None], [float("nan")]):
        with pytest.raises(ParseError):
            Ticks(1.0).parse(answer(Cuts=cuts), TIMES)


def test_a_key_that_is_no_tick_is_refused_by_marks_too():
    text = format_report(report(moving(3, 13)))
    with pytest.raises(ParseError, match="frame 3, which is not a tick"):
        Ticks(0.5, "compact").parse(text, TIMES)


@pytest.mark.parametrize("wording", ["paper", "compact"])
def test_a_missing_tick_is_filled_in_where_every_tick_is_asked_for(wording):
    """The compact wording asks for boxes where something is seen: none near a tick without one."""
    codec = Ticks(0.5, wording)
    data = json.loads(codec.write(report(moving(0, 16)), TIMES))
    boxes = data["anomalies"][0]["BBOX"]
    del boxes["Frame 8" if wording == "compact" else "1"]
    found = codec.parse(json.dumps(data), TIMES).anomalies[0]
    bare = () if wording == "paper" else (7, 8, 9)  # nearest to the tick of frame 8; 6 and 10 lie between two
    assert found.boxes == {k: v for k, v in moving(0, 16).boxes.items() if k not in bare}
    with pytest.raises(ParseError, match="has no box"):
        codec.parse(json.dumps(data), TIMES, complete=True)


def test_times_that_reach_past_the_clip_are_cut():
    found = Ticks(1.0).parse(answer("1-9 s", {"1": BOX, "2": BOX}), TIMES).anomalies[0]
    assert found.frames == FrameRange(8, 16)


SPELLED = ["0.5 - 1.5", "0.5s-1.5s", "0.5 to 1.5 seconds", "0.5\u20131.5 s", "0.50-1.500 sec."]


@pytest.mark.parametrize("time", SPELLED)
def test_tolerant_of_how_times_are_spelled(time):
    found = Ticks(0.5).parse(answer(time, {"0.5": BOX, "1.0 s": BOX, "1.5s": BOX}), TIMES).anomalies[0]
    assert found.frames == FrameRange(4, 12) and len(found.boxes) == 9


RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=draws(150, 20))
SCALARS = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=6), v, max_size=3))
KEYS = st.sampled_from(["0", "0.5", "1", "1.25", "2", "9", "-1", "1,5", "0x1", "\u0661", "Frame 1", "", "1e9", "1 s"])
REGIONS = st.sampled_from(["0-2 s", "0.5 s", "2-0", "-", "1-", ",", "0-1, 1-2", "0-999", "99999-99999 s"]) | VALUES
BOXES = st.lists(st.integers(-5, 1005), min_size=3, max_size=5) | st.just(BOX) | st.just([BOX, BOX]) | VALUES


@RELAXED
@given(REGIONS, st.dictionaries(KEYS, BOXES, max_size=5) | VALUES, VALUES, st.sampled_from(["paper", "compact"]))
def test_any_answer_is_read_or_refused(time, boxes, cuts, wording):
    try:
        found = Ticks(0.5, wording).parse(answer(time, boxes, Cuts=cuts), TIMES)
    except ParseError:
        return
    for anomaly in found.anomalies:
        assert 0 <= anomaly.frames.start <= anomaly.frames.end <= 16
        assert set(anomaly.boxes) <= set(anomaly.frames.frames())


@RELAXED
@given(st.data(), st.sampled_from(list(STEPS.values())), st.sampled_from(["paper", "compact"]))
def test_random_reports_survive_and_stay_near(data, step, wording):
    first = data.draw(st.integers(0, 16))
    last = data.draw(st.integers(first, 16))
    x, dx = data.draw(st.integers(0, 400)), data.draw(st.integers(0, 25))
    told = report(moving(first, last, x=x, dx=dx, kind=data.draw(st.sampled_from(KINDS))))
    codec = Ticks(step, wording)
    text = codec.write(told, TIMES)
    found = codec.parse(text, TIMES, complete=True)
    assert found.window == told.window and found.types == told.types
    assert codec.parse(codec.write(found, TIMES), TIMES).window == told.window
    if dx == 0:
        assert tube_iou(join_boxes(found.anomalies), join_boxes(told.anomalies)) > 0.95


def test_a_judge_reads_by_its_setting_and_a_checkpoint_carries_it(tmp_path):
    config = JudgeConfig(track="0.5s", track_smoothing="kalman")
    text = Ticks(0.5).write(report(moving(0, 16)), TIMES)
    assert read_answer(text, 2, 17, config, TIMES).anomalies[0].boxes[3] == moving(0, 16).boxes[3]
    with pytest.raises(ParseError):
        read_answer(text, 2, 17, JudgeConfig(), TIMES)
    (tmp_path / "judge.json").write_text(judge_json(config))
    assert codec_of(load_judge_config(tmp_path)) == Ticks(0.5, "paper", "kalman")
    assert "track" not in judge_json(JudgeConfig())  # files of other judges are as they were
    with pytest.raises(ValueError, match="track='2s' must be"):
        JudgeConfig(track="2s")


def test_the_question_names_the_seconds():
    chat = load_prompts("paper").zoom(np.zeros((17, 4, 4, 3), np.uint8))
    asked = asked_for(Ticks(0.25), chat, TIMES)
    assert asked[-1].content[:-1] == chat[-1].content[:-1]
    said = asked[-1].content[-1].removeprefix(chat[-1].content[-1])
    assert "Frame 16 at 2 s" in said and "each multiple of 0.25 s" in said
    compact = load_prompts("compact").zoom(np.zeros((17, 4, 4, 3), np.uint8))
    assert asked_for(Ticks(0.25, "compact"), compact, TIMES)[-1].content[-1].endswith("Zoom. 0.25 s.")
