"""Metrics against published tables, brute force and independent formulas."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from reward_model.evaluation import (
    Interval,
    Metric,
    auroc,
    bootstrap,
    calibration_error,
    confusion,
    saturation_share,
    wilson,
)
from reward_model.statistics.intervals import mean_interval
from tests.campaigns import draws

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Recall of anomalous and normal videos, then the precision, F1 and accuracy that the paper prints beside them
# (Table 1, 500 + 500 videos): aR, nR, aP, aF, nP, nF, Acc.
TABLE_1 = {
    "Gemini-2.5-Pro": (0.854, 0.244, 0.530, 0.654, 0.626, 0.351, 0.549),
    "GPT-4o": (0.364, 0.562, 0.454, 0.404, 0.469, 0.511, 0.463),
    "Qwen3-VL-8B": (0.108, 0.920, 0.574, 0.182, 0.508, 0.654, 0.514),
    "Skyra-RL": (0.982, 0.018, 0.500, 0.663, 0.500, 0.035, 0.500),
    "CaC": (0.910, 0.724, 0.767, 0.833, 0.889, 0.798, 0.817),
}


def predictions(recall: float, status: str, other: str, num: int = 500) -> list[str]:
    hits = round(recall * num)
    return [status] * hits + [other] * (num - hits)


@pytest.mark.parametrize("model", TABLE_1)
def test_published_rows_follow_from_their_recalls(model):
    recall_a, recall_n, *printed = TABLE_1[model]
    said = predictions(recall_a, "abnormal", "normal") + predictions(recall_n, "normal", "abnormal")
    found = confusion(["abnormal"] * 500 + ["normal"] * 500, said)
    values = [
        found.precision("abnormal"),
        found.f1("abnormal"),
        found.precision("normal"),
        found.f1("normal"),
        found.accuracy,
    ]
    assert values == pytest.approx(printed, abs=1.1e-3)


def test_unparsed_answers_have_their_column_and_count_as_misses():
    found = confusion(["normal", "normal", "abnormal", "abnormal"], ["normal", None, "abnormal", None])
    assert found.counts == {"normal": (1, 0, 1), "abnormal": (0, 1, 1)} and found.num_unparsed == 2
    assert found.accuracy == 0.5 and found.recall("abnormal") == 0.5 and found.precision("abnormal") == 1.0
    assert found.to_dict()["normal"]["unparsed"] == 1


def test_undefined_rates_are_none_and_not_zero():
    found = confusion(["normal"], ["normal"])
    assert found.recall("abnormal") is found.precision("abnormal") is found.f1("abnormal") is None
    assert confusion(["normal", "abnormal"], ["abnormal", "normal"]).f1("normal") == 0.0
    assert confusion([], []).accuracy is None


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="fine"):
        confusion(["normal"], ["fine"])


# --- ranking ---------------------------------------------------------------------------------------------------------

few_values = st.sampled_from([0.0, 0.25, 0.5, 1.0, -math.inf, math.inf])


@RELAXED
@given(st.lists(few_values, min_size=1, max_size=12), st.lists(few_values, min_size=1, max_size=12))
def test_auroc_counts_pairs_and_ties_half(positives, negatives):
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    labels = [True] * len(positives) + [False] * len(negatives)
    assert auroc(positives + negatives, labels) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_auroc_knows_chance_and_order():
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 2 == 0
    assert auroc(labels.astype(float), labels) == 1.0 and auroc(-labels.astype(float), labels) == 0.0
    assert auroc(np.ones(2000), labels) == 0.5
    assert auroc(rng.random(2000), labels) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        ([1, 2], [True, True], "both classes"),
        ([1, math.nan], [True, False], "1 of 2 values are NaN"),
        ([1], [True, False], "one length"),
    ],
)
def test_auroc_refuses_what_it_cannot_rank(scores, labels, match):
    with pytest.raises(ValueError, match=match):
        auroc(scores, labels)


# --- probabilities ---------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # bins [.2,.3): stated .25, seen 1/2; [.9,1]: stated .95 and 1.0, seen 2/2
    stated, happened = [0.25, 0.25, 0.95, 1.0], [True, False, True, True]
    assert calibration_error(stated, happened) == pytest.approx((2 * 0.25 + 2 * 0.025) / 4)
    assert calibration_error([0.0, 1.0], [False, True]) == 0.0 and calibration_error([0.0, 1.0], [True, False]) == 1.0


def test_a_calibrated_forecaster_has_a_small_error():
    rng = np.random.default_rng(1)
    stated = rng.random(20_000)
    assert calibration_error(stated, rng.random(20_000) < stated) < 0.02
    assert calibration_error(stated, rng.random(20_000) < stated**2) > 0.1


@pytest.mark.parametrize("stated", [[], [1.2], [-0.1]])
def test_calibration_needs_probabilities(stated):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibration_error(stated, [True] * len(stated))


def test_saturation_counts_what_lies_outside_only():
    assert saturation_share([0.01, 0.99, 0.5]) == 0.0
    assert saturation_share([0.0099, 0.9901, 0.5, 0.5]) == 0.5
    with pytest.raises(ValueError):
        saturation_share([])


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "num"), [(0, 1), (0, 10), (8, 10), (10, 10), (388, 400), (1, 1000)])
def test_wilson_agrees_with_scipy(hits, num):
    expected = stats.binomtest(hits, num).proportion_ci(method="wilson")
    assert wilson(hits, num) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= wilson(hits, num).low <= hits / num <= wilson(hits, num).high <= 1


@pytest.mark.parametrize(("hits", "num"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(hits, num):
    with pytest.raises(ValueError, match="0 <= successes"):
        wilson(hits, num)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(2).normal(3.0, 1.0, 400)
    low, high = bootstrap(lambda k: values[k].mean(), 400)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(draws(100, 40)):
        values = rng.random(60)
        low, high = bootstrap(lambda k, v=values: v[k].mean(), 60, num_resamples=200, seed=trial)
        hits += low <= 0.5 <= high
    assert 0.88 * draws(100, 40) <= hits <= 0.99 * draws(100, 40)


@pytest.mark.parametrize("strata", [None, [0] * 3 + [1] * 7 + [2]])
def test_bootstrap_draws_as_numpys_choice_does(strata):
    """Published intervals rest on these draws."""
    drawn: list[list[int]] = []
    bootstrap(lambda k: float(drawn.append(k.tolist()) or 0), 11, strata=strata, num_resamples=20, seed=4)
    rng, labels = np.random.default_rng(4), np.asarray(strata if strata else [0] * 11)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    assert drawn == [[int(k) for g in groups for k in rng.choice(g, len(g))] for _ in range(20)]


@pytest.mark.parametrize("num", [1, 2, 9, 130, 1000])
def test_the_interval_of_a_mean_is_that_of_the_bootstrap_to_the_last_bit(num):
    values = np.random.default_rng(num).normal(size=num) * 100
    for seed, resamples in ((0, 60), (3, 1100 if num == 1000 else 50)):
        expected = bootstrap(lambda k: float(values[k].mean()), num, num_resamples=resamples, seed=seed)
        assert mean_interval(values, num_resamples=resamples, seed=seed) == expected
    with pytest.raises(ValueError, match="bootstrap needs items, resamples"):
        mean_interval([])


def test_bootstrap_is_seeded_and_keeps_strata():
    labels = np.array([True] * 2 + [False] * 50)
    scores = np.linspace(0, 1, 52)
    a = bootstrap(lambda k: auroc(scores[k], labels[k]), 52, strata=labels, num_resamples=50)  # never an empty class
    assert a == bootstrap(lambda k: auroc(scores[k], labels[k]), 52, strata=labels, num_resamples=50)
    assert a != bootstrap(lambda k: scores[k].mean(), 52, num_resamples=50, seed=1)
    counts = []
    bootstrap(lambda k: counts.append(labels[k].sum()) or 0.0, 52, strata=labels, num_resamples=20)
    assert set(counts) == {2}


@pytest.mark.parametrize(
    "options", [{"num": 0}, {"num": 5, "num_resamples": 0}, {"num": 5, "level": 1.0}, {"num": 5, "strata": [1]}]
)
def test_bootstrap_refuses_nonsense(options):
    with pytest.raises(ValueError, match="got"):
        bootstrap(lambda k: 0.0, **options)


# --- how they are shown ----------------------------------------------------------------------------------------------


def test_metrics_are_shown_with_interval_and_number():
    assert Metric(0.5, Interval(0.4, 0.61), 12).cells() == ("0.500", "0.400 - 0.610", "12")
    assert Metric(None, None, 0).cells() == ("-", "-", "0")
    assert json.loads(json.dumps(Metric(0.5, Interval(0.4, 0.6), 3).to_dict())) == {
        "value": 0.5,
        "interval_95": [0.4, 0.6],
        "num": 3,
    }
