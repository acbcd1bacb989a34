"""Benches: balance, cells, seeds, files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import imageio.v3 as iio
import numpy as np
import pytest

from reward_model.data.annotations import write_annotations
from reward_model.data.records import Record
from reward_model.evaluation import (
    DemandingBench,
    DevBench,
    HardBench,
    JsonlBench,
    MainBench,
    OodBench,
    SecondLookBench,
    ShiftBench,
    WorldBench,
)
from reward_model.evaluation.benches.bench import (
    CALIBRATION_SEED,
    DEMANDING_SEED,
    DEV_DEMANDING_SEED,
    DEV_SECOND_LOOK_SEED,
    DEV_SEED,
    DEV_SHIFT_SEED,
    HARD_SEED,
    MAIN_SEED,
    OOD_SEED,
    SECOND_LOOK_SEED,
    SHIFT_SEED,
    CalibrationBench,
)
from reward_model.evaluation.benches.demanding import CELLS as DEMANDING_CELLS
from reward_model.evaluation.benches.hard import _CELL_SEEDS
from reward_model.evaluation.benches.names import open_bench
from reward_model.evaluation.benches.records import RecordBench, balanced_records
from reward_model.evaluation.running.store import bench_fingerprint
from reward_model.schema import AnomalyType
from reward_model.video.clip import VideoError, sample_indices
from reward_model.world import KINDS, LOOK_ALIKES, SHIFTS, STRATA, make_video
from reward_model.world.cells import CELLS, anomaly_cell
from tests.campaigns import draws


def test_reserved_seeds_never_meet():
    spans = sorted(
        [
            (CALIBRATION_SEED, len(CalibrationBench())),
            (MAIN_SEED, len(MainBench())),
            (HARD_SEED, len(CELLS) * _CELL_SEEDS),
            (OOD_SEED, len(OodBench())),
            (DEV_SEED, len(DevBench())),
            (DEV_SHIFT_SEED, 2 * len(ShiftBench())),  # room for twice the usual number of videos
            (DEV_DEMANDING_SEED, 2 * len(DemandingBench())),
            (DEV_SECOND_LOOK_SEED, 8 * len(SecondLookBench())),
            (SHIFT_SEED, 2 * len(ShiftBench())),
            (DEMANDING_SEED, 2 * len(DemandingBench())),
            (SECOND_LOOK_SEED, 8 * len(SecondLookBench())),
            (900_000, 0),  # from here on: tests and people's own
        ]
    )
    assert all(start + count <= following for (start, count), (following, _) in pairwise(spans))


def test_main_is_500_and_500_with_all_kinds_in_turn():
    bench = MainBench()
    assert len(bench) == 1000 and bench.seed == 500_000
    kinds = [bench.kinds[k // 2 % len(bench.kinds)] for k in range(1, 1000, 2)]
    assert max(Counter(kinds).values()) - min(Counter(kinds).values()) <= 1 and set(kinds) == set(KINDS)
    assert [bench[k].truth.status for k in (0, 1, 998, 999)] == ["normal", "abnormal"] * 2


def test_normal_videos_play_where_the_abnormal_ones_do():
    bench = WorldBench(2 * len(KINDS), kinds=["scramble", "bent_limb"])
    found = Counter(v.truth.video_id.rsplit("-", 1)[1] for v in (bench[k] for k in range(0, 12, 2)))
    assert found == {"sign": 3, "person": 3}


def test_ood_differs_in_looks_only():
    plain, ink = WorldBench(2, seed=OOD_SEED)[1], OodBench()[1]
    assert ink.truth.anomalies[0].frames == plain.truth.anomalies[0].frames
    assert not np.array_equal(ink.frames, plain.frames) and OodBench().describe()["style"] == "ink"


def test_hard_fills_its_four_cells_equally_and_always_alike():
    each = draws(6, 2)
    bench = HardBench(each)
    videos = list(bench)
    assert len(HardBench()) == 400 and len(videos) == 4 * each
    assert Counter(anomaly_cell(v.truth) for v in videos) == dict.fromkeys(CELLS, each)
    assert len({v.truth.video_id for v in videos}) == 4 * each and all(v.truth.status == "abnormal" for v in videos)
    again = HardBench(each)
    np.testing.assert_array_equal(
        again[4 * each - 1].frames, videos[-1].frames
    )  # another order of asking, the same video
    assert len({v.kind for v in videos}) >= each


def test_hard_cells_that_cannot_be_filled_are_an_error(monkeypatch):
    monkeypatch.setattr("reward_model.evaluation.benches.hard._CELL_SEEDS", 30)
    with pytest.raises(ValueError, match=r"only \d+ of 50 .*allow more kinds"):
        HardBench(50)[1]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: HardBench(0), "at least 1"),
        (lambda: HardBench(seed=5), "belongs to training"),
        (lambda: HardBench(kinds=["melting"]), "must name some"),
        (lambda: HardBench(2)[8], "video 8"),
        (lambda: open_bench("hard", videos=6), "multiple of its 4 cells"),
        (lambda: open_bench("easy"), "no bench 'easy'"),
        (lambda: ShiftBench(3), "even and at least 2"),
        (lambda: ShiftBench(shifts=["sideways"]), "must name some of plain"),
        (lambda: ShiftBench(kinds=["mirror"]), "'mirror' can show none of the kinds mirror"),
        (lambda: ShiftBench(seed=5), "belongs to training"),
        (lambda: DemandingBench(0), "at least 1"),
        (lambda: DemandingBench(1)[60], "video 60"),
        (lambda: open_bench("shift", videos=50), "multiple of its 70 shifts"),
        (lambda: open_bench("demanding", videos=50), "multiple of its 60 parts"),
        (lambda: open_bench("vif=x.json"), "pattern of their names"),
    ],
)
def test_impossible_benches_are_refused(call, match):
    with pytest.raises((ValueError, IndexError), match=match):
        call()


def test_names_open_benches():
    name, bench = open_bench("hard", videos=8, size=24)
    assert name == "hard" and len(bench) == 8 and bench[0].frames.shape[1:] == (24, 24, 3)
    assert open_bench("main", videos=10, seed=900_000)[1] == MainBench(10)  # the seed of main is reserved
    assert len(open_bench("shift", videos=140)[1]) == 140 and len(open_bench("dev-demanding", videos=60)[1]) == 60
    assert open_bench("world", videos=10, seed=900_000)[1] == WorldBench(10, 900_000)


def test_benches_for_choices_share_no_seed_with_those_that_are_reported():
    assert open_bench("dev")[1] == DevBench() and DevBench().seed == DEV_SEED
    benches = (
        ("shift", ShiftBench, DEV_SHIFT_SEED),
        ("demanding", DemandingBench, DEV_DEMANDING_SEED),
        ("second-look", SecondLookBench, DEV_SECOND_LOOK_SEED),
    )
    for name, kind, own in benches:
        (_, reported), (_, chosen) = open_bench(name), open_bench(f"dev-{name}")
        assert reported == kind() and chosen.seed == own and len(chosen) == len(reported)


def test_shift_holds_every_shift_half_normal_and_reports_them_apart():
    bench = ShiftBench(2, shifts=("1 s", "wide", "crf 40"))
    videos = list(bench)
    assert Counter(v.group for v in videos) == dict.fromkeys(bench.shifts, 2)
    for name in bench.shifts:
        part = [v for v in videos if v.group == name]
        assert Counter(v.truth.status for v in part) == {"normal": 1, "abnormal": 1}
        assert all((v.kind != "") == (v.truth.status == "abnormal") for v in part)
        assert all(v.frames.shape == (v.truth.num_frames, v.truth.height, v.truth.width, 3) for v in part)
    assert len({v.truth.video_id for v in videos}) == len(videos)
    np.testing.assert_array_equal(bench[3].frames, videos[3].frames)
    assert len(ShiftBench()) == 20 * len(SHIFTS) and set(ShiftBench().describe()["shifts"]) == set(SHIFTS)


def test_every_kind_of_anomaly_is_in_the_shift_bench_as_it_comes():
    bench = ShiftBench(2)
    assert len(bench) == 2 * len(SHIFTS)
    kinds = {bench._kinds(SHIFTS[n])[t % len(bench._kinds(SHIFTS[n]))] for t, n in enumerate(bench.shifts)}
    assert kinds == set(KINDS)


def test_demanding_holds_pairs_of_one_scene_in_every_stratum():
    bench = DemandingBench(1, size=24)
    videos = list(bench)
    assert len(videos) == 2 * len(DEMANDING_CELLS) and len({v.truth.video_id for v in videos}) == len(videos)
    for calm, wrong in zip(videos[::2], videos[1::2], strict=True):
        assert (calm.truth.status, wrong.truth.status) == ("normal", "abnormal") and calm.group == wrong.group
        assert calm.kind == "" != wrong.kind and calm.frames.shape == wrong.frames.shape
    expected = {f"{stratum}/{case}": 2 for stratum in STRATA for case in LOOK_ALIKES}
    assert Counter(v.group for v in videos) == {**expected, "short/met once": 6, "short/missed": 6, "easy": 12}
    for video in videos:
        grid = sample_indices(video.truth.num_frames, video.truth.fps, 4)
        met = sum(n in a.frames for a in video.truth.anomalies for n in grid)
        if video.group.startswith("short") and video.kind:
            assert met == (video.group == "short/met once")
    np.testing.assert_array_equal(bench[41].frames, videos[41].frames)


def test_the_scan_sees_no_difference_where_the_zoom_decides():
    bench = DemandingBench(1)
    for k in range(0, len(bench), 2 * draws(1, 3)):
        if bench[k].group.partition("/")[0] in ("zoom", "neither"):
            calm, wrong = bench[k], bench[k + 1]
            rate = 4 if calm.group.startswith("zoom") else 8
            seen = sample_indices(calm.truth.num_frames, calm.truth.fps, rate)
            np.testing.assert_array_equal(calm.frames[seen], wrong.frames[seen])
            assert (calm.frames != wrong.frames).any()


def test_second_look_holds_its_shares_and_the_scan_sees_no_difference():
    bench = SecondLookBench(10)
    videos = list(bench)
    assert Counter(v.group for v in videos) == {"zoom/fade": 8, "easy": 2}
    assert len({v.truth.video_id for v in videos}) == 10
    for calm, wrong in zip(videos[::2], videos[1::2], strict=True):
        assert (calm.truth.status, wrong.truth.status) == ("normal", "abnormal") and calm.group == wrong.group
        assert (calm.kind, wrong.kind) == ("", "vanish") and (calm.frames != wrong.frames).any()
        if calm.group == "zoom/fade":
            seen = sample_indices(calm.truth.num_frames, calm.truth.fps, 4)
            np.testing.assert_array_equal(calm.frames[seen], wrong.frames[seen])
    np.testing.assert_array_equal(bench[7].frames, videos[7].frames)


@pytest.mark.slow
def test_second_look_takes_other_stories_and_kinds():
    stories = {"zoom/look-alike": 0.5, "short": 0.25}
    bench = SecondLookBench(24, 900_000, stories, ("squash", "teleport"))
    groups = Counter(v.group.partition("/")[0] for v in bench)
    assert groups == {"zoom": 12, "short": 6, "easy": 6}
    assert len({v.group for v in bench}) > 4 and bench.describe()["stories"] == stories
    kinds = {v.kind for v in bench if not v.group.startswith("zoom") and v.kind}
    assert kinds == {"squash", "teleport"}
    for call in (
        lambda: SecondLookBench(3),
        lambda: SecondLookBench(4, 5),
        lambda: SecondLookBench(4, stories={"x": 1}),
    ):
        with pytest.raises(ValueError, match=r"must be even|belongs to training|must give shares"):
            call()


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four annotated videos on disk."""
    root = tmp_path_factory.mktemp("videos")
    records = []
    for k, kind in enumerate((None, "squash", None, "vanish")):
        frames, truth = make_video(900_000 + k, kind, num_frames=33)
        iio.imwrite(root / f"{k}.mp4", frames, fps=16, codec="libx264", plugin="pyav")
        records.append(Record(f"{k}.mp4", truth, "test" if k < 2 else "train"))
    write_annotations(root / "all.jsonl", records)
    return root


def test_annotated_files_are_a_bench(folder):
    bench = JsonlBench(folder / "all.jsonl")
    assert len(bench) == 4 and bench[1].frames.shape == (33, 48, 48, 3) and bench[1].frames.dtype == np.uint8
    assert [v.kind for v in bench] == ["", AnomalyType.OBJECT.value, "", AnomalyType.MOTION.value]
    part = JsonlBench(folder / "all.jsonl", split="test")
    assert [v.truth.status for v in part] == ["normal", "abnormal"] and part.describe()["split"] == "test"
    name, named = open_bench(f"mine={folder / 'all.jsonl'}", videos=3)
    assert (name, len(named)) == ("mine", 3)
    with pytest.raises(ValueError, match="no video of split 'x'; its splits are 'test', 'train'"):
        JsonlBench(folder / "all.jsonl", split="x")


def test_frames_that_do_not_fit_the_annotation_are_an_error(folder):
    record = JsonlBench(folder / "all.jsonl").records[0]
    longer = replace(record, truth=replace(record.truth, num_frames=40))
    with pytest.raises(VideoError, match="33 frames, its annotation 40"):
        RecordBench([longer], folder, "x")[0]


def test_balance_draws_as_many_of_both_by_seed(folder):
    records = JsonlBench(folder / "all.jsonl").records
    many = [records[k % 4 if k < 8 else 0] for k in range(30)]  # 4 abnormal, 26 normal
    found = balanced_records(many, seed=3)
    assert Counter(r.truth.status for r in found) == {"normal": 4, "abnormal": 4}
    assert (
        balanced_records(many, 4, seed=3) == balanced_records(many, 4, seed=3) and len(balanced_records(many, 4)) == 4
    )
    for num in (3, 0, 10):
        with pytest.raises(ValueError, match="balanced subset"):
            balanced_records(many, num)


def test_fingerprints_follow_settings_pixels_and_truth(folder):
    marks = {bench_fingerprint(b) for b in (WorldBench(4), WorldBench(6), WorldBench(4, size=24), OodBench(4))}
    assert len(marks) == 4 and bench_fingerprint(WorldBench(4)) in marks
    bench = JsonlBench(folder / "all.jsonl")
    before = bench_fingerprint(bench)
    truth = bench.records[1].truth
    bench.records[1] = replace(bench.records[1], truth=replace(truth, prompt="another"))
    assert bench_fingerprint(bench) != before


def test_vif_cot_is_a_balanced_bench(folder, tmp_path):
    fake = (
        "<type>Shape Distortion</type> in <t>[0.5, 1.0]</t> at <bbox>[0.1, 0.2, 0.5, 0.6]</bbox> <answer>Fake</answer>"
    )
    samples = []
    for k, label in enumerate(("real", "fake", "real", "real")):
        frames = [f"x/parsed_frames/k400/{label}/gen/{k}/{n}.png" for n in range(3)]
        text = (
            fake if label == "fake" else "<t>[0.0, 1.0]</t> at <bbox>[0.1, 0.1, 0.2, 0.2]</bbox> <answer>Real</answer>"
        )
        samples.append({"messages": [{"role": "assistant", "content": text}], "images": frames})
    (tmp_path / "sft.json").write_text(json.dumps(samples))
    name, bench = open_bench(f"vif={tmp_path / 'sft.json'}", video_root=folder, video_pattern="{video_id}.mp4")
    assert name == "vif-cot" and len(bench) == 2 and bench.describe()["left_out"] == 0
    assert {v.truth.status: v.kind for v in bench} == {"normal": "", "abnormal": AnomalyType.OBJECT.value}
    with pytest.raises(ValueError, match="at most 2"):
        open_bench(f"vif={tmp_path / 'sft.json'}", video_root=folder, video_pattern="{video_id}.mp4", videos=4)
