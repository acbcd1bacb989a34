"""The second round of review: who checks what, when two annotations agree, and which batches are kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from reward_model.data.records import Record
from reward_model.data.review import (
    CHECKER_KEY,
    compare_annotations,
    draw_spot_check,
    review_agreement,
    reviewer_agreement,
)
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation


def record(name: str, anomalies: tuple[Anomaly, ...] = (), **extra: Any) -> Record:
    return Record(f"{name}.mp4", VideoAnnotation(name, 40, 8.0, 16, 16, anomalies=anomalies), extra=extra)


def anomaly(start: int = 0, end: int = 9, kind: AnomalyType = AnomalyType.HUMAN, width: int = 100) -> Anomaly:
    return Anomaly(kind, FrameRange(start, end), {n: (Box(0, 0, width, 100),) for n in range(start, end + 1)})


def pool() -> list[Record]:
    people = ("ann", "bob", "eve")
    return [record(f"{b}{k}", batch=b, annotator=f"w{k}", reviewer=people[k % 3]) for b in "xy" for k in range(25)]


# --- spot check -------------------------------------------------------------------------------------------------------


def test_a_tenth_of_every_batch_rounded_up_goes_to_someone_else():
    drawn = draw_spot_check(pool(), ["ann", "bob", "eve"])
    assert Counter(r.extra["batch"] for r in drawn) == {"x": 3, "y": 3}
    assert all(r.extra[CHECKER_KEY] not in (r.extra["reviewer"], r.extra["annotator"]) for r in drawn)
    assert max(Counter(r.extra[CHECKER_KEY] for r in drawn).values()) <= 3


def test_exact_tenths_are_not_rounded_up():
    assert len(draw_spot_check([record(str(k)) for k in range(30)], ["zoe"])) == 3


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    def names(records: list[Record], seed: int) -> set[str]:
        return {r.truth.video_id for r in draw_spot_check(records, ["zoe"], seed=seed)}

    assert names(pool(), 0) == names(pool()[::-1], 0)
    assert len({frozenset(names(pool(), s)) for s in range(5)}) > 1


def test_work_is_spread_evenly():
    drawn = draw_spot_check(pool(), ["zoe", "max"], fraction=1.0)
    assert Counter(r.extra[CHECKER_KEY] for r in drawn) == {"zoe": 25, "max": 25}


@pytest.mark.parametrize(
    ("reviewers", "fraction", "message"),
    [(["ann"], 1.0, "name one more"), ([], 0.1, "no reviewers"), (["z"], 0, "fraction=0"), (["z"], 1.1, "at most 1")],
)
def test_impossible_checks_are_refused(reviewers, fraction, message):
    with pytest.raises(ValueError, match=message):
        draw_spot_check(pool(), reviewers, fraction=fraction)


# --- two annotations of one video -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "differs"),
    [
        ((anomaly(),), set()),
        ((), {"status", "types"}),
        ((anomaly(kind=AnomalyType.OBJECT),), {"types"}),
        ((anomaly(), anomaly(kind=AnomalyType.OBJECT)), {"types"}),
        ((anomaly(0, 19),), {"window", "boxes"}),  # IoU 0.5 is not above 0.5
        ((anomaly(0, 17),), set()),  # 10 / 18
        ((anomaly(width=50),), {"boxes"}),
        ((anomaly(width=60),), set()),
        ((replace(anomaly(), boxes={}),), {"boxes"}),
    ],
)
def test_each_aspect_is_compared_by_itself(second, differs):
    first = record("a", (anomaly(),)).truth
    for a, b in ((first, record("a", second).truth), (record("a", second).truth, first)):
        assert {k for k, same in compare_annotations(a, b).items() if not same} == differs


def test_one_window_cut_in_two_is_the_same_window():
    cut = (anomaly(0, 4), anomaly(5, 9))
    assert all(compare_annotations(record("a", (anomaly(),)).truth, record("a", cut).truth).values())


def test_boxes_too_many_count_like_boxes_too_few():
    boxes = {n: (Box(0, 0, 100, 100), Box(500, 500, 600, 600), Box(800, 800, 900, 900)) for n in range(10)}
    more = replace(anomaly(), boxes=boxes)
    found = compare_annotations(record("a", (anomaly(),)).truth, record("a", (more,)).truth)
    assert not found["boxes"]


# --- batches ----------------------------------------------------------------------------------------------------------


def reviewed(wrong: int, total: int = 20) -> Any:
    first = [record(f"v{k}", (anomaly(),) if k % 2 else (), batch="b") for k in range(total)]
    second = [record(r.truth.video_id, () if k % 2 else (anomaly(),)) if k < wrong else r for k, r in enumerate(first)]
    return review_agreement(first, second)


def test_a_batch_is_kept_only_above_95_percent():
    assert reviewed(0).batches[0].kept
    edge = reviewed(1).batches[0]
    assert edge.agreement == 0.95 and not edge.kept and edge.disputed == ("v0",)
    assert reviewed(1, total=21).batches[0].kept
    assert edge.by_aspect == {"status": 19, "types": 19, "window": 20, "boxes": 20}


def test_batches_are_judged_apart_and_unchecked_ones_are_named():
    first = [record(f"{b}{k}", (anomaly(),), batch=b) for b in "xyz" for k in range(3)]
    second = [record("x0", (anomaly(),)), record("y0"), record("y1", (anomaly(),))]
    result = review_agreement(first, second)
    assert [(b.batch, b.num_checked, b.num_agreed, b.kept) for b in result.batches] == [
        ("x", 1, 1, True),
        ("y", 2, 1, False),
    ]
    assert result.unchecked == ("z",)
    assert json.loads(json.dumps(result.to_dict()))["batches"][1]["disputed"] == ["y0"]
    text = result.to_markdown()
    assert "back to annotation" in text and "Never checked: z." in text


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        ([], {}, "no video was checked"),
        ([record("stranger")], {}, "'stranger' was checked but not annotated"),
        ([record("a")], {"threshold": 95}, "between 0 and 1"),
    ],
)
def test_reviews_that_make_no_sense_are_refused(second, options, message):
    with pytest.raises(ValueError, match=message):
        review_agreement([record("a")], second, **options)


def test_agreement_beyond_chance_is_measured_per_label():
    """20 + 15 of 50 agree, 5 and 10 do not: kappa 0.4. Only Human occurs, so its kappa is the same."""
    first = [record(str(k), (anomaly(),) if k < 25 else ()) for k in range(50)]
    second = [record(str(k), (anomaly(),) if k < 20 or 25 <= k < 35 else ()) for k in range(50)]
    kappa, alpha = reviewer_agreement([first, second])
    assert kappa["status"] == pytest.approx(0.4) == kappa["Human Distortion"]
    assert kappa["Motion Anomalies"] is None and alpha["status"] == pytest.approx(1 - 99 * 30 / 4950)


def test_three_raters_have_an_alpha_and_no_kappa():
    rows = [record("a", (anomaly(),)), record("b")]
    kappa, alpha = reviewer_agreement([rows, rows, rows[:1]])
    assert kappa["status"] is None and alpha["status"] == 1
    with pytest.raises(ValueError, match="two raters"):
        reviewer_agreement([rows])
