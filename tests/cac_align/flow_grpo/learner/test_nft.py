"""DiffusionNFT: the loss in plain floats, and the three identities of its derivation."""

import pytest
import torch

from cac_align.flow_grpo.learner.nft import forward_sigmas, nft_loss, noised, old_policy_decay, optimality
from cac_align.flow_grpo.maths.schedule import read_schedule


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def a_batch(batch=4, seed=0):
    return torch.randn(4, batch, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_loss(v, old, clean, noise, sigma, r, beta):
    """One sample, element by element."""
    total = 0.0
    for sign, share in ((1, r), (-1, 1 - r)):
        errors = []
        for k in range(len(v)):
            mixed = old[k] + sign * beta * (v[k] - old[k])
            x = (1 - sigma) * clean[k] + sigma * noise[k]
            errors.append(x - sigma * mixed - clean[k])
        width = max(sum(abs(e) for e in errors) / len(errors), 1e-5)
        total += share * sum(e * e for e in errors) / len(errors) / width
    return total * 5 / beta


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_against_plain_floats(beta):
    v, old, clean, noise = a_batch()
    sigma, r = f64(0.1, 0.5, 0.9, 1.0), f64(0.0, 0.3, 0.8, 1.0)
    found = nft_loss(v, old, noised(clean, noise, sigma), clean, sigma, r, beta=beta)
    for k in range(4):
        rows = [t[k].flatten().tolist() for t in (v, old, clean, noise)]
        assert found[k].item() == pytest.approx(plain_loss(*rows, sigma[k].item(), r[k].item(), beta), rel=1e-12)


def test_optimality():
    assert optimality(f64(-9, -5, -2.5, 0, 2.5, 5, 9)).tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert optimality(f64(1), clip=1).item() == 1


def gradient(r, beta=1.0, seed=0):
    """At theta = old, which is where an iteration begins."""
    v, _, clean, noise = a_batch(seed=seed)
    policy = v.clone().requires_grad_()
    nft_loss(policy, v, noised(clean, noise, 0.7), clean, 0.7, r, beta=beta).sum().backward()
    return policy.grad


def test_gradient_at_the_old_policy_is_in_proportion_to_2r_minus_1():
    """beta = 1: sum (2 r - 1) grad |x0_hat - x0|^2 / w, so good samples attract and bad ones repel alike."""
    attracted = gradient(torch.ones(4, dtype=torch.float64))
    r = f64(0.0, 0.25, 0.5, 0.9)
    assert torch.allclose(gradient(r), (2 * r - 1)[:, None, None] * attracted, atol=1e-6)
    v, _, clean, noise = a_batch()
    towards = (noised(clean, noise, 0.7) - 0.7 * v - clean) * -0.7 * 2
    cosine = torch.nn.functional.cosine_similarity(attracted.flatten(1), towards.flatten(1))
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-9)


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_an_average_sample_has_no_policy_gradient(beta):
    assert gradient(torch.full((4,), 0.5, dtype=torch.float64), beta).abs().max() < 1e-12


def test_the_two_mixtures_lie_on_either_side_of_the_old_policy():
    """r -> 1 - r mirrors the velocity at the old one: v+ - v_old = -(v- - v_old)."""
    v, old, clean, noise = a_batch()
    x, r = noised(clean, noise, 0.4), f64(0.1, 0.4, 0.6, 1.0)
    mirrored = 2 * old - v
    assert torch.allclose(nft_loss(v, old, x, clean, 0.4, r), nft_loss(mirrored, old, x, clean, 0.4, 1 - r), rtol=1e-10)


def test_the_width_is_no_part_of_the_gradient_and_never_below_its_floor():
    clean = torch.zeros(1, 4, dtype=torch.float64)
    v = clean.clone().requires_grad_()
    loss = nft_loss(v, clean, clean, clean, 0.5, f64(1.0))
    loss.sum().backward()
    assert loss.item() == 0 and v.grad.isfinite().all()
    w, old, target, noise = a_batch()
    policy = w.clone().requires_grad_()
    nft_loss(policy, old, noised(target, noise, 0.5), target, 0.5, f64(1, 1, 1, 1)).sum().backward()
    error = noised(target, noise, 0.5) - 0.5 * w - target
    expected = 5 * 2 * error * -0.5 / 15 / error.abs().flatten(1).mean(1)[:, None, None]
    assert torch.allclose(policy.grad, expected, rtol=1e-10)


def test_uniform_weights_are_plain_and_the_old_policy_gets_no_gradient():
    v, old, clean, noise = a_batch()
    x, r = noised(clean, noise, 0.4), f64(0.1, 0.4, 0.6, 1.0)
    ones = torch.ones(4, 1, 5, dtype=torch.float64)
    assert torch.equal(nft_loss(v, old, x, clean, 0.4, r, weights=ones), nft_loss(v, old, x, clean, 0.4, r))
    fixed, policy = old.clone().requires_grad_(), v.clone().requires_grad_()
    nft_loss(policy, fixed, x, clean, 0.4, r).sum().backward()
    assert fixed.grad is None and policy.grad.abs().sum() > 0


def test_decay_of_the_old_policy():
    assert [old_policy_decay(k) for k in (0, 100, 500, 900)] == [0, 0.1, 0.5, 0.5]
    assert [old_policy_decay(k, 2) for k in (0, 74, 75, 175, 1000)] == pytest.approx([0, 0, 0, 0.75, 0.999])
    assert old_policy_decay(900, 0) == 0
    with pytest.raises(ValueError, match="decay kind 3 must be 0, 1 or 2"):
        old_policy_decay(1, 3)


def test_noise_levels_are_those_of_the_sampling_schedule():
    """shift 3 and 20 steps, as Wan is drawn: the mean level is 0.70, where uniform levels have 0.5."""
    from diffusers import UniPCMultistepScheduler

    wan = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    levels = read_schedule(wan, 20).sigmas[:-1]
    seeds = list(range(200))
    drawn = torch.stack([forward_sigmas(seeds, number, levels) for number in range(20)], 1)
    assert all(sorted(row.tolist()) == sorted(torch.tensor(levels).tolist()) for row in drawn), "each level once"
    assert len({tuple(row.tolist()) for row in drawn}) == 200, "every video has an order of its own"
    assert float(drawn.mean()) == pytest.approx(0.70, abs=0.005)
    assert torch.equal(forward_sigmas([7, 9], 21, levels), forward_sigmas([7, 9], 21, levels))
    uniform = torch.cat([forward_sigmas(seeds, number) for number in range(20)])
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.02) and float(uniform.min()) > 0


def test_bad_input():
    v = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"pass optimality\(advantages\), not advantages"):
        nft_loss(v, v, v, v, 0.5, torch.tensor([2.0]))
    with pytest.raises(ValueError, match="beta=0 must be above 0"):
        nft_loss(v, v, v, v, 0.5, torch.tensor([0.5]), beta=0)
    with pytest.raises(ValueError, match="clip=0 must be above 0"):
        optimality(v, clip=0)
