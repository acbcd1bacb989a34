"""Equations 2 to 6: golden numbers, and the truth table of every way two turns can end."""

from dataclasses import replace

import pytest

from reward_model.rewards import (
    RewardConfig,
    Rollout,
    format_reward,
    mean_saliency,
    status_reward,
    temporal_reward,
    total_reward,
)
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VideoAnnotation

SCAN, CLIP = range(0, 81, 4), range(8, 33, 2)
BOX = Box(100, 100, 300, 300)


def truth(salient=True):
    boxes = dict.fromkeys(range(12, 29), (BOX,))
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(12, 28), boxes, salient=salient)
    return VideoAnnotation("v", 81, 16, 64, 64, anomalies=(anomaly,))


NORMAL_TRUTH = VideoAnnotation("v", 81, 16, 64, 64)
NORMAL = TurnReport("normal", "")


def scan_report(types=(AnomalyType.OBJECT,), start=3, end=7):
    return TurnReport("abnormal", "", tuple(Anomaly(t, FrameRange(start, end)) for t in types))


def zoom_report(box=BOX, types=(AnomalyType.OBJECT,)):
    # Native frames 12-28 are frames 2-10 of the clip.
    boxes = dict.fromkeys(range(2, 11), (box,))
    return TurnReport("abnormal", "", tuple(Anomaly(t, FrameRange(2, 10), boxes) for t in types))


def rollout(scan, zoom, zoomed):
    return Rollout(scan, zoom, zoomed, SCAN, CLIP if zoomed else ())


ENDINGS = {
    "normal": rollout(NORMAL, None, False),
    "abnormal, cleared": rollout(scan_report(), NORMAL, True),
    "abnormal, confirmed": rollout(scan_report(), zoom_report(), True),
    "abnormal, then invalid": rollout(scan_report(), None, True),
    "invalid": rollout(None, None, False),
}


@pytest.mark.parametrize(
    ("ending", "form", "status", "total"),
    [
        ("normal", 0, 0, 0),
        ("abnormal, cleared", 0, -0.5, -1),
        ("abnormal, confirmed", 0, -1, -2),
        ("abnormal, then invalid", -0.5, -1, -2.5),
        ("invalid", -1, -1, -3),
    ],
)
def test_truth_table_of_normal_videos(ending, form, status, total):
    parts = total_reward(ENDINGS[ending], NORMAL_TRUTH)
    assert (parts.format, parts.status, parts.total) == (form, status, total)


@pytest.mark.parametrize(
    ("ending", "form", "status", "salient", "faint", "outside"),
    [
        ("abnormal, confirmed", 0, 0, 9, 9, 9),
        ("abnormal, cleared", 0, -1, -2, 3.5, -1),
        ("abnormal, then invalid", -0.5, -1, -2.5, 3.0, -1.5),
        ("normal", 0, -1, -2, 3.5, -1),
        ("invalid", -1, -1, -3, 2.5, -2),
    ],
)
def test_truth_table_of_anomalous_videos(ending, form, status, salient, faint, outside):
    parts = total_reward(ENDINGS[ending], truth())
    assert (parts.format, parts.status, parts.total) == (form, status, salient)
    assert total_reward(ENDINGS[ending], truth(salient=False)).total == faint
    assert total_reward(ENDINGS[ending], truth(salient=False), RewardConfig(gate_outside=True)).total == outside


def test_turnwise_gate_pays_turn_one_alone():
    config = RewardConfig(gate="turnwise")
    assert total_reward(ENDINGS["abnormal, cleared"], truth(), config).total == -2 + 1 + 2
    assert total_reward(ENDINGS["abnormal, then invalid"], truth(), config).total == -2.5 + 1 + 2
    for ending in ("abnormal, confirmed", "normal", "invalid"):
        assert total_reward(ENDINGS[ending], truth(), config) == total_reward(ENDINGS[ending], truth())


@pytest.mark.parametrize(("salient", "total"), [(True, 4.4), (False, 6.7)])
def test_equation_6_golden(salient, total):
    """Type IoUs (1, .5), temporal .6, spatial .34 give S = 4.4."""
    wide = Box(100, 100, 300, 300 + 200 * 66 // 34)
    second = zoom_report(wide, types=(AnomalyType.OBJECT, AnomalyType.MOTION))
    # Ranges 3-5 of true 3-7 overlap by .6; a box 1/.34 as tall overlaps by .34.
    parts = total_reward(rollout(scan_report(end=5), second, True), truth(salient=salient))
    assert (parts.type, parts.temporal) == (0.75, 0.6)
    assert parts.spatial == pytest.approx(0.34, abs=5e-4)
    assert parts.total == pytest.approx(total, abs=3e-3)


@pytest.mark.parametrize(("value", "total"), [(-1.0, -2.0), (-0.5, -1.0), (0.0, 0.0)])
def test_rescued_normal_is_a_choice(value, total):
    assert total_reward(ENDINGS["abnormal, cleared"], NORMAL_TRUTH, RewardConfig(rescued_normal=value)).total == total
    with pytest.raises(ValueError, match="rescued_normal"):
        RewardConfig(rescued_normal=value - 2)


def test_saliency_is_the_mean_over_anomalies():
    first = truth().anomalies[0]
    several = replace(truth(), anomalies=(first, replace(first, salient=False), replace(first, salient=None)))
    assert mean_saliency(several) == pytest.approx(2.5 / 3)
    assert mean_saliency(NORMAL_TRUTH) == 1


def test_several_ranges_are_joined_before_they_are_compared():
    parts = (Anomaly(AnomalyType.OBJECT, FrameRange(3, 4)), Anomaly(AnomalyType.MOTION, FrameRange(4, 7)))
    assert temporal_reward(rollout(TurnReport("abnormal", "", parts), None, False), truth()) == 1.0


def test_single_terms():
    assert format_reward(ENDINGS["invalid"]) == -1
    assert status_reward(ENDINGS["normal"], truth()) == -1
    with pytest.raises(ValueError, match="gate"):
        RewardConfig(gate="half")
