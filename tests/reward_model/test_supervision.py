"""Annotations as people give them: how far they are from the truth, measured."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.grounding import spatial_iou
from reward_model.world import KINDS, as_people_annotate, make_annotation, make_scene
from reward_model.world.kinds import BOUNDARY
from reward_model.world.supervision import DEFAULT_TYPE
from tests.campaigns import draws


def truths(count: int):
    return [make_annotation(make_scene(k, list(KINDS)[k % len(KINDS)])) for k in range(count)]


def test_windows_boxes_and_types_are_as_far_off_as_stated():
    rng = np.random.default_rng(0)
    overlaps, off, untyped = [], [], []
    for truth in truths(draws(300, 90)):
        exact, blunt = truth.anomalies[0], as_people_annotate(truth, rng).anomalies[0]
        off += [blunt.frames.start - exact.frames.start, blunt.frames.end - exact.frames.end]
        untyped += [blunt.type is DEFAULT_TYPE] if exact.type is not DEFAULT_TYPE else []
        for n in exact.boxes.keys() & blunt.boxes.keys() if truth.video_id.split("-")[-1] not in BOUNDARY else ():
            pairs = zip(exact.boxes[n], blunt.boxes[n], strict=True)
            overlaps += [spatial_iou(a, b) for a, b in pairs]
    seconds = np.abs(off) / 16
    assert seconds.max() <= 0.5 and seconds.mean() == pytest.approx(0.25, abs=0.03)
    assert np.mean(overlaps) == pytest.approx(0.6, abs=0.03) and 0.05 < np.std(overlaps) < 0.2
    assert np.mean(untyped) == pytest.approx(0.2, abs=0.06)


def test_the_status_stays_true_and_what_is_given_is_an_annotation():
    rng = np.random.default_rng(1)
    for truth in [*truths(draws(45, 15)), make_annotation(make_scene(3))]:
        blunt = as_people_annotate(truth, rng)
        assert blunt.status == truth.status and type(blunt).from_dict(blunt.to_dict()) == blunt
        for anomaly, exact in zip(blunt.anomalies, truth.anomalies, strict=True):
            assert anomaly.boxes and anomaly.reason == exact.reason
            assert all(len(boxes) in {len(b) for b in exact.boxes.values()} for boxes in anomaly.boxes.values())
            if set(exact.frames.frames()) <= set(exact.boxes):
                assert sorted(anomaly.boxes) == list(anomaly.frames.frames())


def test_boxes_of_what_goes_stay_at_the_edges_of_its_window():
    rng = np.random.default_rng(2)
    for seed in range(draws(30, 10)):
        truth = make_annotation(make_scene(seed, "vanish"))
        blunt = as_people_annotate(truth, rng, off_s=0.2).anomalies[0]
        assert blunt.frames.start - 1 in blunt.boxes and blunt.frames.end + 1 in blunt.boxes
        assert all(n not in blunt.frames for n in blunt.boxes)


def test_nothing_off_is_the_truth_and_the_generator_decides():
    truth = truths(1)[0]
    exact = as_people_annotate(truth, np.random.default_rng(0), off_s=0, box_iou=0.9, untyped=0)
    assert exact.anomalies[0].frames == truth.anomalies[0].frames and exact.types == truth.types
    one, other = (as_people_annotate(truth, np.random.default_rng(k)) for k in (5, 5))
    assert one == other != as_people_annotate(truth, np.random.default_rng(6))


@pytest.mark.parametrize("options", [{"off_s": -1}, {"box_iou": 0.1}, {"untyped": 2}])
def test_impossible_people_are_refused(options):
    with pytest.raises(ValueError, match=r"off_s=.* box_iou=.* untyped="):
        as_people_annotate(truths(1)[0], np.random.default_rng(0), **options)
