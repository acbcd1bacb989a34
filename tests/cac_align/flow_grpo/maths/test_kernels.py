"""The one closed form against golden numbers, against each published formula, and against what the maths says of it."""

import math

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from cac_align.flow_grpo.maths.kernels import (
    KERNELS,
    batch_mean,
    coefficients,
    guard_log_ratio,
    log_prob,
    log_ratio,
    transition,
)
from tests.cac_align.flow_grpo import reference

SCHEDULES = {
    (name, shift): make(20, shift)
    for name, make in (("old", reference.old_sigmas), ("new", reference.new_sigmas), ("euler", reference.euler_sigmas))
    for shift in (3, 5)
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("kernel", "eta", "mean", "std", "following", "density"),
    [
        ("wan_linear", None, 0.3039494800, 0.1972211956, 0.4025600778, 0.5794908265),
        ("flow", 0.7, 0.2757000000, 0.4695742753, 0.5104871376, -0.2880097412),
        ("dance", 0.3, 0.3093000000, 0.0670820393, 0.3428410197, 1.6579004079),
        ("cps", 0.8, 0.1455460447, 0.8083980389, 0.5497450641, -0.8312378138),
        ("precise", 1.5, 0.2134320248, 0.6836369423, 0.5552504960, -0.6636102449),
    ],
)
def test_golden_scalars(kernel, eta, mean, std, following, density):
    step = transition(kernel, f64(0.3), f64(-0.2), 0.9, 0.85, noise_level=eta, sigma_max=0.98)
    drawn = step.mean + step.std * 0.5
    assert step.mean.item() == pytest.approx(mean, abs=1e-10)
    assert step.std.item() == pytest.approx(std, abs=1e-10)
    assert drawn.item() == pytest.approx(following, abs=1e-10)
    assert log_prob(drawn, step.mean, step.std).item() == pytest.approx(density, abs=1e-9)


def test_the_log_prob_without_constants_is_the_squared_error():
    """As Flow-CPS has it; golden numbers of the same step, and the relation to the Gaussian in float64."""
    step = transition("cps", f64(0.3), f64(-0.2), 0.9, 0.85, noise_level=0.8, sigma_max=0.98)
    drawn = step.mean + step.std * 0.5
    found = log_prob(drawn, step.mean, step.std, constants=False)
    assert found.item() == pytest.approx(-0.1633768473044874, abs=1e-15)
    moved = step.mean + 1e-3
    change = log_ratio(drawn, moved, step.mean, step.std, constants=False)
    assert change.item() == pytest.approx(0.0008073980388508805, abs=1e-15)  # 0.4041990194^2 - 0.4031990194^2
    draw = torch.Generator().manual_seed(0)
    following, mean, old = torch.randn(3, 2, 4, 5, generator=draw, dtype=torch.float64)
    cells = torch.rand(2, 1, 5, generator=draw, dtype=torch.float64) * 2
    for weights in (None, cells):
        one = log_prob(following, mean, 0.8, weights, constants=False)
        other = log_prob(following, old, 0.8, weights, constants=False)
        ratio = log_ratio(following, mean, old, 0.8, weights, constants=False)
        assert torch.allclose(ratio, one - other, rtol=1e-12, atol=1e-15)
        assert torch.allclose(ratio, 2 * 0.8**2 * log_ratio(following, mean, old, 0.8, weights), rtol=1e-12)
    assert not log_ratio(following, mean, mean, 0.8, constants=False).any()


@pytest.mark.parametrize("kernel", reference.KERNELS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_step_of_full_schedules_against_the_published_formula(kernel, schedule):
    """fp32 as in sampling, over all steps but those whose noise is 0; the last one with its noise, as published."""
    sigmas, eta = SCHEDULES[schedule], reference.USUAL[kernel]
    draw = np.random.default_rng(0)
    for i in range(20):
        x, v, noise = draw.standard_normal((3, 2, 4, 64))
        mean, std = reference.KERNELS[kernel](x, v, sigmas, i, eta)
        found = transition(
            kernel,
            torch.from_numpy(x).float(),
            torch.from_numpy(v).float(),
            sigmas[i],
            sigmas[i + 1],
            noise_level=eta,
            sigma_max=sigmas[1],
            last_step_noise=True,
        )
        assert found.mean.dtype == torch.float32
        # Means reach 10 in size where flow's pull is strongest; fp32 is relative.
        assert np.abs(found.mean.numpy() - mean).max() <= 1e-6 * max(1, np.abs(mean).max())
        assert found.std.item() == pytest.approx(std, abs=1e-6, rel=1e-7)
        if std > 0:
            drawn = mean + std * noise
            density = log_prob(torch.from_numpy(drawn).float(), found.mean, found.std)
            expected = [reference.gaussian(d, m, std) for d, m in zip(drawn, mean, strict=True)]
            # Below a std of 0.01 (the last step of a twice-shifted schedule) the rounding of the latents shows.
            assert density.tolist() == pytest.approx(expected, abs=1e-6 if std > 0.01 else 5e-6)


@pytest.mark.parametrize("kernel", reference.KERNELS)
def test_marginals(kernel):
    """Given the true velocity, the mean is (1 - sigma') x0 + a eps; what variance is too much is known exactly, and cps
    and precise have none."""
    sigmas, eta = SCHEDULES["new", 3], reference.USUAL[kernel]
    clean, noise = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for i in range(19):
        now, then = sigmas[i], sigmas[i + 1]
        x = (1 - now) * clean + now * noise
        step = transition(kernel, x, noise - clean, now, then, noise_level=eta, sigma_max=sigmas[1])
        h, std = now - then, step.std.item()
        excess, kept = 0.0, math.sqrt(max(then**2 - std**2, 0))
        if kernel not in ("cps", "precise"):
            s = std / math.sqrt(h)
            excess, kept = s**2 * h**2 / now * (1 + s**2 / (4 * now)), then - s**2 * h / (2 * now)
        assert torch.allclose(step.mean, (1 - then) * clean + kept * noise, atol=1e-10, rtol=0)
        assert kept**2 + std**2 - then**2 == pytest.approx(excess, abs=1e-10)


@pytest.mark.parametrize(("kernel", "eta"), [("ode", None), ("flow", 0), ("dance", 0), ("cps", 0), ("precise", 0)])
def test_without_noise_it_is_the_euler_step_of_diffusers_to_the_bit(kernel, eta):
    euler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    euler.set_timesteps(20)
    sigmas = euler.sigmas.tolist()
    x, v = torch.randn(2, 2, 4, 8, generator=torch.Generator().manual_seed(2))
    for i, t in enumerate(euler.timesteps):
        found = transition(kernel, x, v, sigmas[i], sigmas[i + 1], noise_level=eta, sigma_max=sigmas[1])
        assert torch.equal(found.mean, euler.step(v, t, x).prev_sample)
        assert found.std.item() == 0


@pytest.mark.parametrize(
    ("kernel", "std"), [("wan_linear", 0.129), ("flow", 0.700), ("dance", 0.039), ("cps", 0.934), ("precise", 0.982)]
)
def test_first_step_on_unipc_sigmas(kernel, std):
    """sigma_0 = 0.999999: a clamp that asks for sigma == 1 would give flow a std of 92."""
    sigmas = SCHEDULES["new", 3]
    options = {"noise_level": reference.USUAL[kernel], "sigma_max": sigmas[1]}
    assert coefficients(kernel, sigmas[0], sigmas[1], **options).std.item() == pytest.approx(std, abs=1e-3)
    if kernel == "flow":
        unclamped = coefficients(kernel, sigmas[0], sigmas[1], noise_level=0.7)
        assert unclamped.std.item() == pytest.approx(92, abs=1)
        # Every later sigma is below sigmas[1], so passing it always changes nothing but step 0.
        for i in range(1, 19):
            free = coefficients("flow", sigmas[i], sigmas[i + 1], noise_level=0.7)
            assert coefficients("flow", sigmas[i], sigmas[i + 1], **options).std == free.std


def test_noise_of_the_last_step_is_an_option():
    for name, golden, residual in (("old", 0.0494, 0.0502), ("new", 0.0508, 0.0516)):
        sigmas = SCHEDULES[name, 3]
        step = coefficients("wan_linear", sigmas[-2], 0.0, sigma_max=sigmas[1], last_step_noise=True)
        assert step.std.item() == pytest.approx(golden, abs=6e-5)
        pull = 1 - step.sample.item()
        assert math.sqrt(step.std.item() ** 2 + pull**2) == pytest.approx(residual, abs=6e-5)
    for kernel, eta in reference.USUAL.items():
        step = coefficients(kernel, 0.1, 0.0, noise_level=eta, sigma_max=0.98)
        assert (step.std.item(), step.sample.item(), step.velocity.item()) == (0, 1, -0.1)


def test_one_sigma_per_sample():
    x, v = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    now, then = f64(0.9, 0.5, 0.2), f64(0.85, 0.4, 0.0)
    for kernel, eta in reference.USUAL.items():
        options = {"noise_level": eta, "sigma_max": 0.98}
        together = transition(kernel, x, v, now, then, **options)
        for k in range(3):
            alone = transition(kernel, x[k : k + 1], v[k : k + 1], now[k].item(), then[k].item(), **options)
            assert torch.equal(together.mean[k], alone.mean[0])
            assert torch.equal(together.std[k].flatten()[0], alone.std)
    with pytest.raises(ValueError, match="2 sigmas for a batch of 3"):
        transition("ode", x, v, now[:2], then[:2])


def test_half_precision_input_is_widened_before_any_arithmetic():
    x, v = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(4)).bfloat16()
    half = transition("cps", x, v, 0.9, 0.85, noise_level=0.5)
    assert half.mean.dtype == torch.float32
    assert torch.equal(half.mean, transition("cps", x.float(), v.float(), 0.9, 0.85, noise_level=0.5).mean)
    assert log_prob(x, half.mean, half.std).dtype == torch.float32


def test_gradient_goes_through_the_velocity_and_not_through_the_drawn_latents():
    x, v = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    v.requires_grad_()
    step = transition("flow", x, v, 0.9, 0.85, noise_level=0.7)
    drawn = step.mean + step.std * torch.ones_like(x)
    log_prob(drawn, step.mean, step.std).sum().backward()
    # d logp / d mean = noise / std per element, and mean is linear in v; a graph through drawn would give 0.
    slope = coefficients("flow", 0.9, 0.85, noise_level=0.7)
    assert torch.allclose(v.grad, torch.full_like(x, (slope.velocity / slope.std).item() / 8), atol=1e-12)


# --- log-probs --------------------------------------------------------------------------------------------------------


def step_pair(scale=1e-3, dtype=torch.float32):
    old, noise, shift = torch.randn(3, 2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(6), dtype=dtype)
    return old + 0.3 * noise, old + scale * shift, old, 0.3


def test_weights_of_one_change_nothing_and_others_do():
    drawn, mean, old, std = step_pair()
    ones = torch.ones(2, 1, 3, 8, 8)
    for function, arguments in (
        (log_prob, (mean, std)),
        (log_ratio, (mean, old, std)),
        (guard_log_ratio, (mean, old, std)),
    ):
        assert torch.equal(function(drawn, *arguments, ones), function(drawn, *arguments))
    front = torch.zeros(2, 1, 3, 8, 8)
    front[:, :, 0] = 3.0
    assert torch.allclose(log_prob(drawn, mean, std, front), log_prob(drawn[:, :, 0], mean[:, :, 0], std), atol=1e-6)
    with pytest.raises(ValueError, match=r"broadcastable to the latents \(2, 4, 3, 8, 8\)"):
        batch_mean(drawn, torch.ones(3, 2, 4, 3, 8, 8))


def test_log_ratio_is_the_difference_of_log_probs_but_keeps_its_digits():
    drawn, mean, old, std = step_pair(dtype=torch.float64)
    exact = log_prob(drawn, mean, std) - log_prob(drawn, old, std)
    assert torch.allclose(log_ratio(drawn, mean, old, std), exact, atol=1e-13)
    narrow = [t.float() for t in (drawn, mean, old)]
    direct = (log_ratio(*narrow, std).double() - exact).abs().max()
    difference = (log_prob(*narrow[:2], std) - log_prob(narrow[0], narrow[2], std)).double()
    assert direct < 2e-8 and direct < (difference - exact).abs().max()
    assert log_ratio(drawn, old, old, std).tolist() == [0, 0]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": "sde"}, "kernel='sde' is unknown; choose one of 'wan_linear'"),
        ({"kernel": "flow", "noise_level": None}, "needs a noise_level"),
        ({"kernel": "cps", "noise_level": 1.2}, r"noise_level=1.2 .* lie in \[0, 1\]"),
        ({"kernel": "dance", "noise_level": -0.1}, "at least 0"),
        ({"kernel": "flow", "noise_level": math.nan}, "finite"),
        ({"sigma": 0.8}, "0 <= sigma_next < sigma <= 1"),
        ({"sigma": 900.0}, "not timesteps"),
        ({"sigma": math.nan}, "sigma=nan"),
        ({"kernel": "wan_linear", "sigma_max": None}, r"pass scheduler.sigmas\[1\]"),
        ({"kernel": "flow", "sigma": 1.0, "sigma_max": None}, r"pass sigma_max=scheduler.sigmas\[1\]"),
        ({"sigma_max": 98.0}, r"sigma_max=98.0 must lie in \(0, 1\]"),
    ],
)
def test_bad_arguments(arguments, message):
    defaults = {"kernel": "flow", "sigma": 0.9, "noise_level": 0.7, "sigma_max": 0.98}
    options = {**defaults, **arguments}
    with pytest.raises(ValueError, match=message):
        transition(options.pop("kernel"), f64(0.3), f64(0.2), options.pop("sigma"), 0.85, **options)


def test_shapes_must_agree_and_a_deterministic_step_has_no_density():
    with pytest.raises(ValueError, match="same shape"):
        transition("ode", torch.zeros(2, 3), torch.zeros(2, 1), 0.9, 0.8)
    for kernel in KERNELS:
        step = transition(kernel, f64(0.3), f64(0.1), 0.1, 0.0, noise_level=0.5, sigma_max=0.9)
        with pytest.raises(ValueError, match="an ODE step has no log-prob"):
            log_prob(f64(0.3), step.mean, step.std)
