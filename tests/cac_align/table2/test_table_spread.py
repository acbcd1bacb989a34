"""Rewards within groups: golden numbers, a brute-force count, and what must not matter."""

import math

import numpy as np
import pytest

from cac_align.table2.spread import FLAT, group_spread, spread_table

NAN = float("nan")


def brute(values, faults, groups):
    won = pairs = 0
    for a in range(len(values)):
        for b in range(len(values)):
            known = not (math.isnan(values[a]) or math.isnan(values[b]))
            if groups[a] == groups[b] and faults[a] == 1 and faults[b] == 0 and known:
                pairs += 1
                won += 1 if values[a] < values[b] else 0.5 if values[a] == values[b] else 0
    return won, pairs


def test_golden_numbers():
    values = np.array([0.1, 0.9, 0.9, 0.4, 0.4, 0.405, NAN, 0.3])
    faults = np.array([1, 0, 1, 0, 1, 0, 0, 1])
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 2])  # group 2 has one video: nothing to compare
    found = group_spread("r", values, faults, groups)
    first, second = np.std([0.1, 0.9, 0.9]), np.std([0.4, 0.4, 0.405])
    assert found.num_groups == 2 and found.std == pytest.approx((first + second) / 2, abs=1e-15)
    assert second < FLAT < first and found.flat == 0.5
    assert found.num_pairs == 4 and found.ordered.value == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)


def test_against_a_brute_force_count_and_its_interval():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 90)
    faults = rng.integers(0, 2, 90).astype(float)
    values = np.round(rng.random(90) - 0.2 * faults, 1)
    values[rng.random(90) < 0.1] = NAN
    found = group_spread("r", values, faults, groups, num_resamples=500, seed=3)
    won, pairs = brute(values, faults, groups)
    assert found.num_pairs == pairs and found.ordered.value == pytest.approx(won / pairs, abs=1e-12)
    low, high = found.ordered.interval
    assert 0 < low < found.ordered.value < high < 1
    moved = group_spread("r", 0.5 + values / 2, faults, groups * 7 + 1, num_resamples=500, seed=3)
    assert moved.ordered == found.ordered and moved.std == pytest.approx(found.std / 2)


@pytest.mark.parametrize(
    ("faults", "num"), [([0, 0, 0, 0], 2), ([NAN] * 4, 2)], ids=["no fault at all", "the rule was not asked"]
)
def test_without_pairs_there_is_no_order(faults, num):
    found = group_spread("r", np.array([0.1, 0.2, 0.3, 0.4]), np.array(faults, float), np.array([0, 0, 1, 1]))
    assert (found.num_groups, found.num_pairs, found.ordered.value) == (num, 0, None)
    assert group_spread("r", np.array([0.1]), np.array([1.0]), np.array([0])).std is None


def test_the_table_has_a_row_for_each():
    rows = [group_spread(n, np.array([0.2, 0.8]), np.array([1, 0]), np.array([0, 0])) for n in ("cac", "cac/paper")]
    text = spread_table(rows).to_markdown()
    assert "| cac/paper" in text and "| 0.300" in text and rows[0].to_dict()["ordered"] == 1.0
