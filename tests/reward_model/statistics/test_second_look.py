"""The numbers of docs/second_look.md: by hand, by brute force, and against the advantages that stage 3 computes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from reward_model.statistics.second_look import (
    Stakes,
    expected_push,
    flagged_advantage,
    ladder,
    least_confidence,
    least_doubt,
    two_turn_accuracy,
)
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.maths import group_advantages
from tests.campaigns import draws, slow_but

G = 8
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def test_the_ladder_at_half_and_at_the_suite():
    assert [rung.accuracy for rung in ladder(0.5)] == [0.75, 0.875, 1.0]
    assert [round(rung.accuracy, 6) for rung in ladder(0.8)] == [0.6, 0.8, 1.0]
    assert [round(rung.second_turns, 6) for rung in ladder(0.8)] == [0.0, 0.5, 0.9]
    assert [rung.accuracy for rung in ladder(0.0)] == [1.0, 1.0, 1.0]


def test_the_formula_is_what_judging_comes_to():
    """Videos are judged by the rule of the two turns, one by one."""
    rng, num = np.random.default_rng(0), 400_000
    undecided, flagged, recall, specificity = 0.6, 0.7, 0.9, 0.8
    abnormal, hard = rng.random(num) < 0.5, rng.random(num) < undecided
    suspects = np.where(hard, rng.random(num) < flagged, abnormal)
    confirms = np.where(hard, rng.random(num) < np.where(abnormal, recall, 1 - specificity), abnormal)
    accuracy = float(((suspects & confirms) == abnormal).mean())
    assert two_turn_accuracy(undecided, flagged, recall + specificity - 1) == pytest.approx(accuracy, abs=0.003)
    assert two_turn_accuracy(undecided, 1.0, 0.0) == two_turn_accuracy(undecided, 0.0), "a guess gains nothing"


@pytest.mark.parametrize(("better", "worse"), [(6.0, -2.0), (0.0, -1.0), (0.0, -1e-3), (9.0, -2.0), (1e6, 0.0)])
def test_the_flagged_advantages_do_not_know_the_rewards(better, worse):
    """Equation 8 in float64 for every number of flagged rollouts, rewarded and punished."""
    for flagged in range(1, G):
        for first, rest, sign in ((better, worse, 1), (worse, better, -1)):
            rewards = torch.tensor([[first] * flagged + [rest] * (G - flagged)], dtype=torch.float64)
            found = group_advantages(rewards, eps=0.0)[0, :flagged].sum().item()
            assert found == pytest.approx(sign * flagged_advantage(G, flagged), rel=1e-9)
            # The paper's deviation, without Bessel's correction, gives sqrt(k (G - k)) alone.
            values = rewards[0].numpy()
            z = (values - values.mean()) / values.std()
            assert z[:flagged].sum() == pytest.approx(sign * (flagged * (G - flagged)) ** 0.5, rel=1e-9)


def test_the_two_halves_cancel_group_by_group_for_any_group_size():
    for group, punished in product((2, 3, 8, 16), (-0.01, -1.0, -7.0)):
        for flagged in range(group + 1):
            ends = [[6.0, -2.0], [punished, 0.0]]
            rows = [[a] * flagged + [b] * (group - flagged) for a, b in ends]
            advantages = group_advantages(torch.tensor(rows, dtype=torch.float64), eps=1e-13)
            assert abs(advantages[:, :flagged].sum().item()) < 1e-9


def simulated_push(q: float, stakes: Stakes, scale: str, *, groups: int = 60_000, noise: float = 0.0) -> float:
    """Mean over groups of ``1 / G sum A (flagged - q)``, half of them abnormal."""
    rng = np.random.default_rng(1)
    flags = rng.random((groups, G)) < q
    abnormal = np.arange(groups) % 2 == 1
    found = stakes.found + noise * rng.standard_normal((groups, G))
    ends = np.where(
        abnormal[:, None],
        np.where(flags, found, stakes.missed),
        np.where(flags, stakes.rescued, stakes.passed),
    )
    advantages = group_advantages(torch.tensor(ends), scale_rewards=scale, eps=0.0 if scale == "none" else 1e-9)
    return float((advantages.numpy() * (flags - q)).mean())


@pytest.mark.parametrize(
    ("rescued", "scale"),
    slow_but(
        [(rescued, scale) for rescued in (-1.0, -0.5, -0.125, 0.0) for scale in ("group", "batch", "none")],
        *[(-1.0, "group"), (-0.5, "batch"), (0.0, "none")],
    ),
)
def test_the_expected_push_is_that_of_simulated_rollouts(scale, rescued):
    for q in (0.1, 0.5, 0.7):
        stakes = Stakes.of(rescued)
        exact = expected_push(q, stakes, scale_rewards=scale)
        assert simulated_push(q, stakes, scale) == pytest.approx(exact, abs=0.012 if scale == "none" else 0.003)


#: Table of the first simulation: reward of a cleared normal video -> pushes at SHARES without a divisor, and with the
#: deviation of the group, which it took without Bessel's correction.
PUBLISHED = {
    -2.0: ((0.24, 0.55, 0.66, 0.55, 0.24), (0, 0, 0, 0, 0)),
    -1.0: ((0.28, 0.65, 0.77, 0.64, 0.28), (0, 0, 0, 0, 0)),
    -0.5: ((0.29, 0.69, 0.82, 0.69, 0.30), (0, 0, 0, 0, 0)),
    0.0: ((0.32, 0.73, 0.88, 0.73, 0.32), (0.10, 0.21, 0.23, 0.20, 0.10)),
}


@pytest.mark.parametrize("rescued", PUBLISHED)
def test_the_table_of_pushes(rescued):
    stakes = Stakes(rescued=rescued)
    by_mean, by_group = PUBLISHED[rescued]
    assert [expected_push(q, stakes, scale_rewards="none") for q in SHARES] == pytest.approx(by_mean, abs=0.01)
    bessel = ((G - 1) / G) ** 0.5
    assert [expected_push(q, stakes) for q in SHARES] == pytest.approx([bessel * v for v in by_group], abs=0.01)


def test_noise_in_the_rewards_of_found_anomalies_leaves_next_to_nothing():
    for q in SHARES[:: draws(1, 4)]:
        assert abs(simulated_push(q, Stakes(), "group", noise=0.8)) < 0.006
        assert simulated_push(q, Stakes(), "batch", noise=0.8) > 0.05


def test_a_batch_keeps_the_stakes_and_a_group_does_not():
    for rescued in (-1.0, -0.5, -0.01):
        assert [expected_push(q, Stakes.of(rescued)) for q in SHARES] == pytest.approx([0] * 5, abs=1e-12)
        assert all(expected_push(q, Stakes.of(rescued), scale_rewards="batch") > 0 for q in SHARES)
    pushes = [expected_push(0.5, Stakes.of(r), scale_rewards="batch") for r in (-1.0, -0.5, 0.0)]
    assert pushes == sorted(pushes), "a dearer false alarm pushes less"


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_gate_is_where_the_push_turns(scale):
    for rescued in (-1.0, -0.5, -0.125):
        stakes = Stakes.of(rescued)
        turn = least_doubt(stakes, scale)
        below, above = (expected_push(0.4, stakes, scale_rewards=scale, doubt=turn + d) for d in (-0.01, 0.01))
        assert below < 0 < above
    free = Stakes.of(0.0)
    assert least_doubt(free, scale) == 0.0 and expected_push(0.4, free, scale_rewards=scale, doubt=0.01) > 0


def test_the_gate_of_the_defaults_by_hand():
    config = GrpoConfig()
    stakes = Stakes.of(-0.5, weight_status=config.weight_status)
    assert (stakes.found, stakes.missed, stakes.rescued) == (6.0, -2.0, -1.0)
    assert least_doubt(stakes) == pytest.approx(1 / 9) and least_doubt(Stakes.of(-0.125)) == pytest.approx(1 / 33)
    assert least_doubt(stakes, "group") == 0.5 == least_doubt(Stakes.of(-0.01), "group")


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: two_turn_accuracy(1.2, 0.5), r"undecided=1\.2 must be between 0 and 1"),
        (lambda: two_turn_accuracy(0.5, 0.5, 2), "skill=2 must be between -1 and 1"),
        (lambda: flagged_advantage(8, 9), "flagged=9 must be between 0 and group=8"),
        (lambda: expected_push(0.5, Stakes(), scale_rewards="std"), "scale_rewards='std' must be one of group, batch"),
        (lambda: least_doubt(Stakes(rescued=1.0)), "must reward a catch"),
    ],
)
def test_impossible_numbers_are_refused(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


@pytest.mark.parametrize(("rescued", "batch"), [(-0.5, 1 / 9), (-0.125, 1.75 / 9.75), (0.0, 0.2)])
def test_turn_two_confirms_what_it_can_hardly_tell_unless_each_group_is_scaled_alone(rescued, batch):
    """Expected push on turn two's logit of confirming, by the advantages that stage 3 computes: every scan flags."""
    stakes = Stakes.of(rescued)
    assert least_confidence(stakes, "batch") == least_confidence(stakes, "none") == pytest.approx(batch, rel=1e-12)
    assert least_confidence(stakes, "group") == 0.5
    rng, groups = np.random.default_rng(2), 40_000
    confirmed = rng.random((groups, G)) < 0.5
    for scale in ("batch", "group"):
        for distance, sign in ((-0.05, -1), (0.05, 1)):
            abnormal = np.arange(groups) / groups < least_confidence(stakes, scale) + distance
            ends = np.where(
                abnormal[:, None],
                np.where(confirmed, stakes.found, stakes.missed),
                np.where(confirmed, stakes.missed, stakes.rescued),
            )
            advantages = group_advantages(torch.tensor(ends), scale_rewards=scale, eps=1e-9).numpy()
            assert np.sign((advantages * (confirmed - 0.5)).mean()) == sign
