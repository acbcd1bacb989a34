"""Claims that a referee practises on: exact grades, every way of being wrong, every kind of the world."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reward_model.config import JudgeConfig
from reward_model.evidence.practice import WAYS, draw_practice
from reward_model.evidence.referee import LOOSE_IOU, TIGHT_IOU
from reward_model.grounding import spatial_iou
from reward_model.minis.referee import load_practice, practice_rows, world_practice
from reward_model.prompts.referee import parse_grades
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.world.kinds import KINDS, SINGLE_FRAME
from tests.campaigns import draws

BOX = Box(400, 400, 600, 600)
TRUTH = VideoAnnotation(
    "v",
    81,
    16,
    48,
    48,
    anomalies=(
        Anomaly(
            AnomalyType.OBJECT, FrameRange(20, 60), dict.fromkeys(range(20, 61), (BOX,)), ("ball",), "", "the ball"
        ),
    ),
)


@pytest.fixture(scope="module")
def drawn():
    return [draw_practice(TRUTH, np.random.default_rng(k), ["the cup"]) for k in range(600)]


def test_half_of_the_claims_are_relevant_and_right_ones_have_boxes_of_every_quality(drawn):
    ways = Counter(p.way for p in drawn)
    assert set(ways) == set(WAYS) and 0.4 < np.mean([p.relevance > 0 for p in drawn]) < 0.6
    grades = Counter(p.localisation for p in drawn if p.way == "right")
    assert min(grades[g] for g in range(3)) > 0.2 * ways["right"]
    for p in drawn:
        if p.overlap is not None:
            assert p.overlap == pytest.approx(spatial_iou(p.claim.box, BOX))
            assert p.localisation == (p.overlap >= LOOSE_IOU) + (p.overlap >= TIGHT_IOU)


def test_each_way_is_wrong_in_its_own_way(drawn):
    for p in drawn:
        claim = p.claim
        assert (p.relevance == 2) == (p.way in ("right", "whole")) and claim.time_s == claim.frame / 16
        assert (claim.subject == "the cup") == (p.way == "object")
        assert (claim.type != AnomalyType.OBJECT) == (p.way == "type")
        assert (claim.frame in FrameRange(20, 60)) == (p.way != "time")
        assert p.way != "elsewhere" or p.overlap == 0
        assert p.way != "whole" or claim.box == Box(0, 0, 1000, 1000)


def test_a_truth_without_boxes_has_no_claims():
    with pytest.raises(ValueError, match="no anomaly has a box"):
        draw_practice(replace(TRUTH, anomalies=()), np.random.default_rng(0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_world_has_claims(kind):
    rows = practice_rows(draws(4, 2), seed=1, kinds=[kind])
    for row in rows:
        question, practice = world_practice(row)
        again, same = world_practice(row)
        assert practice == same and (question.frame() == again.frame()).all()
        assert question.frame().shape == (48, 48, 3) and question.truth.status == "abnormal"
        assert question.reference == f"abnormal: {KINDS[kind].value}"


def test_rows_are_drawn_from_the_seeds_and_kinds_asked_for():
    rows = practice_rows(400, seed=3, first_seed=900_000)
    assert min(rows["seed"]) >= 900_000 and max(rows["seed"]) < 1_000_000
    assert 0.6 < np.mean([kind in SINGLE_FRAME for kind in rows["kind"]]) < 0.8
    assert rows["draw"] == practice_rows(400, seed=3, first_seed=900_000)["draw"] != practice_rows(400)["draw"]


def test_a_sample_is_what_the_referee_is_asked_and_its_exact_grades():
    judge = JudgeConfig(prompts="compact", frame_size=48, frame_fit="pad")
    for row in practice_rows(6, seed=2):
        example, (question, practice) = load_practice(row, judge=judge), world_practice(row)
        assert parse_grades(example.answer) == (practice.relevance, practice.localisation)
        pictures = [p for p in example.conversation[0].content if not isinstance(p, str)]
        assert [p.shape for p in pictures] == [(48, 48, 3)] * 2 and ((pictures[0] == (255, 0, 0)).all(-1)).any()
        text = "".join(p for p in example.conversation[0].content if isinstance(p, str))
        assert question.claim.phrase in text and question.reference in text
