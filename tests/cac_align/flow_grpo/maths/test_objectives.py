"""Losses, ratios and divergences against plain floats and against the identities their authors derive."""

import itertools
import math

import pytest
import torch

from cac_align.flow_grpo.maths.kernels import coefficients, guard_log_ratio, log_prob, log_ratio, transition
from cac_align.flow_grpo.maths.objectives import (
    dppo,
    grpo,
    guard,
    mean_divergence,
    policy_objective,
    ratio_metrics,
    velocity_divergence,
)
from cac_align.flow_grpo.maths.schedule import Schedule, gradient_scales
from tests.cac_align.flow_grpo import reference


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def a_step(batch=3, scale=0.05, seed=0):
    """Old mean, new mean, std and next latents drawn from the old policy."""
    old, shift, noise = torch.randn(
        3, batch, 4, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    std = 0.4
    return old, old + scale * shift, std, old + std * noise


# --- grpo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "stopped"),
    [
        (1.5, 1, -1.2, True),
        (1.5, -1, 1.5, False),
        (0.5, 1, -0.5, False),
        (0.5, -1, 0.8, True),
        (1.1, 2, -2.2, False),
        (1.0, -3, 3.0, False),
    ],
)
def test_clipped_surrogate(ratio, advantage, loss, stopped):
    change = f64(math.log(ratio)).requires_grad_()
    found = grpo(change, f64(advantage), clip_range=0.2)
    found.loss.sum().backward()
    assert found.loss.item() == pytest.approx(loss, abs=1e-12)
    assert found.stopped.item() is stopped and (change.grad.item() == 0) is stopped
    assert not found.log_ratio.requires_grad


def test_upper_clip_range_may_differ():
    assert grpo(f64(math.log(1.5)), f64(1), clip_range=0.2, clip_range_high=0.3).loss.item() == pytest.approx(-1.3)


def test_a_clip_range_below_the_resolution_of_float32_still_works():
    change = torch.tensor([3e-8, -3e-8], dtype=torch.float32)
    found = grpo(change, torch.tensor([1.0, -1.0]), clip_range=1e-8)
    assert found.stopped.tolist() == [True, True]
    assert (found.loss + torch.tensor([1.0, -1.0])).tolist() == pytest.approx([-1e-8, -1e-8], rel=1e-6)


def test_gradient_at_ratio_one_is_minus_the_advantage():
    change = f64(0, 0, 0).requires_grad_()
    found = grpo(change, f64(2, -1, 0), clip_range=1e-3)
    found.loss.sum().backward()
    assert change.grad.tolist() == [-2, 1, 0] and found.loss.tolist() == [-2, 1, 0]


# --- guard ------------------------------------------------------------------------------------------------------------


def test_guard_identity():
    """(log r + mean(shift^2) / (2 std^2)) * std, as published, is mean(eps * shift)."""
    old, new, std, drawn = a_step()
    published = (
        log_prob(drawn, new, std) - log_prob(drawn, old, std) + ((new - old) ** 2).flatten(1).mean(1) / (2 * std**2)
    ) * std
    direct = ((drawn - old) / std * (new - old)).flatten(1).mean(1)
    found = guard_log_ratio(drawn, new, old, std)
    assert torch.allclose(found, published, atol=1e-10, rtol=0) and torch.allclose(found, direct, atol=1e-14)
    assert guard_log_ratio(drawn, old, old, std).tolist() == [0, 0, 0]


def test_the_raw_ratio_is_biased_and_the_guarded_one_is_not():
    """Under the old policy E[log r] = -mean(shift^2) / (2 std^2); within 3 standard errors."""
    old, new, std, _ = a_step(batch=1, scale=0.2)
    noise = torch.randn(20_000, *old.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = old + std * noise
    raw = log_ratio(drawn, new.expand_as(drawn), old.expand_as(drawn), std)
    guarded = guard_log_ratio(drawn, new.expand_as(drawn), old.expand_as(drawn), std)
    expected = -((new - old) ** 2).mean().item() / (2 * std**2)
    error = raw.std().item() / math.sqrt(len(raw))
    assert raw.mean().item() == pytest.approx(expected, abs=3 * error) and abs(expected) > 30 * error
    assert guarded.mean().item() == pytest.approx(0, abs=3 * guarded.std().item() / math.sqrt(len(raw)))


@pytest.mark.parametrize(("kernel", "eta"), [("flow", 0.7), ("wan_linear", None), ("dance", 0.3)])
def test_gradient_of_guard_weighs_steps_as_published(kernel, eta):
    """1 + s^2 (1 - sigma) / (2 sigma) per unit of noise; for flow the constant 1 + eta^2 / 2."""
    sigmas = reference.new_sigmas(20, 3.0)
    for i in range(1, 19):
        now, then = sigmas[i], sigmas[i + 1]
        x, v = f64(0.3).reshape(1, 1), f64(-0.2).reshape(1, 1).requires_grad_()
        step = transition(kernel, x, v, now, then, noise_level=eta, sigma_max=sigmas[1])
        drawn = (step.mean + step.std).detach()  # noise of exactly 1
        change = guard_log_ratio(drawn, step.mean, step.mean.detach(), step.std)
        guard(change, f64(1), step_size=now - then, clip_range=0.5).loss.sum().backward()
        s = step.std.item() / math.sqrt(now - then)
        assert v.grad.item() == pytest.approx(1 + s**2 * (1 - now) / (2 * now), rel=1e-9)
        if kernel == "flow":
            assert v.grad.item() == pytest.approx(1 + eta**2 / 2, rel=1e-9)


def test_guard_is_the_surrogate_over_the_step_size():
    change, gain = f64(1e-6, -5e-6, 4e-6), f64(1, -2, 3)
    plain, found = grpo(change, gain, clip_range=2e-6), guard(change, gain, step_size=0.02, clip_range=2e-6)
    assert torch.allclose(found.loss, plain.loss / 0.02, rtol=1e-15) and found.stopped.tolist() == [False, True, True]


# --- dppo -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "ratio", "far"), list(itertools.product((1.0, -1.0), (1.1, 0.9), (True, False))))
def test_dppo_truth_table(gain, ratio, far):
    change = f64(math.log(ratio)).requires_grad_()
    found = dppo(change, f64(2e-5 if far else 0.5e-5), f64(gain), max_divergence=1e-5)
    found.loss.sum().backward()
    dropped = (gain, ratio, far) in ((1.0, 1.1, True), (-1.0, 0.9, True))
    assert found.stopped.item() is dropped
    assert found.loss.item() == (0 if dropped else pytest.approx(-gain * ratio))
    assert change.grad.item() == (0 if dropped else pytest.approx(-gain * ratio))


def test_dppo_threshold_itself_is_far():
    assert dppo(f64(0.1), f64(1e-5), f64(1), max_divergence=1e-5).stopped.item()


# --- divergences ------------------------------------------------------------------------------------------------------


def test_mean_divergence_is_the_gaussian_kl_never_negative_and_zero_at_equality():
    old, new, std, _ = a_step()
    found = mean_divergence(new, old, std)
    assert torch.allclose(found, ((new - old) ** 2).flatten(1).mean(1) / (2 * std**2), atol=1e-14)
    assert (found > 0).all() and mean_divergence(old, old, std).tolist() == [0, 0, 0]
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(new, std), normal(old, std)).flatten(1).mean(1)
    assert torch.allclose(found, kl, atol=1e-13)


def test_divergences_have_a_gradient_for_the_policy_and_none_for_the_reference():
    old, new, std, _ = a_step()
    for function, extra in ((mean_divergence, (std,)), (velocity_divergence, ())):
        policy, fixed = new.clone().requires_grad_(), old.clone().requires_grad_()
        value = function(policy, fixed, *extra).sum()
        assert value.requires_grad
        value.backward()
        assert policy.grad.abs().sum() > 0 and fixed.grad is None


def test_divergence_of_means_is_half_c_squared_times_that_of_velocities():
    sigmas = reference.new_sigmas(20, 3.0)
    x, v, other = torch.randn(3, 2, 8, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for kernel, eta in reference.USUAL.items():
        scales = gradient_scales(Schedule(tuple(sigmas)), kernel, noise_level=eta)
        for i in (0, 7, 18):
            steps = [
                transition(kernel, x, w, sigmas[i], sigmas[i + 1], noise_level=eta, sigma_max=sigmas[1])
                for w in (v, other)
            ]
            found = mean_divergence(steps[0].mean, steps[1].mean, steps[0].std)
            assert torch.allclose(found, scales[i] ** 2 / 2 * velocity_divergence(v, other), rtol=1e-9)


def test_velocities_in_bfloat16_are_compared_in_float32():
    v = torch.full((1, 4), 1.0, dtype=torch.bfloat16)
    other = torch.full((1, 4), 1.0 + 2**-7, dtype=torch.bfloat16)
    assert velocity_divergence(v, other).item() == 2**-14


def test_divergence_of_ode_steps_is_refused():
    with pytest.raises(ValueError, match="use velocity_divergence"):
        mean_divergence(torch.zeros(1, 2), torch.ones(1, 2), 0.0)


# --- by name, with weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "guard", "dppo"])
def test_uniform_weights_are_plain_to_the_bit_and_weights_are_means_over_their_cells(name):
    old, new, std, drawn = a_step()
    common = {"std": std, "step_size": 0.02, "advantages": f64(1, -1, 2), "clip_range": 0.3}
    tensors = {"sample_next": drawn, "mean": new, "old_mean": old}
    plain = policy_objective(name, **tensors, **common)
    ones = policy_objective(name, **tensors, **common, weights=torch.ones(3, 1, 2, 4, 4))
    assert torch.equal(plain.loss, ones.loss) and torch.equal(plain.log_ratio, ones.log_ratio)
    half = torch.zeros(3, 1, 2, 4, 4)
    half[:, :, 0] = 2.0
    cut = policy_objective(name, **{k: t[:, :, 0] for k, t in tensors.items()}, **common)
    assert torch.allclose(policy_objective(name, **tensors, **common, weights=half).loss, cut.loss, rtol=1e-12)
    assert not torch.allclose(cut.loss, plain.loss, rtol=1e-4)


def test_by_name_is_the_function_itself():
    old, new, std, drawn = a_step()
    gain = f64(1, -1, 2)
    common = {"sample_next": drawn, "mean": new, "old_mean": old, "std": std, "step_size": 0.02, "advantages": gain}
    difference = log_prob(drawn, new, std) - log_prob(drawn, old, std)
    by_log_prob = grpo(difference, gain, clip_range=1e-3)
    assert torch.allclose(policy_objective("grpo", **common).loss, by_log_prob.loss, atol=1e-12)
    change = guard_log_ratio(drawn, new, old, std)
    direct = guard(change, gain, step_size=0.02, clip_range=1e-3)
    assert torch.equal(policy_objective("guard", **common).loss, direct.loss)
    far = ((new - old) ** 2).flatten(1).mean(1) / (2 * std**2)
    limit = far.sort().values[1].item()
    expected = dppo(difference, far, gain, max_divergence=limit)
    assert torch.equal(policy_objective("dppo", **common, max_divergence=limit).stopped, expected.stopped)
    with pytest.raises(ValueError, match="objective 'ppo' is unknown; choose one of grpo, guard, dppo"):
        policy_objective("ppo", **common)


def test_at_the_first_inner_epoch_every_objective_has_ratio_one():
    old, _, std, drawn = a_step()
    for name, scale in (("grpo", 1), ("guard", 0.02), ("dppo", 1)):
        found = policy_objective(
            name, sample_next=drawn, mean=old, old_mean=old, std=std, step_size=0.02, advantages=f64(1, -1, 2)
        )
        assert found.log_ratio.tolist() == [0, 0, 0] and not found.stopped.any()
        assert (found.loss * scale).tolist() == pytest.approx([-1, 1, -2], abs=1e-15)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics():
    values = torch.tensor([[1e-6, -3e-6], [5e-6, 0.0]])
    found = ratio_metrics(values, clip_range=2e-6)
    assert found["approx_kl"] == pytest.approx((1 + 9 + 25) * 1e-12 / 8, rel=1e-5)
    assert found["log_ratio_mean"] == pytest.approx(0.75e-6, rel=1e-5) and found["log_ratio_abs_max"] == pytest.approx(
        5e-6
    )
    assert (found["clip_fraction_low"], found["clip_fraction_high"], found["clip_fraction"]) == (0.25, 0.25, 0.5)
    assert found["ratio_minus_1_q50"] == pytest.approx(0.5e-6, rel=1e-5)
    assert found["ratio_minus_1_q05"] < 0 < found["ratio_minus_1_q95"]
    assert "clip_fraction" not in ratio_metrics(values)
    with pytest.raises(ValueError, match="log_ratio is empty"):
        ratio_metrics(torch.zeros(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grpo(f64(0), f64(1), clip_range=0.0), "clip_range=0.0"),
        (lambda: grpo(f64(0), f64(1), clip_range=1.5), r"must lie in \(0, 1\)"),
        (lambda: guard(f64(0), f64(1), step_size=-0.1, clip_range=1e-6), "pass sigma - sigma_next"),
        (lambda: dppo(f64(0), f64(0), f64(1), max_divergence=0), "max_divergence=0 must be above 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_scale_of_the_gradient_of_a_log_prob_is_c():
    now, then = 0.6, 0.5
    factors = coefficients("cps", now, then, noise_level=0.8)
    x, v = f64(0.3).reshape(1, 1), f64(0.1).reshape(1, 1).requires_grad_()
    step = transition("cps", x, v, now, then, noise_level=0.8)
    log_prob((step.mean + step.std).detach(), step.mean, step.std).sum().backward()
    assert abs(v.grad.item()) == pytest.approx((factors.velocity.abs() / factors.std).item(), rel=1e-12)
