"""Schedules as diffusers has them now, and what is computed from them: fingerprints, 1/c tables, step weights."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from cac_align.flow_grpo.maths.kernels import coefficients
from cac_align.flow_grpo.maths.schedule import (
    Schedule,
    build_base,
    describe_base,
    gradient_scales,
    num_stochastic_steps,
    read_schedule,
    shift_of,
    step_stds,
    step_weights,
)
from tests.cac_align.flow_grpo import reference

VERSION = f"diffusers {diffusers.__version__} has another schedule than 0.42.1"


def unipc(shift=3.0, **options):
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, **options)


@pytest.mark.parametrize("shift", [3.0, 5.0])
@pytest.mark.parametrize("steps", [20, 50])
def test_unipc_sigmas_have_the_known_closed_form(shift, steps):
    found = read_schedule(unipc(shift), steps)
    assert found.sigmas == pytest.approx(reference.new_sigmas(steps, shift), abs=1e-6), VERSION
    assert found.num_steps == steps


def test_golden_sigmas():
    sigmas = read_schedule(unipc(), 20).sigmas
    golden = (0.9999990, 0.9827765, 0.9643240, 0.9445062)
    assert sigmas[:4] == pytest.approx(golden, abs=1e-6), VERSION
    assert (sigmas[-2], sigmas[-1]) == (pytest.approx(0.1387149, abs=1e-6), 0), VERSION
    scheduler = unipc()
    scheduler.set_timesteps(20)
    assert [*scheduler.timesteps[:6].tolist(), scheduler.timesteps[-1].item()] == [999, 982, 964, 944, 923, 900, 138]
    euler = read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0), 20).sigmas
    assert euler[:4] == pytest.approx((1.0, 0.9818746, 0.9623857, 0.9413732), abs=1e-6), VERSION
    assert euler == pytest.approx(reference.euler_sigmas(20, 3.0), abs=1e-6), VERSION
    old = reference.old_sigmas(20, 3.0)
    assert old[:4] == pytest.approx((0.99966645, 0.9824195, 0.9639411, 0.9440944), abs=1e-7)
    assert old[-2] == pytest.approx(0.13623966, abs=1e-7)


def test_reading_leaves_the_scheduler_alone():
    scheduler = unipc()
    scheduler.set_timesteps(7)
    assert read_schedule(scheduler, 20).num_steps == 20
    assert len(scheduler.timesteps) == 7
    assert read_schedule(scheduler).num_steps == 7


def test_timesteps_are_1000_sigma_or_its_whole_part():
    schedule = read_schedule(unipc(), 20)
    scheduler = unipc()
    scheduler.set_timesteps(20)
    for k, sigma in enumerate(scheduler.sigmas[:-1]):
        assert torch.equal(schedule.timestep(k), sigma * 1000)
        assert schedule.timestep(k, integer=True).dtype == torch.int64
        assert schedule.timestep(k, integer=True) == scheduler.timesteps[k]


def test_integer_timesteps_would_bend_the_step_sizes():
    """sigma = int(t) / 1000, as some do, is off by up to 2.5 % in dt at shift 3: the reason for float timesteps."""
    for shift, worst in ((3.0, 0.025), (5.0, 0.054)):
        sigmas = np.array(read_schedule(unipc(shift), 20).sigmas)
        cut = np.array([*(np.floor(sigmas[:-1] * 1000) / 1000), 0.0])
        error = np.abs(np.diff(cut) / np.diff(sigmas) - 1)
        assert error.max() == pytest.approx(worst, abs=2e-3)


def test_the_shift_survives_whatever_way_it_was_set():
    for scheduler in (unipc(5.0), FlowMatchEulerDiscreteScheduler(shift=5.0)):
        assert shift_of(scheduler) == 5.0
        again = build_base(**describe_base(scheduler))
        assert read_schedule(again, 20) == read_schedule(scheduler, 20)
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain = read_schedule(euler, 20)
    euler.set_shift(7.0)  # not in the config, so from_config alone would lose it
    assert shift_of(euler) == 7.0
    assert read_schedule(build_base(**describe_base(euler)), 20) == read_schedule(euler, 20) != plain


def test_fingerprint_tells_schedules_apart():
    schedules = [
        read_schedule(unipc(), 20),
        read_schedule(unipc(), 21),
        read_schedule(unipc(5.0), 20),
        read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0), 20),
        Schedule(tuple(np.float32(reference.old_sigmas(20, 3.0)).tolist())),
        Schedule(read_schedule(unipc(), 20).sigmas, 500),
    ]
    assert len({s.fingerprint for s in schedules}) == len(schedules)
    assert read_schedule(unipc(), 20).fingerprint == schedules[0].fingerprint
    schedules[0].check_fingerprint(schedules[0].fingerprint)
    with pytest.raises(ValueError, match=f"made with {schedules[1].fingerprint}; .*{diffusers.__version__}"):
        schedules[0].check_fingerprint(schedules[1].fingerprint)


@pytest.mark.parametrize(
    ("sigmas", "golden"),
    [
        (reference.old_sigmas, (7.4770, 7.0414, 6.6112, 6.1867, 5.7682, 5.3559, 4.9502, 4.5513, 4.1596, 3.7754)),
        (reference.new_sigmas, (7.4887, 7.0526, 6.6221, 6.1973, 5.7785, 5.3659, 4.9599, 4.5607, 4.1687, 3.7842)),
    ],
    ids=["old", "new"],
)
def test_inverse_gradient_scales_of_wan(sigmas, golden):
    """The old table is the one that Flash-GRPO carries in its code."""
    found = 1 / gradient_scales(Schedule(tuple(sigmas(20, 3.0))), "wan_linear")
    assert found[:10].tolist() == pytest.approx(golden, abs=1e-4)


def test_gradient_scale_is_the_slope_of_the_mean_over_the_std():
    schedule = read_schedule(unipc(), 20)
    for kernel, eta in reference.USUAL.items():
        found = gradient_scales(schedule, kernel, noise_level=eta)
        for i in range(19):
            low, high = (reference.KERNELS[kernel](0.4, v, schedule.sigmas, i, eta)[0] for v in (-0.5, 0.5))
            std = reference.KERNELS[kernel](0.4, 0.0, schedule.sigmas, i, eta)[1]
            assert found[i].item() == pytest.approx(abs(high - low) / std, rel=1e-9)


def test_spread_of_the_gradient_scale_grows_with_the_shift():
    for shift, spread in ((1, 13), (3, 32), (5, 47), (12, 80)):
        scales = gradient_scales(Schedule(tuple(reference.old_sigmas(20, shift))), "flow", noise_level=0.7)[1:19]
        assert (scales.max() / scales.min()).item() == pytest.approx(spread, rel=0.06)


def test_step_weights():
    schedule = read_schedule(unipc(), 20)
    options = {"noise_level": 0.7}
    assert step_weights("none", schedule, "flow", **options).tolist() == [1.0] * 19 + [0.0]
    inverse = step_weights("inv_c", schedule, "flow", **options)
    scales = gradient_scales(schedule, "flow", **options)
    assert inverse[:19].mean().item() == pytest.approx(1) and inverse[19] == 0
    flat = (inverse * scales)[:19]
    assert (flat / flat[0]).tolist() == pytest.approx([1] * 19)
    early = step_weights("inv_c", schedule, "flow", **options, candidates=range(5))
    assert early[:5].mean().item() == pytest.approx(1)
    assert torch.allclose(early / early[0], inverse / inverse[0])
    tempflow = step_weights("tempflow", schedule, "flow", **options)
    assert torch.allclose(tempflow, 2.25 * step_stds(schedule, "flow", **options))
    # What TempFlow is for: gradients in proportion to h, up to the constant 1 + eta^2 / 2 of the flow kernel.
    steps = -torch.tensor(schedule.sigmas, dtype=torch.float64).diff()
    assert torch.allclose((tempflow * scales)[1:19], 2.25 * (1 + 0.7**2 / 2) * steps[1:19])


def test_number_of_stochastic_steps():
    schedule = read_schedule(unipc(), 20)
    assert num_stochastic_steps(schedule, "cps", noise_level=0.7) == 19
    assert num_stochastic_steps(schedule, "wan_linear") == 19
    assert num_stochastic_steps(schedule, "wan_linear", last_step_noise=True) == 20
    assert num_stochastic_steps(schedule, "cps", noise_level=0.7, last_step_noise=True) == 19
    assert num_stochastic_steps(schedule, "ode") == num_stochastic_steps(schedule, "flow", noise_level=0) == 0
    assert coefficients("ode", 0.5, 0.25).velocity == -0.25


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler, "DDIMScheduler is not a flow-matching scheduler; use FlowMatchEuler"),
        (UniPCMultistepScheduler, "is not a flow-matching scheduler"),
        (lambda: UniPCMultistepScheduler(use_flow_sigmas=True), "prediction_type='epsilon'"),
        (lambda: FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas=True"),
        (lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling=True"),
        (lambda: unipc(final_sigmas_type="sigma_min"), "final_sigmas_type='zero'"),
        (diffusers.FlowMatchHeunDiscreteScheduler, "order 1"),
    ],
)
def test_schedulers_that_do_not_fit(scheduler, message):
    with pytest.raises(ValueError, match=message):
        read_schedule(scheduler(), 20)


def test_bad_schedules_and_weightings():
    with pytest.raises(ValueError, match="1 steps are too few"):
        read_schedule(unipc(), 1)
    with pytest.raises(ValueError, match="must fall from at most 1 to exactly 0"):
        Schedule((900.0, 500.0, 0.0))
    schedule = read_schedule(unipc(), 20)
    with pytest.raises(ValueError, match="'snr' is unknown; choose one of none, inv_c, tempflow"):
        step_weights("snr", schedule, "wan_linear")
    with pytest.raises(ValueError, match="nothing to weigh"):
        step_weights("inv_c", schedule, "ode")
    with pytest.raises(ValueError, match="is not a diffusers scheduler"):
        build_base("WanPipeline", {})
