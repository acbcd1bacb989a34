"""Bounds of a cascade, against exact binomial sums and on fresh videos."""

import math

import numpy as np
import pytest

from reward_model.statistics.cascade import (
    CascadeCase,
    calibrate_cascade,
    cascade_curve,
    fewest_videos,
    most_harmed,
    share_limit,
)
from tests.campaigns import draws


def at_most(count, num, share):
    """P(at most ``count`` of ``num``), summed term by term."""
    return sum(math.comb(num, k) * share**k * (1 - share) ** (num - k) for k in range(count + 1))


@pytest.mark.parametrize(("count", "num"), [(0, 20), (1, 50), (3, 200), (7, 1000)])
def test_the_limit_is_where_the_binomial_tail_reaches_the_doubt(count, num):
    limit = share_limit(count, num, 0.95)
    assert at_most(count, num, limit) == pytest.approx(0.05, rel=1e-9)
    assert at_most(count, num, limit + 1e-4) < 0.05 < at_most(count, num, limit - 1e-4)


def test_goldens():
    assert share_limit(0, 1000) == pytest.approx(0.0029912, abs=1e-7)  # 1 - 0.05 ** (1 / 1000)
    assert share_limit(1, 1000) == pytest.approx(0.0047350, abs=1e-6)
    assert share_limit(5, 5) == 1.0
    assert [most_harmed(n, 0.005) for n in (597, 598, 946, 947, 1257, 1258)] == [None, 0, 0, 1, 1, 2]
    assert fewest_videos(0.005) == 598 and most_harmed(597, 0.005) is None


def cases(rng, num):
    """Videos whose log-odds separate the classes but for a tail, and a full judge that is right where they are not."""
    normal = rng.random(num) < 0.5
    values = np.where(normal, 4, -4) + 2.0 * rng.standard_normal(num)
    right = rng.random(num) < 0.97
    return [CascadeCase(float(v), bool(n), bool(n == r)) for v, n, r in zip(values, normal, right, strict=True)]


def harmed(found, videos):
    high = [c.log_odds > found.normal_above and not c.normal and c.judged_normal is False for c in videos]
    low = found.abnormal_below
    below = [low is not None and c.log_odds < low and c.normal and bool(c.judged_normal) for c in videos]
    return np.mean(np.array(high) | np.array(below))


@pytest.mark.parametrize("both_sides", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_error_is_kept_on_fresh_videos_as_often_as_promised(both_sides):
    rng = np.random.default_rng(0)
    fresh, tries = cases(rng, 20_000), draws(60, 20)
    found = [
        calibrate_cascade(cases(rng, 1000), error=0.01, confidence=0.9, both_sides=both_sides) for _ in range(tries)
    ]
    broken = np.mean([harmed(one, fresh) > 0.01 for one in found])
    assert broken <= 0.2, f"a promise of 0.9 with {tries} tries"
    assert np.mean([one.num_early / one.num_videos for one in found]) > (0.6 if both_sides else 0.35)
    assert all(one.num_harmed <= 0.01 * one.num_videos for one in found)


def test_what_the_full_judge_misses_as_well_costs_nothing():
    """An anomaly that reasoning does not find either is no reason to reason."""
    blind = [CascadeCase(9.0, False, True)] * 50 + [CascadeCase(8.0, True, True)] * 700
    assert calibrate_cascade(blind, error=0.005).num_early == 750
    seeing = [case._replace(judged_normal=case.normal) for case in blind]
    assert calibrate_cascade(seeing, error=0.005).normal_above is None, "nothing lies above those that it would harm"


def test_equal_values_stand_or_fall_together():
    sure, tie = [CascadeCase(5.0, True, True)] * 500, [CascadeCase(2.0, True, True)] * 500
    tied = [CascadeCase(2.0, False, False)] * 3 + tie + sure
    found = calibrate_cascade(tied, error=0.005)
    assert found.normal_above == 2.0 and (found.num_early, found.num_harmed) == (500, 0)


def test_bounds_of_both_sides_never_cross():
    clean = [CascadeCase(float(v), v > 0, v > 0) for v in (-2, -1, 1, 2)] * 500
    found = calibrate_cascade(clean, both_sides=True)
    assert found.abnormal_below == found.normal_above and found.num_early == 2000 and found.num_harmed == 0


def test_too_few_videos_promise_nothing():
    with pytest.raises(ValueError, match=r"10 videos are too few .* it takes 598"):
        calibrate_cascade([CascadeCase(1.0, True, True)] * 10)
    with pytest.raises(ValueError, match="error=0 must lie"):
        calibrate_cascade([CascadeCase(1.0, True, True)] * 10, error=0)


def test_the_curve_falls_from_all_videos_to_none():
    points = cascade_curve(cases(np.random.default_rng(1), 500), points=20)
    assert [p.normal_above for p in points] == sorted(p.normal_above for p in points)
    assert [p.early for p in points] == sorted((p.early for p in points), reverse=True)
    assert points[-1].early == 0 and points[-1].harmed == 0 and points[0].harmed < points[0].limit
