"""Intervals, differences and ratios of a table: golden numbers, and independent ways to the same ones."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from cac_align.table2.correlations import clustered, kendall, spearman
from cac_align.table2.maths import by_seed, difference_of, mean_of, p_value, ratio_of, redraw
from reward_model.statistics.intervals import wilson

NAN = float("nan")


def noisy(seeds: int, prompts: int, draws: int, seed: int = 0) -> np.ndarray:
    """Values with a spread between training seeds (0.5), prompts (1) and videos (0.2)."""
    rng = np.random.default_rng(seed)
    return (
        0.5 * rng.standard_normal((seeds, 1, 1))
        + rng.standard_normal((1, prompts, 1))
        + 0.2 * rng.standard_normal((seeds, prompts, draws))
    )


def test_golden_numbers():
    base = np.array([[[1.0, 3.0], [2.0, NAN]]])
    row = np.array([[[2.0, 3.0], [4.0, 5.0]], [[2.0, NAN], [2.0, 9.0]]])
    draws = redraw(2, 2, num_resamples=200)
    assert mean_of(base, redraw(1, 2, num_resamples=200)).value == 2.0
    # differences of the five videos both have: 1, 0, 2, 1, 0
    assert difference_of(row, base, draws)[::2] == (pytest.approx(4 / 5), 5)
    # the same five: (2 + 3 + 4 + 2 + 2) / (1 + 3 + 2 + 1 + 2)
    assert ratio_of(row, base, draws).value == pytest.approx(13 / 9)
    assert by_seed(row) == [3.5, pytest.approx(13 / 3)]


def test_an_interval_over_prompts_is_that_of_the_plain_cluster_bootstrap():
    values = noisy(1, 12, 3)
    found = mean_of(values, redraw(1, 12, num_resamples=20000, seed=1)).interval
    rng = np.random.default_rng(9)
    means = values[0][rng.integers(0, 12, (20000, 12))].mean((1, 2))
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.02)


def test_training_seeds_widen_the_interval_by_their_own_spread():
    values = noisy(8, 40, 2, seed=3)
    crossed = mean_of(values, redraw(8, 40, num_resamples=20000)).interval
    means, prompts = values.mean((1, 2)), values.mean((0, 2))
    expected = np.sqrt(means.var() / 8 + prompts.var() / 40)
    assert (crossed.high - crossed.low) / (2 * 1.96) == pytest.approx(expected, rel=0.08)
    folded = values.mean(0, keepdims=True)
    narrow = mean_of(folded, redraw(1, 40, num_resamples=20000)).interval
    assert crossed.high - crossed.low > 1.2 * (narrow.high - narrow.low)


def test_pairing_takes_the_prompts_out_of_the_difference():
    base = noisy(1, 30, 2)
    found = difference_of(base + 0.25, base, redraw(1, 30, num_resamples=300))
    assert found.value == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))


def test_all_columns_redraw_the_same_prompts():
    one, two = redraw(1, 7, num_resamples=50, seed=4), redraw(3, 7, num_resamples=50, seed=4)
    assert np.array_equal(one.prompts, two.prompts)
    assert np.all(one.prompts.sum(1) == 7) and np.all(two.seeds.sum(1) == 3)


def test_videos_without_a_value_count_for_nothing():
    values = noisy(1, 6, 2)
    holes = np.concatenate([values, np.full((1, 6, 1), NAN)], axis=2)
    draws = redraw(1, 6, num_resamples=100)
    assert mean_of(holes, draws) == mean_of(values, draws)
    assert mean_of(np.full((1, 6, 1), NAN), draws) == (None, None, 0)


def test_a_share_of_nothing_is_not_certain():
    draws = redraw(1, 9, num_resamples=100)
    none = mean_of(np.zeros((1, 9, 2)), draws, rate=True)
    assert none.value == 0.0 and none.interval == wilson(0, 9) and none.interval.high > 0.25
    every = mean_of(np.ones((1, 9, 2)), draws, rate=True)
    assert every.interval == wilson(9, 9)
    assert mean_of(np.zeros((1, 9, 2)), draws).interval == (0.0, 0.0), "only a rate is one"


def test_a_ratio_to_nothing_is_none():
    values = np.ones((1, 4, 1))
    draws = redraw(1, 4, num_resamples=200)
    assert ratio_of(values, 0 * values, draws).value is None
    rare = np.array([[[1.0], [0.0], [0.0], [0.0]]])
    found = ratio_of(values, rare, draws)
    assert found.value == 4.0 and found.interval is None, "a third of the resamples has no base"


def test_one_prompt_has_no_interval():
    assert mean_of(np.ones((1, 1, 5)), redraw(1, 1, num_resamples=10)).interval is None


def test_p_value_is_the_exact_sign_flip_test():
    base = np.zeros((1, 5, 1))
    row = np.array([0.3, 0.1, 0.4, 0.2, 0.6]).reshape(1, 5, 1)
    assert p_value(row, base) == pytest.approx(2 / 2**5)
    assert p_value(np.concatenate([row, row]), base) == pytest.approx(2 / 2**5), "two trainings are no more prompts"
    assert p_value(row[:, :1], base[:, :1]) is None


def test_redraw_refuses_nothing():
    with pytest.raises(ValueError, match="cannot redraw 0 seeds"):
        redraw(0, 3)


def test_coefficients_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 60).astype(float)
    b = a + rng.integers(0, 8, 60)
    groups, ones = np.arange(60) // 4, np.ones((1, 15))
    assert spearman(a, b, groups, ones) == pytest.approx([stats.spearmanr(a, b).statistic], abs=1e-12)
    assert kendall(a, b, groups, ones) == pytest.approx([stats.kendalltau(a, b).statistic], abs=1e-12)
    assert np.isnan(spearman(a, np.ones(60), groups, ones)) and np.isnan(kendall(a, np.ones(60), groups, ones))


def test_weights_of_groups_are_copies_of_them():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, (2, 12)).astype(float)
    groups = np.arange(12) // 3
    weights = np.array([[2.0, 0, 1, 1], [0, 0, 3, 1]])
    for row, one, two in zip(weights, spearman(a, b, groups, weights), kendall(a, b, groups, weights), strict=True):
        index = np.repeat(np.arange(12), row[groups].astype(int))
        assert one == pytest.approx(stats.spearmanr(a[index], b[index]).statistic, abs=1e-12)
        assert two == pytest.approx(stats.kendalltau(a[index], b[index]).statistic, abs=1e-12)


def test_correlations_of_many_videos_hold_no_table_of_all_pairs():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 50, 4000), rng.normal(size=4000)
    groups = np.arange(4000) % 8
    weights = rng.integers(0, 3, (200, 8)).astype(float)
    for statistic in (spearman, kendall):
        tracemalloc.start()
        statistic(a, b, groups, weights)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4000 * 4000 * 8 / 2


def test_intervals_of_coefficients_redraw_whole_prompts():
    """Ten copies of each of six points are six observations, not sixty."""
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 6))
    groups = np.repeat(np.arange(6), 10)
    options = {"num_resamples": 300, "seed": 0}
    copied = clustered(spearman, a.repeat(10), b.repeat(10), groups, **options)
    alone = clustered(spearman, a, b, np.arange(6), **options)
    assert copied.value == pytest.approx(alone.value)
    width = copied.interval.high - copied.interval.low
    assert width > 0.8 * (alone.interval.high - alone.interval.low) > 0.5
    assert clustered(spearman, a, 0 * b, np.arange(6), **options).value is None
    assert clustered(spearman, a, b, np.zeros(6), **options).interval is None
