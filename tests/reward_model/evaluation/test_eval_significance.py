"""Paired tests against scipy, brute force and what they promise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from reward_model.evaluation import auroc, mcnemar, paired_bootstrap, paired_permutation
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.tables.compare import compare_judges
from reward_model.evaluation.tables.paired_tables import gain_table


def mean(values, videos):
    return float(values.mean())


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (6, 1), (10, 10), (30, 12)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    first = [True] * b + [False] * c + [True] * 5 + [False] * 3
    second = [False] * b + [True] * c + [True] * 5 + [False] * 3
    found = mcnemar(first, second)
    # Twice the smaller tail of a fair coin, never more than 1.
    tail = 2 * stats.binom.cdf(min(b, c), b + c, 0.5) if b + c else 1.0
    assert found == (b, c, pytest.approx(min(1.0, tail)))


def test_permutation_agrees_with_all_sign_changes():
    a = np.array([0.9, 0.4, 0.8, 0.1, 0.7, 0.7])
    b = np.array([0.1, 0.5, 0.2, 0.0, 0.7, 0.3])
    d = a - b
    means = [abs(np.mean(d * signs)) for signs in product((1, -1), repeat=6)]
    expected = np.mean(np.array(means) >= abs(d.mean()) - 1e-12)
    assert paired_permutation(a, b) == pytest.approx(expected)


def test_permutation_of_many_videos_is_seeded_and_finds_what_is_there():
    rng = np.random.default_rng(0)
    b = rng.random(300) < 0.6
    a = np.where(rng.random(300) < 0.2, True, b)
    assert paired_permutation(a, b) < 0.001
    same = rng.permutation(b)
    assert paired_permutation(same, b) == paired_permutation(same, b) > 0.05
    assert paired_permutation(b, b) == paired_permutation([1.0, 0.5], [0.0, 0.5]) == 1.0


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=200)
    a, b = shared + 0.1 + 0.05 * rng.normal(size=200), shared
    value, (low, high) = paired_bootstrap(mean, a, b, num_resamples=300)
    assert value == pytest.approx(np.mean(a - b)) and low < value < high
    half = 1.96 * np.std(a - b) / np.sqrt(200)
    assert high - low == pytest.approx(2 * half, rel=0.25) and low > 0


def test_paired_bootstrap_hands_out_the_videos_drawn():
    labels = np.array([True, False] * 10)
    found = paired_bootstrap(
        lambda v, k: auroc(v, labels[k]), labels.astype(float), np.zeros(20), strata=labels, num_resamples=20
    )
    assert found.value == 0.5 and found.interval == (0.5, 0.5)


@pytest.mark.parametrize("call", [mcnemar, paired_permutation])
def test_unpaired_values_are_refused(call):
    with pytest.raises(ValueError, match="same videos"):
        call([1, 0], [1])


def rows(statuses, scores=None, prefix="v"):
    truth = ["normal", "abnormal"] * (len(statuses) // 2)
    values = scores or [None] * len(statuses)
    return [
        Row(k, f"{prefix}{k}", "", t, has_verdict=True, status=s, score=v)
        for k, (t, s, v) in enumerate(zip(truth, statuses, values, strict=True))
    ]


def test_comparison_of_two_judges_by_hand():
    good = rows(["normal", "abnormal"] * 10, [0.9, 0.1] * 10)
    poor = rows(["normal", None] * 10, [0.5, 0.5] * 10)  # an unparsed answer is wrong
    found = compare_judges(good, poor, num_resamples=50)
    assert found.num == 20 and found.accuracy.value == 0.5 and found.mcnemar.only_first == 10
    assert found.mcnemar.p_value == pytest.approx(2 / 1024) and found.permutation_p < 0.01
    assert found.auroc.value == 0.5
    assert compare_judges(list(reversed(good)), poor, num_resamples=5).accuracy.value == 0.5  # by video, not by place


def test_comparison_needs_the_same_videos_and_statuses():
    a = rows(["normal"] * 4)
    with pytest.raises(ValueError, match="only one judged v0"):
        compare_judges(a, rows(["normal"] * 4, prefix="w"))
    scores = [Row(k, f"v{k}", "", r.truth, score=0.5) for k, r in enumerate(a)]
    with pytest.raises(ValueError, match="threshold"):
        compare_judges(a, scores)


def test_gains_are_paired_means_over_the_right_videos():
    def row(index, truth, reward, spatial):
        return Row(index, f"v{index}", "", truth, has_verdict=True, status=truth, reward=reward, spatial_iou=spatial)

    better = [row(0, "abnormal", 9.0, 1.0), row(1, "abnormal", 5.0, 0.5), row(2, "normal", 0.0, None)]
    worse = [row(0, "abnormal", 3.0, 0.25), row(1, "abnormal", -3.0, None), row(2, "normal", -1.0, None)]
    silent = [Row(k, f"v{k}", "", r.truth, score=0.5) for k, r in enumerate(better)]
    table = gain_table("main", {"a": better, "b": worse, "score only": silent}, num_resamples=50)
    [[line]] = table.groups
    found = dict(zip(table.columns, line, strict=True))
    assert found["difference"] == "a - b"
    assert found["reward, Eq. 6"].value == pytest.approx((6 + 8 + 1) / 3)
    assert found["spatial IoU"].value == pytest.approx((0.75 + 0.5) / 2)
    assert found["temporal IoU, scan"].value == 0
    low, high = found["spatial IoU"].interval.low, found["spatial IoU"].interval.high
    assert 0.5 <= low <= high <= 0.75
