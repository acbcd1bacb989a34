"""Agreement beyond chance, against published worked examples and a slow reference that counts pairs."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from reward_model.statistics.agreement import cohen_kappa, krippendorff_alpha

N = None
#: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability": part A (binary, two observers), part B (nominal,
#: two observers) and part D (four observers, missing values), with the values printed there.
PART_A = ("0100000010", "1110010000", 0.095)
PART_B = ("aabbdcccedda", "babbbccceddd", 0.692)
PART_D = (
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
)


def slow_alpha(units):
    """Disagreement seen over disagreement expected, one pair of labels at a time."""
    units = [[v for v in u if v is not None] for u in units]
    units = [u for u in units if len(u) > 1]
    pool = [v for u in units for v in u]
    seen = sum(sum(a != b for a, b in permutations(u, 2)) / (len(u) - 1) for u in units) / len(pool)
    expected = sum(a != b for a, b in permutations(pool, 2)) / (len(pool) * (len(pool) - 1))
    return None if expected == 0 else 1 - seen / expected


@pytest.mark.parametrize(("first", "second", "value"), [PART_A, PART_B])
def test_two_observers_as_published(first, second, value):
    assert krippendorff_alpha(list(zip(first, second, strict=True))) == pytest.approx(value, abs=5e-4)


def test_four_observers_with_gaps_as_published():
    assert krippendorff_alpha(list(zip(*PART_D, strict=True))) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_the_one_of_the_slow_reference():
    rng = random.Random(0)
    for _ in range(200):
        raters = rng.randint(2, 5)
        units = [[rng.choice("abc" + "-") for _ in range(raters)] for _ in range(rng.randint(2, 12))]
        units = [[None if v == "-" else v for v in u] for u in units]
        if any(sum(v is not None for v in u) > 1 for u in units):
            value = krippendorff_alpha(units)
            assert value == (None if slow_alpha(units) is None else pytest.approx(slow_alpha(units), abs=1e-12))


def test_kappa_as_published():
    """50 proposals, 20 both yes, 15 both no, 5 and 10 apart: p_o = 0.7, p_e = 0.5."""
    first, second = "y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(first, second) == pytest.approx(0.4, abs=1e-12)


def test_kappa_is_the_one_of_the_textbook_formula():
    rng = random.Random(1)
    for _ in range(100):
        n = rng.randint(2, 30)
        a, b = rng.choices("abc", k=n), rng.choices("abc", k=n)
        p_o = sum(x == y for x, y in zip(a, b, strict=True)) / n
        p_e = sum((a.count(v) / n) * (b.count(v) / n) for v in "abc")
        if p_e < 1:
            assert cohen_kappa(a, b) == pytest.approx((p_o - p_e) / (1 - p_e), abs=1e-12)


def test_full_agreement_is_one_and_total_disagreement_negative():
    assert cohen_kappa("ababab", "ababab") == 1 and krippendorff_alpha([("a", "a"), ("b", "b")]) == 1
    assert cohen_kappa("abab", "baba") == -1 and krippendorff_alpha([("a", "b"), ("b", "a")]) == -0.5


def test_one_label_only_says_nothing():
    assert cohen_kappa("aaa", "aaa") is None and krippendorff_alpha([("a", "a")]) is None
    assert cohen_kappa("aaa", "aab") == 0


def test_lone_labels_do_not_count():
    assert krippendorff_alpha([("a", "a"), ("b", "b"), ("c", None)]) == 1


@pytest.mark.parametrize(("first", "second"), [("", ""), ("ab", "a")])
def test_kappa_needs_the_same_items(first, second):
    with pytest.raises(ValueError, match="same items"):
        cohen_kappa(first, second)


def test_alpha_needs_a_pair():
    with pytest.raises(ValueError, match="two raters"):
        krippendorff_alpha([("a", None), (None, "b")])
