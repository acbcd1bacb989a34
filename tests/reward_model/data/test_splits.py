"""Splits: nothing leaks, nothing depends on order or machine, classes come out 1:1 when asked for."""

from __future__ import annotations

import random

import pytest

from reward_model.data.records import Record
from reward_model.data.splits import STAGE_PROPORTIONS, position, split_records
from reward_model.data.stage_split import stage_records
from reward_model.schema import Anomaly, AnomalyType, FrameRange, VideoAnnotation


def record(name: str, abnormal: bool, group: str | None = None) -> Record:
    anomalies = (Anomaly(AnomalyType.OBJECT, FrameRange(0, 1)),) if abnormal else ()
    truth = VideoAnnotation(name, 8, 8.0, 16, 16, anomalies=anomalies)
    return Record(f"{name}.mp4", truth, extra={"group": group} if group else {})


def twins(count: int) -> list[Record]:
    """An original and its altered twin per source."""
    return [record(f"{k}{'-bad' * bad}", bool(bad), f"source-{k}") for k in range(count) for bad in (0, 1)]


def test_twins_share_a_split_and_originals_without_a_group_key_too():
    outcome = split_records([*twins(300), *(record(f"clip{k}", False) for k in range(300))])
    splits: dict[str, set[str]] = {}
    for r in outcome.records:
        splits.setdefault(r.group, set()).add(r.split)
    assert all(len(s) == 1 for s in splits.values()) and not outcome.dropped
    # A twin may name its original's id as the group.
    pair = split_records([record("o", False), record("t", True, "o")]).records
    assert pair[0].split == pair[1].split


def test_sizes_follow_the_stages():
    outcome = split_records([record(str(k), k % 2 == 0) for k in range(5000)])
    total = sum(STAGE_PROPORTIONS.values())
    for name, weight in STAGE_PROPORTIONS.items():
        share = sum(outcome.counts()[name].values()) / 5000
        assert abs(share - weight / total) < 0.02


def test_the_draw_is_the_same_in_any_order_and_with_more_videos():
    first = twins(100)
    split_of = {r.truth.video_id: r.split for r in split_records(first, seed=3).records}
    more = [*first, *(record(f"new{k}", k % 2 == 0) for k in range(100))]
    random.Random(0).shuffle(more)
    again = split_records(more, seed=3).records
    assert {r.truth.video_id: r.split for r in again if r.truth.video_id in split_of} == split_of
    assert [r.truth.video_id for r in again] == [r.truth.video_id for r in more]
    assert {r.truth.video_id: r.split for r in split_records(first, seed=4).records} != split_of


def test_the_hash_is_the_same_on_every_machine():
    assert position("clip-1", 0) == pytest.approx(
        0.2277115705831802, abs=1e-12
    )  # first 14 digits of sha256sum, as a fraction


def test_drop_makes_classes_equal_and_keeps_twins_together():
    records = twins(40) + [record(f"extra{k}", True) for k in range(30)] + [record(f"n{k}", False) for k in range(5)]
    outcome = split_records(records, {"train": 3, "test": 1}, balance="drop")
    assert all(c["normal"] == c["abnormal"] for c in outcome.counts().values())
    assert len(outcome.records) + len(outcome.dropped) == len(records)
    assert not any(r.group.startswith("source") for r in outcome.dropped)
    assert len(outcome.dropped) == 25


def test_of_many_twins_each_source_keeps_one():
    records = [record(f"o{g}", False, f"g{g}") for g in range(6)]
    records += [record(f"t{g}-{k}", True, f"g{g}") for g in range(6) for k in range(4)]
    kept = split_records(records, {"all": 1}, balance="drop").records
    assert sorted(r.group for r in kept if r.truth.anomalies) == [f"g{g}" for g in range(6)]


def test_a_split_of_one_class_is_emptied_by_drop_and_refused_by_error():
    records = [record(str(k), True) for k in range(4)]
    assert split_records(records, {"all": 1}, balance="drop").records == []
    with pytest.raises(ValueError, match="0 normal and 4 abnormal"):
        split_records(records, {"all": 1}, balance="error")
    assert len(split_records(twins(4), {"all": 1}, balance="error").records) == 8


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 1, "b": -1}, {"a": float("nan")}, {"": 1}])
def test_weights_must_make_sense(weights):
    with pytest.raises(ValueError, match="weight"):
        split_records(twins(1), weights)


def test_a_test_share_is_disjoint_by_footage_and_moves_nothing_else():
    """Fails if a twin of a test video stays in training, or if asking for a test set reshuffles the stages."""
    without = {r.truth.video_id: r.split for r in split_records(twins(400)).records}
    outcome = split_records(twins(400), test=0.2)
    assert abs(sum(outcome.counts()["test"].values()) / 800 - 0.2) < 0.05
    tested = {r.group for r in outcome.records if r.split == "test"}
    assert not tested & {r.group for r in outcome.records if r.split != "test"}
    assert all(r.split == without[r.truth.video_id] for r in outcome.records if r.split != "test")
    # Drawn apart from the stages: each of them gives up its share.
    lost = [r.truth.video_id for r in outcome.records if r.split == "test"]
    assert {without[name] for name in lost} == set(STAGE_PROPORTIONS)


@pytest.mark.parametrize(
    ("test", "records", "options", "message"),
    [
        (1.0, twins(4), {}, "from 0 to below 1"),
        (-0.1, twins(4), {}, "from 0 to below 1"),
        (float("nan"), twins(4), {}, "from 0 to below 1"),
        (0.01, twins(4), {}, "no video for the test set with seed 0.*seed [0-9]+ gives both"),
        (0.99, twins(4), {}, "no video for the other splits with seed 0"),
        (0.5, twins(1), {}, r"Add footage$"),
        (0.5, [record(str(k), True) for k in range(20)], {"balance": "drop"}, "of one class only"),
        (0.1, twins(4), {"proportions": {"train": 9, "test": 1}}, "use one of the two"),
    ],
)
def test_a_test_share_that_leaves_nothing_is_refused_with_a_remedy(test, records, options, message):
    with pytest.raises(ValueError, match=message):
        split_records(records, test=test, **options)


def test_the_seed_that_the_message_names_works():
    with pytest.raises(ValueError, match="no video for the test set") as caught:
        split_records(twins(4), test=0.01)
    seed = int(str(caught.value).rpartition("seed ")[2].split()[0])
    assert "test" in split_records(twins(4), test=0.01, seed=seed).counts()


@pytest.mark.parametrize("stage", ["stage1", "stage3"])
def test_a_stage_holds_out_its_share_of_the_file_that_split_wrote_for_it(stage):
    """Fails if both draws use the same number: stage 1 then holds out nothing, and stage 3 nearly half."""
    own = [r for r in split_records(twins(600), test=0.1).records if r.split == stage]
    train, held = stage_records(own, stage, held_out=0.2)
    assert abs(len(held) / len(own) - 0.2) < 0.08 and not {r.group for r in train} & {r.group for r in held}
