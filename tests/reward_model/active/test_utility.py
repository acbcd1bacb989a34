"""The utility: golden numbers, and what it asks for on a problem that can be enumerated."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from reward_model.active.tabular import TabularProblem, best_plan
from reward_model.active.utility import LookValue, UtilityConfig, binary_entropy, information_gain, utility
from tests.campaigns import slow_but

USEFUL = LookValue(1, 16, 0.1, 0.9)
USELESS = LookValue(0, 16, 0.5, 0.5)
REFUSED = LookValue(0, 0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("looks", "correct", "worth"),
    [
        ([], True, 1.0),
        ([], False, 0.0),
        (
            [LookValue(1, 16, 0.5, 0.8), LookValue(0.5, 8, 0.8, 0.9)],
            True,
            1 + 0.2 * (math.log2(1.6) + 0.5 * math.log2(1.125)) - 0.1 - 0.125,
        ),
        ([USELESS] * 4, True, 0.2),
        ([REFUSED] * 4, False, -0.6),
        ([USEFUL] * 4, False, 0.4),
        ([USEFUL] * 4, True, 1.4),
    ],
)
def test_golden_utilities(looks, correct, worth):
    assert utility(looks, correct=correct, abnormal=True) == pytest.approx(worth, abs=1e-9)


def test_the_golden_number_of_the_design():
    looks = [LookValue(1, 16, 0.5, 0.8), LookValue(0.5, 8, 0.8, 0.9)]
    assert round(utility(looks, correct=True, abnormal=True), 4) == 0.9276
    mirrored = [LookValue(k.novelty, k.num_frames, 1 - k.before, 1 - k.after) for k in looks]
    worth = utility(mirrored, correct=True, abnormal=False)
    assert worth == pytest.approx(utility(looks, correct=True, abnormal=True), abs=1e-12), "belief is in the truth"


def test_format_errors_and_kinds_of_information():
    assert utility([], correct=False, abnormal=True, format_error=True) == -0.5
    away = LookValue(1, 0, 0.5, 0.05)
    assert information_gain(away, abnormal=True, kind="belief") == -1  # clipped
    assert information_gain(away, abnormal=True, kind="entropy") == pytest.approx(1 - binary_entropy(0.05))
    assert information_gain(away, abnormal=True, kind="none") == 0
    assert information_gain(LookValue(1, 0, 1.0, 0.0), abnormal=True, kind="belief") == -1, "no infinity"
    assert binary_entropy(0) == binary_entropy(1) == 0 and binary_entropy(0.5) == 1
    config = UtilityConfig(cost_operator=0, cost_frames=0.16, cost_redundant=0, information="none")
    assert utility([LookValue(1, 3, 0.5, 0.5)], correct=False, abnormal=True, max_view_frames=8, config=config) == (
        pytest.approx(-0.06)
    )


def test_the_dearest_operator_costs_less_than_an_answer_is_worth():
    assert utility([USELESS] * 4, correct=True, abnormal=True) > utility([], correct=False, abnormal=True)
    # The utility alone does not put the right answer first: pairs do.
    assert utility([USEFUL] * 4, correct=False, abnormal=True) > utility([USELESS] * 4, correct=True, abnormal=True)


@pytest.mark.parametrize("name", ["weight_information", "cost_operator", "cost_frames", "cost_redundant"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=-1 must be a number of at least 0"):
        UtilityConfig(**{name: -1})


# --- a problem of two statuses and three views ------------------------------------------------------------------------

#: A view that tells nothing, one that tells most, one that tells something; 16, 16 and 4 frames.
TABLES = (
    np.array([[0.5, 0.5], [0.5, 0.5]]),
    np.array([[0.95, 0.05], [0.1, 0.9]]),
    np.array([[0.8, 0.2], [0.3, 0.7]]),
)


def expected_worth(problem, policy, config):
    """Expected utility of a policy, history -> choice, by playing every status and every run of observations."""
    total = 0.0
    for abnormal, chance in ((False, 1 - problem.prior), (True, problem.prior)):
        for seen in itertools.product(*(range(t.shape[1]) for t in problem.likelihoods)):
            weight = chance * math.prod(t[int(abnormal), o] for t, o in zip(problem.likelihoods, seen, strict=True))
            history, belief, looks = (), problem.prior, []
            while isinstance(choice := policy(history), int):
                known = choice in dict(history)
                after = belief if known else problem.belief(belief, choice, seen[choice])
                looks.append(LookValue(float(not known), problem.num_frames[choice], belief, after))
                history, belief = (*history, (choice, seen[choice])), after
            correct = choice == ("abnormal" if abnormal else "normal")
            total += weight * utility(looks, correct=correct, abnormal=abnormal, config=config)
    return total


def all_policies(problem):
    """Every deterministic policy, as functions of the history, by enumerating what is done after each history."""
    answers, views = ("normal", "abnormal"), range(len(problem.likelihoods))

    def trees(depth):
        yield from answers
        if depth == 0:
            return
        below = list(trees(depth - 1))
        for view in views:
            for branches in itertools.product(below, repeat=problem.likelihoods[view].shape[1]):
                yield view, branches

    def policy_of(tree):
        def choose(history):
            node = tree
            for _, observation in history:
                node = node[1][observation]
            return node if isinstance(node, str) else node[0]

        return choose

    return [policy_of(tree) for tree in trees(problem.max_operators)]


@pytest.mark.parametrize(
    ("prior", "information"),
    slow_but(
        [(prior, information) for prior in (0.5, 0.15) for information in ("belief", "entropy", "none")],
        *[(0.5, "belief"), (0.5, "none")],
    ),
)
def test_looking_ahead_finds_what_brute_force_finds(information, prior):
    problem, config = TabularProblem(prior, TABLES, (16, 16, 4)), UtilityConfig(information=information)
    best, plan = best_plan(problem, config)
    everything = all_policies(problem)
    assert len(everything) == 590  # 2 + 3 * 14 ** 2
    worths = [expected_worth(problem, policy, config) for policy in everything]
    assert max(worths) == pytest.approx(best, abs=1e-9)
    assert expected_worth(problem, plan.__getitem__, config) == pytest.approx(best, abs=1e-9)


def test_paying_for_entropy_buys_confidence_and_not_evidence():
    """A view that tells nothing, of which the judge believes that it tells all: it is sure afterwards, and as often
    wrong as right. With beliefs that are calibrated the two kinds agree on average, up to the clipping.
    """
    empty = np.array([[0.5, 0.5], [0.5, 0.5]])
    honest, trusted = np.array([[0.7, 0.3], [0.3, 0.7]]), np.array([[0.95, 0.05], [0.05, 0.95]])
    problem = TabularProblem(0.5, (honest, empty), (16, 16), believed=(honest, trusted))
    ours, theirs = (UtilityConfig(information=kind) for kind in ("belief", "entropy"))
    best, plan = best_plan(problem, ours)
    _, lured = best_plan(problem, theirs)
    assert (plan[()], plan[((0, 0),)], plan[((0, 1),)]) == (0, "normal", "abnormal"), "one look is enough"
    assert expected_worth(problem, lured.__getitem__, ours) < best - 0.08
    worths = [expected_worth(problem, policy, theirs) for policy in all_policies(problem)]
    assert max(worths) == pytest.approx(best_plan(problem, theirs)[0], abs=1e-9)


def test_tables_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="view 0 needs two rows of probabilities"):
        TabularProblem(0.5, (np.array([[0.5, 0.6], [0.5, 0.5]]),), (1,))
    with pytest.raises(ValueError, match="a prior between 0 and 1"):
        TabularProblem(1.0, TABLES, (1, 1, 1))
