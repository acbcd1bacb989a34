"""Benches in parts: what a verdict says of turn one reaches the row, and every part is measured and shown apart."""

from __future__ import annotations

import json

import pytest

from reward_model.evaluation import DemandingBench, Row, ShiftBench, evaluate_judge, measure, wilson
from reward_model.evaluation.benches.bench import BenchVideo
from reward_model.evaluation.running.baselines import ConstantJudge
from reward_model.evaluation.running.row import make_row
from reward_model.evaluation.tables.class_tables import group_table
from reward_model.evaluation.tables.reports import make_tables
from reward_model.schema import Anomaly, AnomalyType, FrameRange, Turn, TurnReport, Verdict
from reward_model.world import make_video


def row(index: int, truth: str, scan: str, final: str, group: str) -> Row:
    return Row(
        index,
        f"v{index}",
        "vanish" if truth == "abnormal" else "",
        truth,
        has_verdict=True,
        status=final,
        zoomed=scan == "abnormal",
        group=group,
        scan_status=scan,
    )


#: Truth, turn one, turn two and part; by hand.
ROWS = [
    row(0, "normal", "abnormal", "normal", "zoom/fade"),
    row(1, "abnormal", "abnormal", "abnormal", "zoom/fade"),
    row(2, "normal", "abnormal", "abnormal", "zoom/pass"),
    row(3, "abnormal", "abnormal", "normal", "zoom/pass"),
    row(4, "normal", "normal", "normal", "easy"),
    row(5, "abnormal", "normal", "normal", "easy"),
    row(6, "abnormal", "abnormal", "abnormal", "scan/fade"),
]


def test_parts_and_cases_are_measured_apart():
    groups = measure(ROWS, {}, num_resamples=5).by_group
    assert list(groups) == ["all", "zoom", "zoom/fade", "zoom/pass", "easy", "scan", "scan/fade"]
    found = {name: {k: m.value for k, m in metrics.items()} for name, metrics in groups.items()}
    assert found["all"] == {
        "accuracy": 4 / 7,
        "recall": 2 / 4,
        "specificity": 2 / 3,
        "recall, scan": 3 / 4,
        "cleared, normal": 1 / 2,
        "cleared, abnormal": 1 / 3,
    }
    assert found["zoom"]["accuracy"] == 0.5 and found["zoom/fade"]["accuracy"] == 1.0
    assert found["easy"]["cleared, normal"] is None and found["scan"]["specificity"] is None
    assert groups["zoom"]["accuracy"].interval == wilson(2, 4) and groups["zoom"]["accuracy"].num == 4


def test_a_bench_without_parts_has_no_such_table():
    plain = measure([Row(0, "v", "", "normal", has_verdict=True, status="normal")], {}, num_resamples=5)
    assert plain.by_group == {} and "by_group" not in plain.to_dict()
    assert not any("Parts" in t.title for t in (*plain.to_tables(), *make_tables({"main": {"a": plain}})))


def test_the_table_of_parts_stands_in_the_report_judge_by_judge():
    result = measure(ROWS, {}, num_resamples=5)
    table = group_table("demanding", {"a": result, "b": result})
    assert table.columns == (
        *("part", "judge", "accuracy", "recall", "specificity"),
        *("recall, scan", "cleared, normal", "cleared, abnormal", "n"),
    )
    assert [r[:2] for r in table.groups[0]][:4] == [("all", "a"), ("all", "b"), ("zoom", "a"), ("zoom", "b")]
    titles = [t.title for t in make_tables({"demanding": {"a": result}}, num_resamples=5)]
    assert "Parts of demanding" in titles
    assert "zoom/fade" in result.to_markdown() and json.loads(json.dumps(result.to_dict()))["by_group"]["zoom"]


def verdict(scan: TurnReport | None, final: str) -> Verdict:
    return Verdict(
        status=final,
        score=0.5,
        turns=(Turn(1, (0, 4, 8), 4.0, "", report=scan), Turn(2, (2, 4, 6), 8.0, "")),
        num_frames=9,
        fps=16.0,
    )


def test_a_row_keeps_what_turn_one_decided():
    frames, truth = make_video(3, None, num_frames=9, size=24)
    video = BenchVideo(frames, truth, "", "zoom/fade")
    suspicion = TurnReport("abnormal", "", (Anomaly(AnomalyType.MOTION, FrameRange(1, 1)),))
    found = make_row(0, video, verdict(suspicion, "normal"))
    assert (found.scan_status, found.status, found.zoomed, found.group) == ("abnormal", "normal", True, "zoom/fade")
    assert make_row(0, video, verdict(None, "normal")).scan_status is None
    assert Row.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_rows_of_version_0_1_still_open():
    old = ROWS[0].to_dict()
    del old["group"], old["scan_status"]
    opened = Row.from_dict(old)
    assert opened.group == "" and opened.scan_status is None and opened.video == "v0"
    with pytest.raises(ValueError, match="a row has the columns"):
        Row.from_dict({**old, "colour": 1})


@pytest.mark.parametrize(
    "bench",
    [
        ShiftBench(2, shifts=("plain", "1 s", "12 fps")),
        pytest.param(DemandingBench(1, size=24), marks=pytest.mark.slow),
    ],
)
def test_benches_in_parts_are_judged_like_any_other(bench):
    """Videos of several lengths, sizes and frame rates in one batch."""
    result = evaluate_judge(ConstantJudge("abnormal"), bench, batch_size=8, progress=False, num_resamples=5)
    assert result.by_group["all"]["recall"].value == 1 and result.by_group["all"]["specificity"].value == 0
    assert set(result.by_group) >= {video.group for video in bench}
