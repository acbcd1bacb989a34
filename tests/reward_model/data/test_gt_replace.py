"""A teacher's coordinates replaced by annotated ones: what changes, what never does, and what is dropped."""

import difflib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from reward_model.data.cot import CotSample
from reward_model.data.gt_replace import LEAST_OVERLAP, WrongTargetError, replace_samples, replace_trace
from reward_model.data.targets import targets_of
from reward_model.grounding import spatial_iou
from reward_model.parsing import format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VideoAnnotation
from reward_model.tracks.codec import PerFrame, Ticks

TIMES = tuple(k / 8 for k in range(17))
CODECS = [PerFrame(), Ticks(0.5), Ticks(0.5, "compact")]


def moving(first, last, x, kind=AnomalyType.OBJECT, **words):
    boxes = {k: (Box(x + 5 * k, 200, x + 5 * k + 200, 400),) for k in range(first, last + 1)}
    return Anomaly(kind, FrameRange(first, last), boxes, **{"reason": "the cup bends", "region": "left", **words})


TRUTH = moving(2, 14, 100)
#: What a teacher wrote: the right thing, a little off in time and space.
SAID = moving(4, 15, 130, reason="the handle of the cup melts", region="on the table")
COT = 'At <t>1.0</t> the "cup" at <box>[1, 2, 3, 4]</box> melts\\n until <t>9.5</t>. Five boxes: [1, 2, 3, 4].'


def trace(codec, *anomalies, cot=COT):
    return codec.write(TurnReport("abnormal", cot, anomalies), TIMES)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_only_coordinates_change(codec):
    before = trace(codec, SAID)
    after = replace_trace(before, [TRUTH], TIMES, codec=codec)
    found, true = codec.parse(after, TIMES), codec.parse(trace(codec, TRUTH), TIMES)
    assert found.anomalies[0].frames == TRUTH.frames and found.anomalies[0].boxes == true.anomalies[0].boxes
    assert (found.anomalies[0].reason, found.anomalies[0].region) == (SAID.reason, SAID.region)
    # What differs are digits, and keys of boxes that the truth has and the trace had not, or the other way round.
    blank = re.compile(r'("Attributed Time Region": )"[^"]*"|("BBOX": )\{[^{}]*\}|<t>[^<]*</t>|<box>[^<]*</box>')
    assert blank.sub(r"\1\2", before) == blank.sub(r"\1\2", after) and before != after


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_keys_stay_in_order_and_are_those_of_the_codec(codec):
    after = replace_trace(trace(codec, SAID), [TRUTH], TIMES, codec=codec)
    keys = [*json.loads(after)["anomalies"][0]["BBOX"]]
    numbers = [float(re.sub(r"[^\d.]", "", key)) for key in keys]
    assert numbers == sorted(set(numbers))
    assert codec.parse(after, TIMES, complete=not isinstance(codec, PerFrame)).status == "abnormal"


def test_spans_in_the_reasoning_take_the_nearest_truth():
    after = json.loads(replace_trace(trace(PerFrame(), SAID), [TRUTH], TIMES))["COT"]
    assert "At <t>1.0</t>" in after  # a time of the anomaly stays as it was written
    assert "until <t>1.75</t>" in after  # one outside moves to its end
    assert f"<box>{TRUTH.boxes[8][0].as_list()}</box>" in after
    assert after.endswith("Five boxes: [1, 2, 3, 4].")


def test_odd_spacing_and_escapes_survive():
    text = json.dumps(json.loads(trace(PerFrame(), SAID)), indent=2, ensure_ascii=True)
    text = "Here it is:\n" + text.replace("melts", "m\\u00e9lts") + "\nThat is all."
    after = replace_trace(text, [TRUTH], TIMES)
    alike = difflib.SequenceMatcher(None, text, after, autojunk=False).get_matching_blocks()
    kept = "".join(text[block.a : block.a + block.size] for block in alike)
    assert kept.startswith("Here it is:") and kept.endswith("That is all.") and "m\\u00e9lts" in kept
    assert parse_turn(after, turn=2, num_frames=17).anomalies[0].boxes == TRUTH.boxes


def test_each_anomaly_gets_the_one_it_is_about():
    other = moving(0, 16, 600, kind=AnomalyType.MOTION)
    said = [moving(1, 16, 620, kind=AnomalyType.MOTION), SAID]
    found = parse_turn(replace_trace(trace(PerFrame(), *said), [TRUTH, other], TIMES), turn=2, num_frames=17)
    assert [a.boxes for a in found.anomalies] == [other.boxes, TRUTH.boxes]


@pytest.mark.parametrize(
    ("said", "targets", "reason"),
    [
        ([moving(2, 14, 700)], [TRUTH], "overlap those of the annotation by 0.00"),
        ([moving(13, 16, 100)], [TRUTH], "overlap those of the annotation by 0.1"),
        ([SAID, moving(0, 3, 700)], [TRUTH], "lists 2 anomalies where 1 are annotated"),
        ([SAID], [], "lists 1 anomalies where 0 are annotated"),
    ],
)
def test_a_trace_about_something_else_is_refused(said, targets, reason):
    with pytest.raises(WrongTargetError, match=reason):
        replace_trace(trace(PerFrame(), *said), targets, TIMES)


def test_text_that_is_not_an_answer_is_refused():
    for text in ("no object", '{"COT": "x", "status": "abnormal", "anomalies": [7]}'):
        with pytest.raises(WrongTargetError):
            replace_trace(text, [TRUTH], TIMES)


def test_the_least_overlap_is_where_it_is_said():
    """Boxes of the same size, shifted: an IoU of (1 - d) / (1 + d)."""
    for shift, passes in ((0.5, True), (0.56, False)):
        shifted = replace(
            TRUTH,
            boxes={
                k: (Box(b[0].xmin, b[0].ymin + round(200 * shift), b[0].xmax, b[0].ymax + round(200 * shift)),)
                for k, b in TRUTH.boxes.items()
            },
        )
        assert (spatial_iou(shifted.boxes[5][0], TRUTH.boxes[5][0]) >= LEAST_OVERLAP) == passes
        text = trace(PerFrame(), shifted)
        if passes:
            replace_trace(text, [TRUTH], TIMES)
        else:
            with pytest.raises(WrongTargetError):
                replace_trace(text, [TRUTH], TIMES)


def test_jitter_shakes_the_boxes_alone_and_repeatably():
    text = trace(PerFrame(), SAID)
    first, again, other = (
        replace_trace(text, [TRUTH], TIMES, jitter=15, rng=np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert first == again != other
    found = parse_turn(first, turn=2, num_frames=17).anomalies[0]
    assert found.frames == TRUTH.frames and found.boxes.keys() == TRUTH.boxes.keys()
    off = [np.subtract(found.boxes[k][0].as_list(), TRUTH.boxes[k][0].as_list()) for k in TRUTH.boxes]
    assert 10 < np.std(off) < 20


def video(video_id, *anomalies):
    """At 8 frames a second, so that clip and video are one."""
    return VideoAnnotation(video_id, 17, 8.0, 100, 100, anomalies=tuple(anomalies))


def sample(video_id, report, turn="zoom"):
    text = format_report(report, boxes=turn == "zoom")
    return CotSample(video_id, turn, tuple(range(17)), text, report.status, 1, "salient", "teacher", "paper-2+0")


def test_samples_are_replaced_kept_or_dropped_and_counted(caplog):
    truths = {"good": video("good", TRUTH), "bad": video("bad", TRUTH), "fine": video("fine")}
    normal = sample("fine", TurnReport("normal", "all well"))
    scan = sample("good", TurnReport("abnormal", "x", (replace(SAID, boxes={}),)), turn="scan")
    stranger = sample("elsewhere", TurnReport("abnormal", COT, (SAID,)))
    samples = [
        sample("good", TurnReport("abnormal", COT, (SAID,))),
        sample("bad", TurnReport("abnormal", COT, (moving(2, 14, 700),))),
        normal,
        scan,
        stranger,
    ]
    found = replace_samples(samples, truths)
    assert [s.video_id for s in found.samples] == ["good", "fine", "good", "elsewhere"]
    assert found.samples[1:] == [normal, scan, stranger] and [*found.dropped] == ["bad"]
    targets = targets_of(truths["good"], "zoom", range(17))
    assert found.samples[0].report().anomalies[0].boxes == targets[0].boxes
    assert "1 of 5 traces dropped" in caplog.text
    one, two = (replace_samples(samples, truths, jitter=15).samples[0] for _ in range(2))
    assert one == two != found.samples[0]
