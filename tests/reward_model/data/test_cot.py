"""Reasoning files: what is written comes back, and a broken line is named."""

from __future__ import annotations

import json

import pytest

from reward_model.data.cot import CotSample, read_cot, write_cot
from reward_model.parsing import format_report
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport

ANSWER = format_report(
    TurnReport(
        "abnormal",
        'Frame 0: "odd" \u2014 \u00e9.\nFrame 1: odd.',
        (Anomaly(AnomalyType.HUMAN, FrameRange(0, 1), {0: (Box(1, 2, 30, 40),)}, reason="six fingers"),),
    )
)


def sample(**changes) -> CotSample:
    values = {
        "video_id": "a",
        "turn": "zoom",
        "indices": (4, 6),
        "answer": ANSWER,
        "status": "abnormal",
        "rounds": 4,
        "saliency": "non-salient",
        "teacher": "t",
        "prompt_version": "paper-1+0",
        "extra": {"note": [1, None]},
    }
    return CotSample(**{**values, **changes})


def test_what_is_written_comes_back(tmp_path):
    samples = [sample(), sample(video_id="b", rounds=1, saliency="salient", extra={})]
    assert read_cot(write_cot(tmp_path / "deep" / "cot.jsonl", samples)) == samples
    assert samples[0].report().anomalies[0].boxes == {0: (Box(1, 2, 30, 40),)}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"turn": "third"}, "turn is 'third'"),
        ({"indices": (6, 4)}, "must rise"),
        ({"indices": (4, 4)}, "must rise"),
        ({"indices": ()}, "at least one"),
        ({"indices": (4, True)}, "native frame numbers"),
        ({"indices": (4,), "answer": ANSWER.replace("Frame 0-1", "Frame 1-1")}, "not a zoom answer over 1 frames"),
        ({"status": "normal"}, "contradicts the answer"),
        ({"rounds": 6}, "1-5"),
        ({"saliency": "salient?"}, "'salient', 'non-salient'"),
        ({"teacher": " "}, "teacher"),
        ({"answer": "no"}, "no complete JSON object"),
        ({"extra": {"turn": "scan"}}, "belongs to the sample"),
    ],
)
def test_a_sample_that_contradicts_itself_is_refused(changes, rule):
    with pytest.raises(ValueError, match=rule) as error:
        sample(**changes)
    assert "'a'" in str(error.value)


def test_a_scan_answer_needs_no_boxes_and_a_zoom_answer_does():
    bare = format_report(sample().report(), boxes=False)
    assert sample(turn="scan", answer=bare).report().status == "abnormal"
    with pytest.raises(ValueError, match="BBOX"):
        sample(answer=bare)


def test_every_broken_line_is_named(tmp_path):
    good = json.dumps(sample().to_dict())
    bad = json.dumps({**sample().to_dict(), "rounds": 9})
    lacking = json.dumps({k: v for k, v in sample().to_dict().items() if k != "turn"})
    path = tmp_path / "cot.jsonl"
    path.write_text(f"{good}\n\n{bad}\n[1]\n{good[:40]}\n{lacking}\n")
    with pytest.raises(ValueError, match=r"4 problem\(s\)") as error:
        read_cot(path)
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == ["line 3", "line 4", "line 5", "line 6"]
    assert "'turn' missing" in lines[3]
    with pytest.raises(ValueError, match="no reasoning file"):
        read_cot(tmp_path / "absent.jsonl")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_cot(tmp_path / "cot.jsonl", [sample()])
    with pytest.raises(ValueError):
        write_cot(path, [sample(extra={"x": float("nan")})])
    assert read_cot(path) == [sample()]
    assert [p.name for p in tmp_path.iterdir()] == ["cot.jsonl"]
