"""Long videos: which frames each question shows, and what the answers mean together."""

from itertools import pairwise

import numpy as np
import pytest

from reward_model.chunks import (
    by_chunk,
    chunk_truth,
    deciding_turn,
    final_anomalies,
    lowest_value,
    main_window,
    plan_chunks,
    scan_grids,
    suspicious_windows,
)
from reward_model.config import JudgeConfig
from reward_model.schema import (
    Anomaly,
    AnomalyType,
    Box,
    FrameRange,
    Turn,
    TurnReport,
    VerdictScore,
    VideoAnnotation,
)

LEFT, RIGHT = Box(0, 0, 400, 400), Box(600, 600, 900, 900)


@pytest.mark.parametrize("count", [26, 41, 81, 128, 129, 2401])
@pytest.mark.parametrize(("most", "overlap"), [(25, 4), (25, 0), (2, 1), (25, 24), (1, 0)])
def test_chunks_cover_everything_overlap_enough_and_keep_to_the_limit(count, most, overlap):
    chunks = plan_chunks(count, most, overlap)
    assert chunks[0][0] == 0 and chunks[-1][1] == count
    lengths = {end - first for first, end in chunks}
    assert len(lengths) == 1 and max(lengths) <= most
    shared = [a[1] - b[0] for a, b in pairwise(chunks)]
    assert min(shared) >= overlap and all(b[0] > a[0] for a, b in pairwise(chunks))
    fewest = -(-(count - overlap) // (most - overlap))
    assert len(chunks) == fewest, "no more questions than needed"


def test_ten_seconds_of_a_judge_of_six():
    """161 frames at 16 fps, 41 of them at 4 fps, in two chunks that share five."""
    grids = scan_grids(161, 16, JudgeConfig(max_scan_frames=25))
    assert [(g[0], g[-1], len(g)) for g in grids] == [(0, 88, 23), (72, 160, 23)]
    assert {b - a for g in grids for a, b in pairwise(g)} == {4}, "the full rate"
    assert scan_grids(97, 16, JudgeConfig(max_scan_frames=25)) == [tuple(range(0, 97, 4))]
    (thin,) = scan_grids(161, 16, JudgeConfig(max_scan_frames=25, long_videos="thin"))
    assert len(thin) == 25 and (thin[0], thin[-1]) == (0, 160)
    assert len(scan_grids(9601, 16, JudgeConfig(max_scan_frames=None))[0]) == 2401


def test_an_overlap_that_leaves_nothing_new_is_refused():
    with pytest.raises(ValueError, match="scan_overlap=25 must be less than max_scan_frames=25"):
        JudgeConfig(max_scan_frames=25, scan_overlap=25)
    assert JudgeConfig(max_scan_frames=None, scan_overlap=25).chunk_overlap == 25
    assert [JudgeConfig(max_scan_frames=n).chunk_overlap for n in (1, 2, 6, 128)] == [0, 1, 3, 4]


def anomaly(start, end, kind=AnomalyType.OBJECT, boxes=None, reason="bent"):
    return Anomaly(kind, FrameRange(start, end), boxes or {}, ("cup",), reason)


def turn(number, indices, *anomalies, score=None):
    report = TurnReport("abnormal" if anomalies else "normal", "", anomalies)
    value = None if score is None else VerdictScore(np.log(score), np.log(1 - score))
    return Turn(number, tuple(indices), 4.0, "", report.status, report, score=value)


FIRST, SECOND = range(0, 92, 4), range(72, 164, 4)


def test_what_two_overlapping_chunks_both_report_is_one_anomaly():
    turns = (
        turn(1, FIRST, anomaly(18, 22)),
        turn(2, range(72, 90, 2), anomaly(0, 8, boxes={0: (LEFT,), 4: (LEFT,)})),
        turn(1, SECOND, anomaly(0, 6)),
        turn(2, range(72, 98, 2), anomaly(0, 12, boxes={4: (Box(10, 10, 300, 300),), 9: (LEFT,)}, reason="seen again")),
    )
    (one,) = final_anomalies(turns)
    assert one.frames == FrameRange(72, 96) and one.reason == "bent"
    assert one.boxes == {72: (LEFT,), 80: (LEFT,), 90: (LEFT,)}
    assert suspicious_windows(turns) == [FrameRange(72, 96)]


@pytest.mark.parametrize(
    ("other", "count"),
    [
        (anomaly(0, 12, AnomalyType.MOTION), 2),
        (anomaly(0, 12, boxes={4: (RIGHT,)}), 2),
        (anomaly(12, 12, boxes={12: (RIGHT,)}), 2),
        (anomaly(9, 12, boxes={12: (RIGHT,)}), 1),
    ],
    ids=["another type", "elsewhere on the same frame", "later", "the next frames"],
)
def test_two_anomalies_stay_two(other, count):
    first = turn(2, range(72, 90, 2), anomaly(0, 8, boxes={4: (LEFT,)}))
    second = turn(2, range(72, 98, 2), other)
    scans = turn(1, FIRST, anomaly(18, 22)), turn(1, SECOND, anomaly(0, 6))
    assert len(final_anomalies((scans[0], first, scans[1], second))) == count
    twice = turn(2, range(72, 90, 2), anomaly(0, 4), anomaly(2, 8))
    assert len(final_anomalies((scans[0], twice))) == 2, "two of one answer are never merged"


def test_windows_that_are_neighbours_on_the_grid_are_joined_and_others_are_not():
    turns = (
        turn(1, FIRST, anomaly(1, 2), score=0.2),
        turn(2, range(2, 12, 2), score=0.9),
        turn(1, range(12, 40, 4), anomaly(0, 1), score=0.2),
        turn(2, range(12, 20, 2), score=0.8),
        turn(1, SECOND, anomaly(5, 6), score=0.2),
        turn(2, range(90, 98, 2), anomaly(0, 1), score=0.3),
    )
    assert suspicious_windows(turns) == [FrameRange(4, 16), FrameRange(92, 96)]
    assert main_window(turns, "paper") == FrameRange(92, 96), "that of the chunk that decides"
    assert main_window(turns[:4], "paper") == FrameRange(4, 16)
    assert [len(chunk) for chunk in by_chunk(turns)] == [2, 2, 2] and by_chunk(()) == []


def test_the_score_is_the_lowest_reward_and_an_abnormal_chunk_decides():
    turns = (
        turn(1, FIRST, score=0.1),
        turn(1, SECOND, anomaly(0, 1), score=0.05),
        turn(2, SECOND, anomaly(0, 1), score=0.4),
    )
    assert lowest_value(turns, "paper") == pytest.approx(0.1)
    assert deciding_turn(turns, "paper") is turns[2], "its status is the verdict's"
    assert lowest_value(turns, "direct") is None and deciding_turn((), "paper") is None


def test_the_truth_about_a_chunk():
    truth = VideoAnnotation("v", 161, 16, 48, 48, anomalies=(anomaly(0, 9), anomaly(100, 110), anomaly(73, 75)))
    assert [a.frames.start for a in chunk_truth(truth, FIRST).anomalies] == [0]
    assert [a.frames.start for a in chunk_truth(truth, SECOND).anomalies] == [100]
