"""R_SER, its penalties and the soft score: golden numbers in double precision, and what no number may do."""

import math

import pytest

from reward_model.evaluation.metrics.vstar import Grounded, mean_am_lgm
from reward_model.evidence.score import (
    Checked,
    SerConfig,
    evidence_score,
    looseness,
    soft_score,
    temporal_penalty,
)

EXACT = {"rel": 0, "abs": 1e-9}
PERFECT = Checked(1, 1, 0)
LATE = Checked(0.5, 0.5, 1 - math.exp(-0.5))


@pytest.mark.parametrize(
    ("checked", "raw", "loose", "expected"),
    [
        ([PERFECT], None, 0, 1.0),
        ([Checked(1, 0, 0)], None, 0, 0.5),
        ([Checked(0, 1, 0)], None, 0, 0.0),
        ([PERFECT, LATE], None, 0, (1 + 0.375 * (0.5 + 0.5 * math.exp(-0.5))) / 2),
        ([PERFECT, LATE, Checked(0, 1, 0)], None, 0, (1 + 0.375 * (0.5 + 0.5 * math.exp(-0.5))) / 3),
        ([PERFECT] * 8, 50, 0, 0.79),
        ([PERFECT], None, 0.4, 0.9),
        ([], None, 0.4, 0.0),
        ([], 0, 0, 0.0),
    ],
)
def test_golden_numbers(checked, raw, loose, expected):
    assert evidence_score(checked, raw, loose) == pytest.approx(expected, **EXACT)


def test_golden_numbers_as_they_are_printed():
    assert round(evidence_score([PERFECT, LATE]), 4) == 0.6506
    assert round(evidence_score([PERFECT, LATE, Checked(0, 1, 0)]), 4) == 0.4337
    assert round(evidence_score([PERFECT, Checked(0.5, 0.5, 0.3935)]), 4) == 0.6506


def test_a_window_of_three_seconds_around_one_second_of_evidence_costs_a_tenth():
    loose = looseness((1, 4), [2, 2.5, 3], 5)
    assert -SerConfig().looseness_penalty * loose == pytest.approx(-0.10, **EXACT)
    assert looseness((2, 2.5), [1, 3], 5) == looseness(None, [2], 5) == 0
    assert looseness((1, 4), [], 5) == pytest.approx(0.6, **EXACT)


@pytest.mark.parametrize(("distance", "penalty"), [(0, 0), (0.25, 0.1175), (0.5, 0.3935), (1, 0.8647), (2, 0.9997)])
def test_temporal_penalty_early_and_late_alike(distance, penalty):
    windows = [(3.0, 4.0)]
    early, late = temporal_penalty(3 - distance, windows), temporal_penalty(4 + distance, windows)
    assert early == pytest.approx(-math.expm1(-(distance**2) / 0.5), **EXACT) and round(early, 4) == penalty
    assert early == pytest.approx(late, **EXACT)


def test_temporal_penalty_grows_with_distance_and_is_zero_inside():
    windows = [(1.0, 2.0), (5.0, 6.0)]
    assert not any(temporal_penalty(t / 10, windows) for t in (*range(10, 21), *range(50, 61)))
    for outwards in (range(0, -40, -1), range(0, 40)):
        edge = 1.0 if outwards.step < 0 else 6.0
        values = [temporal_penalty(edge + t / 10, windows) for t in outwards]
        assert values == sorted(values) and 0 == values[0] < values[1] < values[-1] <= 1
    middle = [temporal_penalty(t / 10, windows) for t in range(20, 51)]
    assert max(middle) == middle[15] and middle == pytest.approx(middle[::-1], **EXACT)
    assert temporal_penalty(0, []) == 1


def test_where_no_window_is_known_a_moment_that_was_not_shown_is_wrong():
    seen = [0.0, 0.125, 0.25]
    assert temporal_penalty(0.125, None, seen_s=seen) == 0
    assert temporal_penalty(0.2, None, seen_s=seen) == temporal_penalty(9, None, seen_s=seen) == 1
    assert temporal_penalty(0.125, None) == 1


def test_soft_score():
    assert soft_score((0.1, 0.3, 0.6)) == pytest.approx(0.75, **EXACT)
    assert soft_score((0.01, 0.03, 0.06)) == pytest.approx(0.75, **EXACT)
    assert [soft_score(p) for p in ((1, 0, 0), (0, 1, 0), (0, 0, 1))] == [0, 0.5, 1]
    for wrong in ((0, 0, 0), (math.nan, 0, 0)):
        with pytest.raises(ValueError, match="must be above 0"):
            soft_score(wrong)


def test_settings_out_of_range_are_refused():
    for wrong in ({"temporal_penalty": 2}, {"looseness_penalty": -1}, {"max_claims": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SerConfig(**wrong)
    free = SerConfig(temporal_penalty=0, looseness_penalty=0, excess_penalty=0)
    assert evidence_score([Checked(1, 1, 1)] * 8, 50, 1.0, free) == 1


def test_summaries_of_v_star():
    one = Grounded(0.5, 0.3, 0.2)
    assert one.am == pytest.approx(1 / 3, **EXACT)
    assert one.lgm == pytest.approx(-(math.log(0.5) + math.log(0.7) + math.log(0.8)) / 3, **EXACT)
    assert (round(one.am, 4), round(one.lgm, 4)) == (0.3333, 0.4243)
    perfect = Grounded(1, 1, 1)
    assert perfect.am == 1 and 1 < perfect.lgm < 14 and math.isfinite(perfect.lgm)
    am, lgm = mean_am_lgm([one, Grounded(0, 0, 0)])
    assert am == pytest.approx(one.am / 2, **EXACT) and lgm == pytest.approx(one.lgm / 2, **EXACT)
    with pytest.raises(ValueError, match="no chain"):
        mean_am_lgm([])
