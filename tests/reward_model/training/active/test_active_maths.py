"""The loss, the weights of turns, and which of two episodes is the better: golden numbers in fp64."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from reward_model.training.active.maths import (
    dmpo_weights,
    episode_delta,
    preference_loss,
    supervised_loss,
    turn_sums,
    turn_weights,
)
from reward_model.training.active.pairs import Judged, all_pairs, choose_pairs, differ_in_one_operator, is_better


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def loss(winner, loser, **options):
    return float(preference_loss(double(winner), double(loser), **options))


def test_golden_losses():
    assert loss(0.0, 0.0, beta=0.1) == pytest.approx(math.log(2), abs=1e-12)
    assert loss(1.5, -0.5, beta=0.1) == pytest.approx(-math.log(1 / (1 + math.exp(-0.2))), abs=1e-12)
    assert round(loss(1.5, -0.5, beta=0.1), 4) == 0.5981
    assert round(loss(-0.5, 1.5, beta=0.1), 4) == 0.7981
    assert round(loss(1.5, -0.5, beta=0.1, margin=0.5, gap=0.8), 4) == 0.7981
    assert loss(-1e6, 1e6, beta=0.1) == pytest.approx(2e5) and loss(1e6, -1e6, beta=0.1) == 0, "no overflow"


def test_golden_weights():
    exact = [0.7**j * (1 - 0.7 ** (4 - j)) / (1 - 0.7**4) for j in range(4)]
    np.testing.assert_allclose(dmpo_weights(4, 0.7), exact, atol=1e-12)
    assert [round(w, 4) for w in dmpo_weights(4, 0.7)] == [1, 0.6052, 0.3289, 0.1354]
    assert dmpo_weights(4, 1.0) == [1, 0.75, 0.5, 0.25]
    np.testing.assert_allclose(dmpo_weights(4, 1 - 1e-7), dmpo_weights(4, 1.0), atol=1e-6)
    assert turn_weights(3, "one") == [1, 1, 1] and turn_weights(1, "dmpo") == [1]
    sums = double([1.0, 0.5, -0.2])
    found = float(episode_delta(sums, torch.zeros_like(sums), dmpo_weights(3, 0.7)))
    assert round(found, 4) == 1.2269 and float(episode_delta(sums, sums, [1, 1, 1])) == 0
    for bad in ((0, 0.7), (3, 0.0), (3, 1.1)):
        with pytest.raises(ValueError, match="0 < gamma"):
            dmpo_weights(*bad)


def test_turns_are_summed_each_by_itself():
    assert turn_sums(double([1.0, 2, 3, 4]), [1, 3]).tolist() == [1, 9]
    assert float(supervised_loss(double([-1.0, -3.0]))) == 2


def test_the_gradient_pushes_the_better_up_and_the_worse_down():
    first, second = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.1))
    preference_loss(first, second, beta=0.1).backward()
    slope = 0.1 / (1 + math.exp(0.1 * 0.2))
    assert float(first.grad) == pytest.approx(-slope, abs=1e-12) == -float(second.grad)


# --- pairs ------------------------------------------------------------------------------------------------------------

RIGHT, CHEAP, WRONG = Judged(True, 0.5, ("a", "b")), Judged(True, 0.9, ()), Judged(False, 2.0, ("a",))


def test_a_right_answer_beats_a_wrong_one_whatever_either_cost():
    assert is_better(RIGHT, WRONG, 0.2) and not is_better(WRONG, RIGHT, 0.2)
    assert is_better(CHEAP, RIGHT, 0.2) and not is_better(RIGHT, CHEAP, 0.2) and not is_better(CHEAP, CHEAP, 0.2)
    assert not is_better(WRONG, Judged(False, -9.0), 0.2), "wrong answers are not compared"
    assert is_better(Judged(True, 0.9), Judged(True, 0.7), 0.2), "the least difference counts"


def test_branches_differ_in_their_first_own_operator():
    episodes = [
        Judged(True, 1.0, ("zoom", "expand")),
        Judged(False, 0.0, ("zoom", "back"), (0, 1)),
        Judged(False, 0.0, ("zoom", "expand", "zoom"), (0, 1)),  # drew the same operator again
        Judged(False, 0.0, ("back",), (0, 0)),
        Judged(False, 0.0, ("zoom",), None),
        Judged(True, 0.0, ("zoom",), (0, 1)),  # answered in its place
    ]
    told = [differ_in_one_operator(episodes, 0, k) for k in range(1, 6)]
    assert told == [True, False, True, False, True]
    assert differ_in_one_operator(episodes, 1, 5) and not differ_in_one_operator(episodes, 1, 4)
    assert differ_in_one_operator(episodes, 1, 0) == differ_in_one_operator(episodes, 0, 1)
    kinds = {(p.winner, p.loser): p.kind for p in all_pairs(0, episodes, 0.2)}
    assert kinds[0, 1] == "branch" and kinds[0, 2] == "correct" and kinds[0, 5] == "branch" and kinds[5, 4] == "correct"


def many(count=40):
    rng = np.random.default_rng(0)
    videos = {}
    for video in range(count):
        free = [
            Judged(bool(rng.random() < 0.5), float(rng.random()), ("zoom",) * int(rng.integers(3))) for _ in range(6)
        ]
        parent = int(rng.integers(6))
        videos[video] = [*free, Judged(not free[parent].correct, 0.4, ("back",), (parent, 0))]
    return videos


QUOTAS = {"correct": 0.5, "efficient": 0.25, "branch": 0.25}


def test_quotas_are_kept_and_the_choice_follows_the_seed():
    pairs = choose_pairs(many(), quotas=QUOTAS, least_gap=0.2, per_video=8, seed=0)
    counts = Counter(p.kind for p in pairs)
    assert max(Counter(p.video for p in pairs).values()) <= 8 and len(pairs) > 60
    assert counts["correct"] > counts["efficient"] and min(counts.values()) > 0.15 * len(pairs), counts
    again = choose_pairs(many(), quotas=QUOTAS, least_gap=0.2, per_video=8, seed=0)
    assert pairs == again != choose_pairs(many(), quotas=QUOTAS, least_gap=0.2, per_video=8, seed=1)
    videos = many()
    for p in pairs:
        assert is_better(videos[p.video][p.winner], videos[p.video][p.loser], 0.2)


def test_a_kind_without_a_share_is_left_out_and_none_empties_the_round():
    without = choose_pairs(many(), quotas={"correct": 0.5, "efficient": 0.5}, least_gap=0.2, per_video=8, seed=0)
    assert {p.kind for p in without} == {"correct", "efficient"}
    lonely = {0: [Judged(True, 1.0), Judged(False, 0.0), Judged(False, 0.1)]}
    assert len(choose_pairs(lonely, quotas=QUOTAS, least_gap=0.2, per_video=8, seed=0)) == 2
    alike = {0: [Judged(True, 1.0)] * 3, 1: [Judged(False, 1.0)] * 3}
    assert choose_pairs(alike, quotas=QUOTAS, least_gap=0.2, per_video=8, seed=0) == []
