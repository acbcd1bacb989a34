"""Equations 8 to 11 against golden numbers and a reference written in plain Python, and the discount that cancels;
log-probabilities from hidden states in chunks, against plain torch."""

import math

import pytest
import torch

from reward_model.training.grpo.maths import (
    clipped_surrogate,
    group_advantages,
    grpo_loss,
    k3_divergence,
    rollout_weights,
    scored_rollouts,
    token_scores,
    token_terms,
    zero_variance,
)

EPS, BETA, EPS_A = 0.2, 0.04, 1e-4


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


# --- Equation 8 -------------------------------------------------------------------------------------------------------


def plain_advantages(rewards):
    mean = math.fsum(rewards) / len(rewards)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / (std + EPS_A) for r in rewards]


@pytest.mark.parametrize(
    ("rewards", "golden"),
    [((9, 5, 1, -2), (1.2011, 0.3656, -0.4700, -1.0967)), ((0, 0, 0, -3), (0.5, 0.5, 0.5, -1.4999))],
)
def test_advantages_golden(rewards, golden):
    found = group_advantages(f64([rewards]))[0]
    assert found.tolist() == pytest.approx(golden, abs=6e-5)
    assert found.tolist() == pytest.approx(plain_advantages(rewards), abs=1e-9)


def test_advantages_properties():
    rewards = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    found = group_advantages(rewards)
    assert found.sum(1).abs().max() < 1e-12
    for row, group in zip(found.tolist(), rewards.tolist(), strict=True):
        assert row == pytest.approx(plain_advantages(group), abs=1e-9)
    assert torch.allclose(group_advantages(rewards + 7), found, atol=1e-12)
    assert (group_advantages(10 * rewards) - found).abs().max() < 1e-3
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(group_advantages(rewards[:, order]), found[:, order], atol=1e-12)


def test_equal_rewards_have_exactly_no_advantage():
    equal = f64([[0.1] * 8, [1 / 3] * 8])
    assert group_advantages(equal).tolist() == [[0.0] * 8] * 2
    assert zero_variance(equal).tolist() == [True, True]
    assert zero_variance(f64([[0.1, 0.2], [math.nan, 1.0]])).tolist() == [False, True]


def test_an_unscored_rollout_counts_nowhere():
    found = group_advantages(f64([[9, math.nan, 5, 1, -2], [math.nan, 3.0, math.nan, math.nan, math.nan]]))
    assert found[0, [0, 2, 3, 4]].tolist() == pytest.approx(plain_advantages((9, 5, 1, -2)), abs=1e-9)
    assert found[0, 1] == 0 and found[1].tolist() == [0.0] * 5
    scored = scored_rollouts(f64([[9, math.nan, 5], [math.nan, 3.0, math.nan]]))
    assert scored.tolist() == [[True, False, True], [False] * 3]


def test_scale_by_batch_and_by_nothing():
    rewards = f64([[2, 0], [10, 0]])
    std = torch.cat([rewards[0], rewards[1]]).std()
    assert torch.allclose(
        group_advantages(rewards, scale_rewards="batch"), f64([[1, -1], [5, -5]]) / (std + EPS_A), atol=1e-12
    )
    assert group_advantages(rewards, scale_rewards="none").tolist() == [[1, -1], [5, -5]]
    for wrong in ({"scale_rewards": "std"}, {"saliency_repair": "half"}, {"saliency_repair": "scale_advantage"}):
        with pytest.raises(ValueError, match=r"scale_rewards|saliency"):
            group_advantages(rewards, **wrong)


# --- the discount cancels ---------------------------------------------------------------------------------------------

S = f64([5.4, 4.4, 3.1, 0, 0, 6.2, 0, 2.0])
STATUS = f64([0, 0, 0, -1, -1, 0, -1, 0])


def reward(gbar, form=None, outside=False):
    term = 9 - gbar * (9 - S)
    if outside:
        term = torch.where(S > 0, term, 0.0)
    return (2 * gbar * STATUS + term + (0 if form is None else form))[None]


def test_saliency_vanishes_in_the_group_score():
    salient, faint = group_advantages(reward(1.0)), group_advantages(reward(0.5))
    golden = (1.0135, 0.7250, 0.3499, -1.1217, -1.1217, 1.2444, -1.1217, 0.0325)
    assert salient[0].tolist() == pytest.approx(golden, abs=6e-5)
    assert 3e-5 < (salient - faint).abs().max() < 4e-5
    assert torch.allclose(group_advantages(reward(1.0), eps=1e-15), group_advantages(reward(0.5), eps=1e-15))


def test_saliency_survives_where_the_reward_is_not_affine_in_it():
    form = torch.zeros(8, dtype=torch.float64)
    form[3] = -0.5
    salient, faint = group_advantages(reward(1.0, form)), group_advantages(reward(0.5, form))
    assert (salient - faint).abs().max() == pytest.approx(0.0899, abs=1e-4)
    outside = group_advantages(reward(0.5, outside=True))
    assert (group_advantages(reward(1.0)) - outside).abs().max() == pytest.approx(0.4045, abs=1e-4)


def test_both_repairs_give_half_the_weight_to_half_the_saliency():
    both = torch.cat([reward(1.0), reward(0.5)])
    scaled = group_advantages(both, saliency=f64([1.0, 0.5]), saliency_repair="scale_advantage", eps=1e-15)
    assert torch.allclose(scaled[1], scaled[0] / 2, atol=1e-12)
    centred = group_advantages(both, saliency_repair="mean_only")
    assert torch.allclose(centred[1], centred[0] / 2, atol=1e-12)


# --- Equations 9 to 11 ------------------------------------------------------------------------------------------------

#: Two rollouts: log r and log rho of each turn; the second ended after turn one.
LOG_R = [[[0.1, -0.3], [0.3, 0.0, -0.1]], [[0.25, -0.25]]]
LOG_RHO = [[[0.1, -0.1], [0.2, 0.0, 0.0]], [[-0.1, 0.3]]]


def plain_surrogate(log_r, advantage):
    ratio = math.exp(log_r)
    return min(ratio * advantage, max(min(ratio, 1 + EPS), 1 - EPS) * advantage)


def plain_kl(log_rho):
    return math.exp(log_rho) - log_rho - 1


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values)


def plain_golden():
    advantages = plain_advantages((2.0, 0.0))
    clip = mean(
        mean(plain_surrogate(x, a) for turn in one for x in turn) for one, a in zip(LOG_R, advantages, strict=True)
    )
    return clip, mean(mean(plain_kl(x) for turn in one for x in turn) for one in LOG_RHO)


def run_math():
    """The same numbers through the functions of the package, rows flattened as the trainer does."""
    advantages = group_advantages(f64([[2.0, 0.0]]))[0]
    counts = torch.tensor([5, 2])
    log_r = f64([x for one in LOG_R for turn in one for x in turn])
    log_rho = f64([x for one in LOG_RHO for turn in one for x in turn])
    weights = rollout_weights(counts, torch.tensor([True, True])).repeat_interleave(counts)
    spread = advantages.repeat_interleave(counts)
    zero = torch.zeros_like(log_r)
    # The policy stands at 0, so that old = -log r and reference = log rho.
    clip = token_terms(zero, -log_r, None, spread, epsilon=EPS, beta=0).objective
    both = token_terms(zero, -log_r, log_rho, spread, epsilon=EPS, beta=BETA)
    return -grpo_loss(clip, weights), (both.kl * weights).sum(), -grpo_loss(both.objective, weights)


def test_golden_of_equations_9_to_11():
    clip, kl, total = (float(v) for v in run_math())
    expected_clip, expected_kl = plain_golden()
    assert clip == pytest.approx(expected_clip, abs=1e-9) and kl == pytest.approx(expected_kl, abs=1e-9)
    assert total == pytest.approx(expected_clip - BETA * expected_kl, abs=1e-9)
    assert (clip, kl, total) == pytest.approx((-0.0183295, 0.0168152, -0.0190021), abs=5e-8)


def test_the_usual_mistakes_give_other_numbers():
    a = plain_advantages((2.0, 0.0))
    terms = [[[plain_surrogate(x, k) for x in turn] for turn in one] for one, k in zip(LOG_R, a, strict=True)]
    rows = [turn for one in terms for turn in one]
    wrong = {
        "turn means": (mean(mean(mean(turn) for turn in one) for one in terms), -0.0222873),
        "rows as rollouts": (mean(mean(turn) for turn in rows), 0.2158710),
        "all tokens pooled": (mean(x for turn in rows for x in turn), 0.2895702),
        "turn two forgotten": (mean(mean(one[0]) for one in terms), -0.0420763),
    }
    clip, kl, _ = (float(v) for v in run_math())
    for name, (value, golden) in wrong.items():
        assert value == pytest.approx(golden, abs=5e-8), name
        assert abs(value - clip) > 1e-3, name
    inverted = mean(mean(plain_kl(-x) for turn in one for x in turn) for one in LOG_RHO)
    assert inverted == pytest.approx(0.0143712, abs=5e-8) and abs(inverted - kl) > 1e-3


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "flat"),
    [(1.5, 1, 1.2, True), (0.5, 1, 0.5, False), (1.5, -1, -1.5, False), (0.5, -1, -0.8, True)],
)
def test_clip_stops_the_gradient_on_two_of_four_sides(ratio, advantage, value, flat):
    log_ratio = f64([math.log(ratio)]).requires_grad_()
    found = clipped_surrogate(log_ratio, f64([advantage]), EPS)
    found.sum().backward()
    assert float(found.detach()) == pytest.approx(value, abs=1e-12)
    assert (float(log_ratio.grad) == 0) == flat
    terms = token_terms(log_ratio.detach(), f64([0.0]), None, f64([advantage]), epsilon=EPS)
    assert (bool(terms.clipped_low), bool(terms.clipped_high)) == (flat and ratio < 1, flat and ratio > 1)


def test_upper_clip_range_can_differ():
    assert float(clipped_surrogate(f64([math.log(1.5)]), f64([1.0]), EPS, 0.3)) == pytest.approx(1.3)


def test_kl_estimate():
    assert k3_divergence(f64([0.1, -0.1])).tolist() == pytest.approx([0.0051709, 0.0048374], abs=5e-8)
    grid = torch.linspace(-3, 3, 601, dtype=torch.float64)
    found = k3_divergence(grid)
    assert (found >= 0).all() and found[300] == 0 and (found[grid.abs() > 0.005] > 0).all()


def test_kl_gradient_is_one_minus_rho():
    policy = f64([-1.0, -2.0, -0.5]).requires_grad_()
    reference = f64([-1.2, -1.5, -0.5])
    terms = token_terms(policy, policy.detach(), reference, torch.zeros(3, dtype=torch.float64), beta=1.0)
    (-terms.objective).sum().backward()
    rho = (reference - policy.detach()).exp()
    assert torch.allclose(policy.grad, 1 - rho, atol=1e-12)
    assert policy.grad[2] == 0
    step = 1e-6
    moved = policy.detach() + f64([step, 0, 0])
    slope = (k3_divergence(reference - moved) - k3_divergence(reference - policy.detach()))[0] / step
    assert float(slope) == pytest.approx(float(policy.grad[0]), abs=1e-5)


def test_corrected_kl_is_multiplied_by_the_ratio():
    args = (f64([-1.0]), f64([-1.3]), f64([-1.1]), f64([0.0]))
    plain, corrected = (token_terms(*args, correct_kl=c).kl for c in (False, True))
    assert float(corrected / plain) == pytest.approx(math.exp(0.3), abs=1e-12)


def test_weights_of_a_short_and_a_long_rollout():
    weights = rollout_weights(torch.tensor([5, 2, 7]), torch.tensor([True, True, False]), total=4)
    assert weights.tolist() == pytest.approx([1 / 20, 1 / 8, 0])


# --- log-probabilities of tokens --------------------------------------------------------------------------------------


def plain(head, states, tokens, temperature):
    logs = torch.log_softmax(head(states) / temperature, dim=-1)
    return logs.gather(1, tokens[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


def gradients(values, weights, tensors):
    return torch.autograd.grad((values * weights).sum(), tensors)


@pytest.fixture
def case():
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 17, bias=False).double()
    return head, torch.randn(10, 6, dtype=torch.float64, requires_grad=True), torch.randint(17, (10,))


@pytest.mark.parametrize("chunk", [1, 3, 10, 64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_entropies_and_gradients_are_those_of_plain_torch(case, chunk, temperature):
    head, states, tokens = case
    found, entropy = token_scores(head, states, tokens, temperature=temperature, chunk=chunk)
    values, expected = plain(head, states, tokens, temperature)
    assert torch.allclose(found, values, atol=1e-12) and torch.allclose(entropy, expected, atol=1e-12)
    weights = torch.randn(10, dtype=torch.float64)
    both = gradients(found, weights, [states, head.weight]), gradients(values, weights, [states, head.weight])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*both, strict=True))
    assert not entropy.requires_grad


def test_a_frozen_head_still_passes_gradients_to_the_states(case):
    head, states, tokens = case
    head.requires_grad_(False)
    (grad,) = gradients(token_scores(head, states, tokens, chunk=4)[0], torch.ones(10), [states])
    assert torch.allclose(grad, gradients(plain(head, states, tokens, 1.0)[0], torch.ones(10), [states])[0], atol=1e-12)


def test_autocast_changes_the_products_and_not_the_sums(case):
    """As autograd under autocast: products in bf16 in both directions, log-probabilities in fp32."""
    head, states, tokens = case[0].float(), case[1].detach().float().requires_grad_(), case[2]
    with torch.autocast("cpu", torch.bfloat16):
        found, entropy = token_scores(head, states, tokens, chunk=4)
        logs = torch.log_softmax(head(states).float(), dim=-1)
    values = logs.gather(1, tokens[:, None])[:, 0]
    assert found.dtype == entropy.dtype == torch.float32 and torch.equal(found, values)
    both = (gradients(v, torch.ones(10), [states, head.weight]) for v in (found, values))
    for a, b in zip(*both, strict=True):
        assert a.dtype == torch.float32 and torch.allclose(a, b, atol=2e-2)


def test_the_head_is_called_once_with_its_hooks_and_left_as_it_was(case):
    head, states, tokens = case
    seen = []
    head.register_forward_hook(lambda module, given, result: seen.append(result[0].shape))
    token_scores(head, states, tokens, chunk=3)
    assert seen == [(10,)] and "forward" not in vars(head)
    assert head(states).shape == (10, 17)
