"""Equations 2 to 6: golden numbers, and the truth table of every way two turns can end."""

from dataclasses import fields, replace
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from reward_model.rewards import (
    ANNOTATED,
    NEEDS,
    RewardConfig,
    RewardWeights,
    Rollout,
    check_reward_needs,
    format_reward,
    mean_saliency,
    spatial_reward,
    status_reward,
    temporal_reward,
    total_reward,
    tube_reward,
)
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VideoAnnotation
from tests.campaigns import draws

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
        ("abnormal, cleared", 0, 0, 0),
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


# --- Equation 5: which frames it averages over ------------------------------------------------------------------------


def shrunk_in_turn_two(last):
    """Turn one names the whole of a true window of nine clip frames. Turn two overlaps the true box by .75 on the
    first and by .30 on the others, and names the first ``last + 1`` frames only.
    """
    scan = scan_report()
    heights = [0.75, *[0.3] * 8][: last + 1]
    boxes = {2 + k: (Box(100, 100, 300, round(100 + 200 * h)),) for k, h in enumerate(heights)}
    zoom = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(2, 2 + last), boxes),))
    return rollout(scan, zoom, True)


@pytest.mark.parametrize(
    ("last", "norm", "spatial", "total"),
    [
        (8, "pred", 0.35, 5.75),
        (8, "named", 0.35, 5.75),
        (8, "gt", 0.35, 5.75),
        (0, "named", 0.75, 7.75),
        (0, "pred", 0.75 / 9, 4.4167),
        (0, "gt", 0.75 / 9, 4.4167),
    ],
)
def test_naming_the_easiest_frame_in_turn_two_alone_pays_under_one_reading_only(last, norm, spatial, total):
    parts = total_reward(shrunk_in_turn_two(last), truth(), RewardConfig(spatial_norm=norm))
    assert (parts.type, parts.temporal) == (1, 1)
    assert parts.spatial == pytest.approx(spatial, abs=1e-9)
    assert parts.total == pytest.approx(total, abs=1e-4)


def test_the_frames_of_equation_5_are_those_of_equation_4():
    # Turn one names native frames 12-20; half a stride more on both sides is shown, and true boxes are there as well.
    clip = range(10, 23, 2)
    boxes = dict.fromkeys(range(1, 4), (BOX,))
    zoom = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(1, 3), boxes),))
    found = Rollout(scan_report(start=3, end=5), zoom, True, SCAN, clip)
    assert found.predicted_frames() == {1, 2, 3, 4, 5}
    # True frames 12-28 are 1-6 of the clip: five of them in the window, three drawn.
    assert spatial_reward(found, truth()) == 3 / 5
    assert spatial_reward(found, truth(), norm="named") == 1
    # Two windows are two ranges, not what lies between; one that falls between two frames is the nearest.
    two = TurnReport(
        "abnormal",
        "",
        (Anomaly(AnomalyType.OBJECT, FrameRange(3, 3)), Anomaly(AnomalyType.MOTION, FrameRange(5, 6))),
    )
    assert Rollout(two, zoom, True, SCAN, range(8, 33, 2)).predicted_frames() == {2, 6, 7, 8}
    assert Rollout(two, zoom, True, SCAN, (9, 14, 19, 24)).predicted_frames() == {1, 3}
    assert Rollout(NORMAL, None, False, SCAN).predicted_frames() == set()


def overlap(a, b):
    """IoU by counting squares."""
    pixels_a = {(x, y) for x in range(a.xmin, a.xmax) for y in range(a.ymin, a.ymax)}
    pixels_b = {(x, y) for x in range(b.xmin, b.xmax) for y in range(b.ymin, b.ymax)}
    return Fraction(len(pixels_a & pixels_b), len(pixels_a | pixels_b))


def equation_5(found, video, norm):
    """Equation 5 from the definitions: native frames, counted squares, every pairing, exact fractions."""
    window = {
        n
        for a in found.scan.anomalies
        for n in range(found.scan_indices[a.frames.start], found.scan_indices[a.frames.end] + 1)
    }
    said = {found.clip_indices[k] for a in found.zoom.anomalies for k in range(a.frames.start, a.frames.end + 1)}
    where = {"pred": window, "named": said, "gt": said}[norm]
    values = []
    for n in video.anomalies[0].boxes if norm == "gt" else found.clip_indices:
        true = [b for a in video.anomalies for b in a.boxes.get(n, ())]
        matched = n in found.clip_indices and n in where
        if norm != "gt" and not matched:
            continue
        drawn = []
        if matched:
            place = list(found.clip_indices).index(n)
            drawn = [b for a in found.zoom.anomalies for b in a.boxes.get(place, ())]
        padded = [*drawn, *[None] * len(true)]
        pairings = permutations(range(len(padded)), len(true))
        tables = (
            [overlap(t, padded[k]) if padded[k] else Fraction(0) for t, k in zip(true, p, strict=True)]
            for p in pairings
        )
        values += max(tables, key=sum, default=[])
    return sum(values) / len(values) if values else Fraction(0)


def random_rollout(rng):
    """A video of 33 frames with boxes on every frame of the 8-fps grid, and a rollout that reached turn two."""

    def box():
        x, y = rng.integers(0, 6, 2)
        width, height = rng.integers(1, 5, 2)
        return Box(int(x), int(y), int(x + width), int(y + height))

    scan_grid, zoom_grid = list(range(0, 33, 4)), list(range(0, 33, 2))
    first, last = sorted(2 * rng.integers(0, 17, 2))
    boxes = {n: tuple(box() for _ in range(rng.integers(1, 3))) for n in range(first, last + 1, 2)}
    video = VideoAnnotation(
        "v", 33, 16, 64, 64, anomalies=(Anomaly(AnomalyType.OBJECT, FrameRange(int(first), int(last)), boxes),)
    )
    start, end = sorted(rng.integers(0, 9, 2))
    scan = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(int(start), int(end))),))
    margin = int(rng.integers(0, 2))
    clip = [n for n in zoom_grid if scan_grid[start] - 2 * margin <= n <= scan_grid[end] + 2 * margin]
    low, high = sorted(rng.integers(0, len(clip), 2))
    drawn = {
        int(k): tuple(box() for _ in range(rng.integers(1, 3))) for k in range(low, high + 1) if rng.random() < 0.8
    }
    zoom = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(int(low), int(high)), drawn),))
    return Rollout(scan, zoom, True, scan_grid, clip, [n for n in zoom_grid if n not in clip]), video


@pytest.mark.parametrize("norm", ["pred", "named", "gt"])
def test_equation_5_agrees_with_a_count_of_squares(norm):
    rng = np.random.default_rng(5)
    values = []
    for _ in range(draws(150, 60)):
        found, video = random_rollout(rng)
        expected = equation_5(found, video, norm)
        assert spatial_reward(found, video, norm=norm) == pytest.approx(float(expected), abs=1e-12)
        values.append(float(expected))
    assert sum(0 < v < 1 for v in values) > 20


def test_turn_two_may_be_measured_by_what_its_clip_shows():
    first = truth().anomalies[0]
    late = Anomaly(AnomalyType.MOTION, FrameRange(60, 70))
    video = replace(truth(), anomalies=(first, late))
    whole = total_reward(ENDINGS["abnormal, confirmed"], video)
    clip = total_reward(ENDINGS["abnormal, confirmed"], video, RewardConfig(clip_restricted=True))
    assert (whole.type, clip.type) == (0.5, 0.75)
    assert clip.total - whole.total == pytest.approx(2 * 0.25)


# --- answers that break the schema, whose status is legible -----------------------------------------------------------


@pytest.mark.parametrize(
    ("legible", "zoomed", "normal", "anomalous"),
    [
        (("normal", None), False, (-0.5, 0, -0.5), (-0.5, -1, -2.5)),
        (("abnormal", None), False, (-1, -1, -3), (-1, -1, -3)),
        ((None, None), False, (-1, -1, -3), (-1, -1, -3)),
    ],
)
def test_a_legible_status_counts_where_it_is_asked_for(legible, zoomed, normal, anomalous):
    found = Rollout(None, None, zoomed, SCAN, legible=legible)
    for video, expected in ((NORMAL_TRUTH, normal), (truth(), anomalous)):
        parts = total_reward(found, video)
        assert (parts.format, parts.status, parts.total) == expected


def test_a_legible_status_of_turn_two_opens_the_gate():
    found = replace(ENDINGS["abnormal, then invalid"], legible=(None, "abnormal"))
    parts = total_reward(found, truth())
    assert (parts.format, parts.status, parts.type, parts.temporal, parts.spatial) == (-0.5, 0, 0.5, 1, 0)
    cleared = replace(ENDINGS["abnormal, then invalid"], legible=(None, "normal"))
    assert total_reward(cleared, NORMAL_TRUTH, RewardConfig(rescued_normal=-0.5)).total == -0.5 - 1
    alone = Rollout(None, None, False, SCAN, legible=("normal", None))
    assert total_reward(alone, NORMAL_TRUTH, RewardConfig(num_turns=1)).total == -1


# --- what shrinking the window pays -----------------------------------------------------------------------------------

WHOLE = Box(0, 0, 100, 1000)
GRID = range(30)


def tube(ious, first, last, start=5):
    """A rollout that names frames ``first`` to ``last`` of a true tube of ``len(ious)`` frames, with those overlaps."""
    anomaly = Anomaly(
        AnomalyType.OBJECT, FrameRange(start, start + len(ious) - 1), {start + k: (WHOLE,) for k in range(len(ious))}
    )
    video = VideoAnnotation("v", 30, 8, 64, 64, anomalies=(anomaly,))
    clip = list(range(start + first, start + last + 1))
    named = {k: (Box(0, 0, 100, round(1000 * ious[first + k])),) for k in range(len(clip))}
    scan = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(clip[0], clip[-1])),))
    zoom = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(0, len(clip) - 1), named),))
    unseen = [n for n in GRID if n not in clip]
    return Rollout(scan, zoom, True, list(GRID), clip, unseen), video


def window_value(ious, first, last, norm):
    found, video = tube(ious, first, last)
    return 2 * temporal_reward(found, video) + 5 * spatial_reward(found, video, norm=norm)


@pytest.mark.parametrize(
    ("ious", "shrunk", "honest", "shrunk_gt"),
    [
        ([0.8, 0.2, 0.4, 0.2], 4.5, 4.0, 1.5),
        ([0.75, *[0.281] * 6, 0.284], 4.0, 3.7, 0.719),
        ([0.6, *[0.303] * 6, 0.302], 3.25, 3.7, 0.625),
        ([0.5, 0.18], 3.5, 3.7, 2.25),
    ],
)
def test_naming_the_easiest_frame_in_turn_one_pays_under_equation_5(ious, shrunk, honest, shrunk_gt):
    last = len(ious) - 1
    assert window_value(ious, 0, 0, "pred") == pytest.approx(shrunk, abs=2e-3)
    assert window_value(ious, 0, last, "pred") == pytest.approx(honest, abs=2e-3)
    assert window_value(ious, 0, 0, "gt") == pytest.approx(shrunk_gt, abs=1e-3)
    assert window_value(ious, 0, last, "gt") == pytest.approx(honest, abs=2e-3)


def test_no_part_of_a_window_beats_the_whole_with_all_true_boxes():
    rng = np.random.default_rng(0)
    paid = 0
    for _ in range(draws(500, 150)):
        ious = rng.uniform(0.05, 1, rng.integers(2, 10))
        last = len(ious) - 1
        first, end = sorted(rng.integers(0, last + 1, 2))
        assert window_value(ious, first, end, "gt") <= window_value(ious, 0, last, "gt") + 1e-9
        paid += window_value(ious, first, end, "pred") > window_value(ious, 0, last, "pred") + 1e-9
    assert paid > 0


def test_one_turn_control():
    """The halves become one whole; a valid answer of one turn is a valid rollout."""
    config = RewardConfig(num_turns=1)
    good = total_reward(rollout(scan_report(), None, False), truth(), config)
    assert (good.format, good.status, good.type, good.temporal, good.spatial, good.total) == (0, 0, 1, 1, 0, 4)
    assert total_reward(rollout(NORMAL, None, False), truth(), config).total == -2
    assert total_reward(rollout(None, None, False), truth(), config).total == -3
    assert total_reward(rollout(NORMAL, None, False), NORMAL_TRUTH, config).total == 0
    assert total_reward(rollout(scan_report(), None, False), NORMAL_TRUTH, config).total == -2


@pytest.mark.parametrize("name", ["type", "temporal", "spatial"])
def test_a_term_without_weight_adds_nothing(name):
    full = total_reward(ENDINGS["abnormal, confirmed"], truth())
    less = total_reward(ENDINGS["abnormal, confirmed"], truth(), RewardConfig(replace(RewardWeights(), **{name: 0.0})))
    assert less.total == full.total - getattr(RewardWeights(), name) * getattr(full, name)


def test_new_choices_are_checked():
    for wrong in ({"spatial_norm": "all"}, {"num_turns": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RewardConfig(**wrong)


# --- beside the paper: evidence scored by a referee, and what each term has to be told --------------------------------

BY_REFEREE = RewardConfig(RewardWeights(temporal=0, spatial=0, ser=5))


@pytest.mark.parametrize(
    ("ending", "total", "without_gate"),
    [
        ("abnormal, confirmed", 2 + 5 * 0.6, 2 + 5 * 0.6),
        ("abnormal, cleared", -2, -2 + 5 * 0.6),
        ("abnormal, then invalid", -2.5, -2.5 + 5 * 0.6),
        ("normal", -2, -2 + 5 * 0.6),
    ],
)
def test_evidence_for_a_wrong_answer_is_not_paid(ending, total, without_gate):
    assert total_reward(ENDINGS[ending], truth(), BY_REFEREE, ser=0.6).total == pytest.approx(total, abs=1e-12)
    free = total_reward(ENDINGS[ending], truth(), replace(BY_REFEREE, ser_gate="none"), ser=0.6)
    assert free.total == pytest.approx(without_gate, abs=1e-12) and free.ser == 0.6


def test_evidence_counts_for_anomalous_videos_alone_and_only_with_its_weight():
    for ending in ENDINGS.values():
        assert total_reward(ending, NORMAL_TRUTH, BY_REFEREE) == total_reward(ending, NORMAL_TRUTH)
        assert total_reward(ending, truth(), ser=1.0) == total_reward(ending, truth())
    with pytest.raises(ValueError, match=r"weight_ser=5 needs a referee's score"):
        total_reward(ENDINGS["abnormal, confirmed"], truth(), BY_REFEREE)
    with pytest.raises(ValueError, match=r"weight_ser=5 pays for boxes.*num_turns"):
        replace(BY_REFEREE, num_turns=1)


def test_a_reward_says_what_it_needs_and_what_is_missing_in_one_line():
    labels = {"gt_status", "gt_types"}
    check_reward_needs(RewardConfig(), ANNOTATED)
    check_reward_needs(BY_REFEREE, {*labels, "referee"})
    with pytest.raises(
        ValueError, match=r"^weight_ser=5 needs a referee: the data has none\. Set weight_ser to 0 or nam"
    ):
        check_reward_needs(BY_REFEREE, ANNOTATED)
    with pytest.raises(ValueError) as told:
        check_reward_needs(RewardConfig(), labels, "a.jsonl")
    assert str(told.value) == (
        "weight_temporal=2 needs windows of the anomalies; weight_spatial=5 needs windows of the anomalies and true "
        "boxes: a.jsonl has none. Set weight_temporal and weight_spatial to 0"
    )
    check_reward_needs(RewardConfig(RewardWeights(spatial=0)), ANNOTATED - {"gt_boxes"})
    check_reward_needs(RewardConfig(num_turns=1), ANNOTATED - {"gt_boxes"})
    assert "gt_windows" in RewardConfig(clip_restricted=True).needs["type"] - RewardConfig().needs["type"]


def test_every_weight_has_its_needs():
    assert NEEDS.keys() == {f.name for f in fields(RewardWeights)}


# --- tubes in place of Equations 4 and 5 ------------------------------------------------------------------------------

TUBES = RewardConfig(RewardWeights(temporal=1, spatial=1), localisation="tv_verifier")


def tube_rollout(frames, box=BOX, clip=CLIP):
    """Turn two names native frames of its clip and draws one box on each."""
    inside = [k for k, n in enumerate(clip) if n in frames]
    boxes = dict.fromkeys(inside, (box,))
    report = TurnReport("abnormal", "", (Anomaly(AnomalyType.OBJECT, FrameRange(inside[0], inside[-1]), boxes),))
    return Rollout(scan_report(), report, True, SCAN, clip, tuple(n for n in range(0, 81, 2) if n not in clip))


@pytest.mark.parametrize(
    ("answer", "t_iou", "inter", "union", "gt"),
    [
        (tube_rollout(range(12, 29)), 1, 1, 1, 1),
        (tube_rollout(range(20, 21)), 1 / 9, 1, 1 / 9, 1 / 9),  # one perfect frame of nine
        (tube_rollout(range(8, 33)), 9 / 13, 1, 9 / 13, 1),  # the whole clip
        (tube_rollout(range(12, 29), Box(100, 100, 300, 200)), 1, 0.5, 0.5, 0.5),
        (tube_rollout(range(12, 21), clip=range(12, 21, 2)), 5 / 9, 1, 5 / 9, 5 / 9),  # the rest was not looked at
    ],
)
def test_tubes_golden(answer, t_iou, inter, union, gt):
    for norm, mv_iou in (("inter", inter), ("union", union), ("gt", gt)):
        assert tube_reward(answer, truth(), norm=norm) == pytest.approx((t_iou, mv_iou), abs=1e-9)
        parts = total_reward(answer, truth(), replace(TUBES, mv_norm=norm))
        assert (parts.temporal, parts.spatial) == pytest.approx((t_iou, mv_iou), abs=1e-9)
        assert parts.total == pytest.approx(2 + t_iou + mv_iou, abs=1e-9)


def test_tubes_replace_two_terms_and_nothing_else():
    for ending, parts in ((name, total_reward(r, truth(), TUBES)) for name, r in ENDINGS.items()):
        paper = total_reward(ENDINGS[ending], truth(), RewardConfig(TUBES.weights))
        assert (parts.format, parts.status, parts.type) == (paper.format, paper.status, paper.type)
        assert total_reward(ENDINGS[ending], NORMAL_TRUTH, TUBES) == total_reward(ENDINGS[ending], NORMAL_TRUTH)
    assert total_reward(ENDINGS["abnormal, cleared"], truth(), TUBES).temporal == 0
    assert tube_reward(ENDINGS["abnormal, then invalid"], truth()) == (0, 0)


def test_tubes_of_a_judge_of_one_turn_are_its_window():
    parts = total_reward(ENDINGS["normal"], truth(), replace(TUBES, num_turns=1))
    assert parts == total_reward(ENDINGS["normal"], truth(), RewardConfig(TUBES.weights, num_turns=1))


def test_an_unknown_verifier_is_refused():
    with pytest.raises(ValueError, match="localisation='tv' must be"):
        RewardConfig(localisation="tv")
