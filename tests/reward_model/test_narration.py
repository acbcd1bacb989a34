"""Narration: the perfect judge's answers agree with the truth and survive the parser."""

import re

import pytest

from reward_model.parsing import format_report, parse_turn
from reward_model.schema import FrameRange
from reward_model.video.clip import native_window, sample_indices, zoom_indices
from reward_model.world import KINDS, make_annotation, make_scene
from reward_model.world.narration import (
    STATES,
    anomaly_kind,
    narrate_scan,
    narrate_zoom,
    shift_report,
    visible_anomalies,
)
from tests.campaigns import draws

GRID = sample_indices(81, 16, 4)


def truth_of(seed, kind=None):
    return make_annotation(make_scene(seed, kind))


def zoom_grid(truth, shrink=0):
    window = visible_anomalies(truth, GRID)[0].frames
    window = FrameRange(window.start + shrink, max(window.end - shrink, window.start + shrink))
    return zoom_indices(native_window(window, GRID, 81), 81, 16, 8, max_frames=24)


@pytest.mark.parametrize("seed", range(draws(12, 3)))
@pytest.mark.parametrize("kind", list(KINDS))
def test_reports_round_trip_through_text(seed, kind):
    truth = truth_of(seed, kind)
    scan, grid = narrate_scan(truth, GRID), zoom_grid(truth)
    zoom = narrate_zoom(truth, grid)
    assert parse_turn(format_report(scan, boxes=False), turn=1, num_frames=21).window == scan.window
    again = parse_turn(format_report(zoom), turn=2, num_frames=len(grid))
    assert again.window == zoom.window
    assert dict(again.anomalies[0].boxes) == dict(zoom.anomalies[0].boxes)
    assert again.types == (KINDS[kind],)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_the_reasoning_has_one_true_sentence_per_frame(kind):
    truth = truth_of(3, kind)
    cot = narrate_scan(truth, GRID).cot
    sentences = re.findall(r"Frame (\d+): ([^.]+\.)", cot)
    assert [int(n) for n, _ in sentences] == list(range(21))
    for number, words in sentences:
        wrong = bool(truth.anomalies) and GRID[int(number)] in truth.anomalies[0].frames
        assert words == (STATES[kind] if wrong else "normal.")


def test_a_normal_video_has_a_normal_report_with_and_without_reasoning():
    truth = truth_of(5)
    assert narrate_scan(truth, GRID).status == "normal"
    assert narrate_scan(truth, GRID, cot=False).cot == ""
    assert narrate_scan(truth, GRID).cot.endswith("No anomaly.")


def test_a_clip_beside_the_anomaly_is_normal():
    truth = truth_of(3, "squash")
    before = [n for n in range(0, 81, 2) if n < truth.anomalies[0].frames.start]
    assert narrate_zoom(truth, before).status == "normal"


@pytest.mark.parametrize("seed", range(draws(30, 10)))
def test_a_clip_inside_a_disappearance_still_has_a_box(seed):
    """Otherwise turn two would be trained to give answers that the parser refuses."""
    truth = truth_of(seed, "vanish")
    report = narrate_zoom(truth, zoom_grid(truth, shrink=1))
    if report.status == "abnormal":
        assert all(a.boxes for a in report.anomalies)


def test_scans_carry_no_boxes_and_zooms_do():
    truth = truth_of(3, "split")
    assert not narrate_scan(truth, GRID).anomalies[0].boxes
    assert all(len(b) == 2 for b in narrate_zoom(truth, zoom_grid(truth)).anomalies[0].boxes.values())


def test_shifted_reports_move_ranges_and_boxes_together():
    report = narrate_zoom(truth_of(3, "squash"), zoom_grid(truth_of(3, "squash")))
    moved = shift_report(report, 5)
    assert moved.window.start == report.window.start + 5
    assert min(moved.anomalies[0].boxes) == min(report.anomalies[0].boxes) + 5
    assert shift_report(report, 0) is report


def test_kinds_are_recovered_from_reasons():
    for kind in KINDS:
        assert anomaly_kind(truth_of(1, kind).anomalies[0]) == kind
