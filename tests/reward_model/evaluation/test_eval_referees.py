"""Validity of referees: figures against their definitions, and the table of judges under several referees."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from reward_model.evaluation.metrics.validity import rank_correlation, validity
from reward_model.evaluation.tables import referee_tables
from reward_model.evaluation.tables.referee_tables import answer_of_verdict, swap_table, validity_table
from reward_model.evidence.answer import Evidence, score_answers
from reward_model.evidence.claims import Claim
from reward_model.evidence.practice import Practice
from reward_model.evidence.referee import Opinion, OracleReferee
from reward_model.schema import AnomalyType, Box
from reward_model.world import make_annotation, make_scene

CLAIM = Claim(AnomalyType.OBJECT, "the ball", Box(0, 0, 10, 10), 0, 0.0)


def practice(relevance, overlap, way="right"):
    return Practice(CLAIM, way, relevance, 0, overlap)


MANY = [practice(2 * (k % 2), (k % 7) / 7) for k in range(70)]


def test_a_perfect_referee():
    found = validity(MANY, [Opinion(p.relevance / 2, p.overlap) for p in MANY], num_resamples=50)
    assert found.relevance_accuracy.value == 1 and found.relevance_accuracy.interval.low > 0.9
    assert found.localisation_rank.value == pytest.approx(1) and found.calibration.value == 0


def test_figures_are_those_of_their_definitions():
    rng = np.random.default_rng(0)
    opinions = [Opinion(float(rng.random()), float(rng.random())) for _ in MANY]
    found = validity(MANY, opinions, num_resamples=200)
    right = np.mean([(o.relevance >= 0.5) == (p.relevance > 0) for p, o in zip(MANY, opinions, strict=True)])
    assert found.relevance_accuracy.value == pytest.approx(right)
    pairs = [(o.localisation, p.overlap) for p, o in zip(MANY, opinions, strict=True) if p.relevance]
    assert found.localisation_rank.value == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)
    bins = [[k for k, o in enumerate(opinions) if int(o.relevance * 10) == b] for b in range(10)]
    gaps = [
        abs(sum(opinions[k].relevance - (MANY[k].relevance > 0) for k in chosen)) / len(MANY)
        for chosen in bins
        if chosen
    ]
    assert found.calibration.value == pytest.approx(sum(gaps))
    for figure in (found.relevance_accuracy, found.localisation_rank, found.calibration):
        assert figure.interval.low < figure.interval.high
    assert found.relevance_accuracy.interval.low < right < found.relevance_accuracy.interval.high


def test_what_was_not_graded_does_not_count_and_is_counted():
    opinions = [Opinion(0, 0, error="busy"), Opinion(0, 0, garbled=True), *(Opinion(1, 1) for _ in MANY[2:])]
    found = validity(MANY, opinions, num_resamples=10)
    assert (found.num, found.unanswered, found.garbled) == (69, 1, 1)
    with pytest.raises(ValueError, match="graded none of 2 claims: busy"):
        validity(MANY[:2], [Opinion(0, 0, error="busy")] * 2)
    with pytest.raises(ValueError, match="3 opinions of 2 claims"):
        validity(MANY[:2], opinions[:3])
    alone = validity([practice(0, None), practice(2, None)], [Opinion(0, 0), Opinion(1, 1)], num_resamples=5)
    assert alone.localisation_rank.value is None


def test_a_rank_correlation_of_something_constant_is_zero():
    assert rank_correlation(np.ones(5), np.arange(5)) == 0 and rank_correlation(np.ones(1), np.ones(1)) == 0
    assert rank_correlation(np.arange(9), -(np.arange(9) ** 3)) == pytest.approx(-1)


def test_the_table_has_a_row_for_each_referee_kind_and_way(monkeypatch):
    monkeypatch.setattr(referee_tables, "validity", lambda *found, **_: validity(*found, num_resamples=20))
    mixed = [replace(p, way="right" if p.relevance else "elsewhere") for p in MANY]
    opinions = [Opinion(p.relevance / 2, p.overlap) for p in mixed]
    table = validity_table(mixed, {"a": opinions, "b": opinions[::-1]}, ["squash", "split"] * 35, "Referees")
    names = [[row[0].strip() for row in group] for group in table.groups]
    assert names == [[name, "split", "squash", "claims: right", "claims: elsewhere"] for name in "ab"]
    assert "Wanted: relevance accuracy 0.85" in table.to_markdown()


def test_the_worth_of_a_judge_under_each_referee(verdict_of):
    truth = make_annotation(make_scene(5, "squash"))
    verdict = verdict_of(truth, -3.0)
    answer = answer_of_verdict(verdict, truth, lambda n: np.zeros((len(n), 48, 48, 3), np.uint8))
    [evidence] = score_answers([answer], OracleReferee())
    assert evidence.score > 0.85 and evidence.claims.raw > 1
    silent = answer_of_verdict(verdict_of(replace(truth, anomalies=()), 3.0), truth, answer.frames)
    [nothing] = score_answers([silent], OracleReferee())
    assert nothing.score == 0
    table = swap_table(
        {
            ("honest", "oracle"): [evidence] * 4,
            ("honest", "other"): [replace(evidence, score=0.5), Evidence(None)],
            ("silent", "oracle"): [nothing] * 4,
            ("silent", "other"): [nothing] * 4,
        },
        "Swap",
    )
    (honest, silent), text = table.groups[0], table.to_markdown()
    assert honest[2].value == pytest.approx(evidence.score) and honest[3].value == 0.5 and silent[2].value == 0
    assert "SER under other" in text and honest[4] == 1.0 and silent[4] is None
