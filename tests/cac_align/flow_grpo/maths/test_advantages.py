"""Advantages against numpy, group by group, and what must hold whatever the numbers."""

import math
import random

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.maths.advantages import combine_advantages, compute_advantages

REWARDS = [0.9, 0.1, 0.4, 0.35, 0.3, 0.8, 0.2, 0.6]
GROUPS = ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("std", ["group", "global", "none"])
@pytest.mark.parametrize("baseline", ["group", "global"])
def test_against_numpy(baseline, std, ddof):
    found = compute_advantages(REWARDS, GROUPS, baseline=baseline, std=std, ddof=ddof, eps=1e-4).values
    for rows in (slice(0, 4), slice(4, 8)):
        own, everything = np.array(REWARDS[rows]), np.array(REWARDS)
        mean = own.mean() if baseline == "group" else everything.mean()
        scale = {"group": own.std(ddof=ddof) + 1e-4, "global": everything.std(ddof=ddof) + 1e-4, "none": 1}[std]
        assert found[rows].tolist() == pytest.approx(((own - mean) / scale).tolist(), abs=1e-12)
    assert found.dtype == torch.float64


def test_official_estimator_is_the_default():
    """numpy std (ddof 0) plus 1e-4, per prompt, clipped at 5."""
    found = compute_advantages([1.0, 0.0], ["p", "p"]).values
    assert found.tolist() == pytest.approx([0.5 / 0.5001, -0.5 / 0.5001], abs=1e-12)
    outlier = compute_advantages([1.0, *[0.0] * 40], ["p"] * 41)
    assert outlier.values.max() == 5 and compute_advantages([1.0, *[0.0] * 40], ["p"] * 41, clip=None).values.max() > 5


def test_group_mean_is_zero_and_order_and_ranks_do_not_matter():
    found = compute_advantages(REWARDS, GROUPS).values
    assert abs(found[:4].sum()) < 1e-12 and abs(found[4:].sum()) < 1e-12
    order = list(range(8))
    random.Random(0).shuffle(order)
    mixed = compute_advantages([REWARDS[k] for k in order], [GROUPS[k] for k in order]).values
    assert torch.allclose(mixed, found[order], atol=1e-12)
    apart = [compute_advantages(REWARDS[rows], GROUPS[rows]).values for rows in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(apart), found), "a group's advantages need no other group"


def test_a_group_of_equal_rewards_is_flagged_and_has_exactly_none():
    found = compute_advantages([1 / 3] * 7 + [0.1, 0.2], ["flat"] * 7 + ["b"] * 2, eps=1e-15)
    assert found.values[:7].tolist() == [0.0] * 7
    assert found.zero_variance == ("flat",) and found.num_groups == 2 and found.zero_variance_fraction == 0.5
    against_all = compute_advantages([1.0, 1.0, 0.0, 0.0], "aabb", baseline="global", std="global", eps=0)
    assert against_all.values.tolist() == [1, 1, -1, -1] and against_all.zero_variance == ("a", "b")


def test_a_missing_reward_counts_nowhere():
    found = compute_advantages([0.9, None, 0.1, None, 0.7], ["a", "a", "a", "b", "b"])
    assert torch.equal(found.values[[0, 2]], compute_advantages([0.9, 0.1], "aa").values)
    assert found.values[[1, 3, 4]].tolist() == [0, 0, 0]
    assert found.valid.tolist() == [True, False, True, False, True]
    assert found.zero_variance == ("b",), "one known reward is not a group"
    spread = compute_advantages([0.9, None, 0.1, 0.7], "aaab", std="global", clip=None).values
    assert spread[0].item() == pytest.approx(0.4 / (np.std([0.9, 0.1, 0.7]) + 1e-4))
    nothing = compute_advantages([None, None], "aa", baseline="global")
    assert nothing.values.tolist() == [0, 0] and nothing.zero_variance == ("a",)


def test_one_reward_combined_is_the_plain_one():
    for options in ({}, {"std": "global", "ddof": 1}, {"baseline": "global", "std": "none"}):
        plain = compute_advantages(REWARDS, GROUPS, **options)
        combined = combine_advantages({"cac": REWARDS}, GROUPS, **options)
        assert torch.equal(combined.values, plain.values) and combined.zero_variance == plain.zero_variance


def test_normalising_first_gives_each_reward_its_say_whatever_its_scale():
    small = [r / 1000 for r in reversed(REWARDS)]
    found = combine_advantages({"large": REWARDS, "small": small}, GROUPS, eps=0, clip=None).values
    each = [compute_advantages(part, GROUPS, eps=0, clip=None).values for part in (REWARDS, small)]
    assert torch.allclose(found, each[0] + each[1], atol=1e-12)
    assert each[1].abs().mean() == pytest.approx(each[0].abs().mean().item(), rel=0.5)
    weighted = combine_advantages({"l": REWARDS, "s": small}, GROUPS, weights={"l": 2.0, "s": 0.0}, eps=0, clip=None)
    assert torch.allclose(weighted.values, 2 * each[0], atol=1e-12)
    assert combine_advantages({"l": REWARDS, "s": small}, GROUPS, weights={"l": 9, "s": 9}).values.abs().max() == 5


def test_combined_sample_needs_every_part_and_a_flat_group_needs_all_parts_flat():
    found = combine_advantages({"a": [1.0, 0.0, None], "b": [0.3, 0.1, 0.9]}, "ggg", clip=None)
    assert found.valid.tolist() == [True, True, False] and found.values[2] == 0
    assert found.values[0].item() == pytest.approx(0.5 / 0.5001 + 0.1 / 0.1001)
    flat = combine_advantages({"a": [1.0, 1.0, 1.0, 1.0], "b": [0.3, 0.1, 0.2, 0.2]}, "gghh")
    assert flat.zero_variance == ("h",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": [1.0]}, "1 rewards for 2 samples"),
        ({"rewards": [1.0, math.nan]}, "reward of sample 1 is nan; a sample that cannot be scored is None"),
        ({"rewards": [math.inf, 1.0]}, "reward of sample 0 is inf"),
        ({"std": "batch"}, "std='batch' is unknown; choose one of group, global, none"),
        ({"baseline": "none"}, "baseline='none' is unknown"),
        ({"ddof": 2}, "ddof=2 must be 0"),
        ({"clip": 0.0}, "clip=0.0 above 0"),
        ({"eps": -1.0}, "eps=-1.0"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        compute_advantages(**{"rewards": [1.0, 2.0], "groups": "aa", **arguments})


def test_bad_parts():
    with pytest.raises(ValueError, match="parts is empty"):
        combine_advantages({}, [])
    with pytest.raises(ValueError, match=r"weights name \['b'\], the rewards are \['a'\]"):
        combine_advantages({"a": [1.0, 2.0]}, "gg", weights={"b": 1.0})
