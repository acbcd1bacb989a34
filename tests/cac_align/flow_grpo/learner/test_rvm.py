"""Reward-based velocity matching against its printed gradient, and against nft where the two are one."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from cac_align.flow_grpo.learner.nft import nft_loss, noised
from cac_align.flow_grpo.learner.rvm import rvm_loss, shifted, static_shift
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def a_batch(seed=0):
    """Velocity, reference, clean latents and noise, each (4, 3, 2, 5)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, 2, 5, dtype=torch.float64, generator=generator) for _ in range(4)]


def gradient(loss, velocity):
    (found,) = torch.autograd.grad(loss.sum(), velocity)
    return found


@pytest.mark.parametrize("beta", [0.0, 0.3, f64(0.0, 0.1, 0.5, 2.0)])
def test_value_and_gradient_are_those_of_plain_floats(beta):
    v, reference, clean, noise = a_batch()
    advantages = f64(0.5, -0.2, 0.0, 3e-9)
    policy = v.clone().requires_grad_()
    loss = rvm_loss(policy, clean, noise, advantages, reference=reference, beta=beta)
    found = gradient(loss, policy).flatten(1).tolist()
    betas = beta.tolist() if isinstance(beta, torch.Tensor) else [beta] * 4
    for k in range(4):
        rows = [t[k].flatten().tolist() for t in (v, reference, clean, noise)]
        a, b, n = advantages[k].item(), betas[k], len(rows[0])
        errors = [(x - (e - c), x - r) for x, r, c, e in zip(*rows, strict=True)]
        assert found[k] == pytest.approx([(a * d + b * far) / n for d, far in errors], rel=1e-12, abs=1e-18)
        value = sum((a * d) ** 2 + b * far**2 for d, far in errors) / 2 / n
        assert loss[k].item() == pytest.approx(value, rel=1e-12, abs=1e-18) and value >= 0


def test_a_small_advantage_keeps_its_digits_in_single_precision():
    """Subtracting v - A (v - u) from v in float32 would leave four digits of an advantage of 1e-4."""
    v, _, clean, noise = (t.float() for t in a_batch())
    policy = v.clone().requires_grad_()
    found = gradient(rvm_loss(policy, clean, noise, torch.full((4,), 1e-4)), policy).double()
    exact = 1e-4 * (v.double() - (noise.double() - clean.double())) / 30
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-13)


def test_weights_are_a_sum_over_cells():
    """The gradient of a weighted loss is the weighted sum of those of single cells: localised credit is exact."""
    v, reference, clean, noise = a_batch()
    gain = f64(0.5, -0.2, 0.1, 1.0)
    weights = torch.rand(4, 1, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    policy = v.clone().requires_grad_()

    def of(cells, **anchor):
        return gradient(rvm_loss(policy, clean, noise, gain, weights=cells, **anchor), policy)

    total = torch.zeros_like(v)
    for y in range(2):
        for x in range(5):
            cell = torch.zeros_like(weights)
            cell[..., y, x] = 1
            total += weights[..., y : y + 1, x : x + 1] * of(cell)
    assert torch.allclose(of(weights), total, rtol=1e-12, atol=1e-18)
    assert torch.equal(of(torch.ones_like(weights)), of(None))
    anchored = of(weights, reference=reference, beta=0.3) - of(weights)
    assert torch.allclose(anchored, 0.3 * (v - reference) / 30, rtol=1e-9), "the anchor belongs everywhere"


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_nft_is_rvm_with_an_anchor_to_the_policy_that_drew_the_videos(beta):
    """Its two mixtures, written out: A = r / w+ - (1 - r) / w-, and the anchor's weight
    (beta - 1) r / w+ + (beta + 1) (1 - r) / w-, all times 2 sigma^2 and nft's own scale.
    """
    v, old, clean, noise = a_batch()
    sigma, r, scale = f64(0.1, 0.5, 0.9, 1.0), f64(0.0, 0.3, 0.8, 1.0), 5.0
    x, column = noised(clean, noise, sigma), sigma[:, None, None, None]
    policy = v.clone().requires_grad_()
    expected = gradient(nft_loss(policy, old, x, clean, sigma, r, beta=beta, scale=scale), policy)

    def width(mixed):
        return (x - column * mixed - clean).abs().flatten(1).mean(1)

    near = r / width(beta * v + (1 - beta) * old)
    far = (1 - r) / width((1 + beta) * old - beta * v)
    factor = 2 * scale * sigma**2
    anchor = factor * ((beta - 1) * near + (beta + 1) * far)
    loss = rvm_loss(policy, clean, noise, factor * (near - far), reference=old, beta=anchor)
    assert torch.allclose(gradient(loss, policy), expected, rtol=1e-11, atol=1e-15)


def test_at_the_start_of_a_round_nft_is_rvm_without_an_anchor():
    """There v = v_old, both mixtures are v, and 2 r - 1 is the advantage."""
    v, _, clean, noise = a_batch()
    advantages, sigma = f64(-1.0, 0.4, 0.0, 0.9), f64(0.2, 0.5, 0.7, 1.0)
    x, policy = noised(clean, noise, sigma), v.clone().requires_grad_()
    expected = gradient(nft_loss(policy, v, x, clean, sigma, advantages / 2 + 0.5, scale=1.0), policy)
    width = (x - sigma[:, None, None, None] * v - clean).abs().flatten(1).mean(1)
    loss = rvm_loss(policy, clean, noise, 2 * sigma**2 * advantages / width)
    assert torch.allclose(gradient(loss, policy), expected, rtol=1e-11, atol=1e-15)


def test_the_levels_are_those_of_the_models_own_shift():
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(shifted(times, 1.0), times)
    levels = shifted(times, 5.0)
    assert levels[0] == 0 and levels[-1] == 1 and bool((levels.diff() > 0).all())
    assert levels[5].item() == pytest.approx(5 / 6)
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    euler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    assert (static_shift(unipc), static_shift(euler)) == (3.0, 2.0)
    euler.set_shift(4.0)
    assert static_shift(FlowSDEScheduler.from_scheduler(euler, kernel="ode")) == 4.0
    # What a sampler with that shift passes through, at the times it passes through.
    unipc.set_timesteps(5)
    ends = torch.tensor(unipc.sigmas[:-1].tolist(), dtype=torch.float64)
    back = ends / (3.0 - 2.0 * ends)
    assert torch.allclose(shifted(back, 3.0), ends) and bool((back.diff() < 0).all())
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        static_shift(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    with pytest.raises(ValueError, match="shift=0 must be above 0"):
        shifted(times, 0)
