"""FlowSDEScheduler as a diffusers scheduler: sigmas, noise, windows, records, files (pipelines: test_pipelines)."""

import json
from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from cac_align.flow_grpo.maths.kernels import log_prob, transition
from cac_align.flow_grpo.maths.schedule import read_schedule
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from cac_align.flow_grpo.sampler.trajectory import step_noise

SHAPE = (16, 2, 4, 4)


def unipc(**options):
    return UniPCMultistepScheduler(
        **{"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0, **options}
    )


def make(base=None, **options):
    return FlowSDEScheduler.from_scheduler(base or unipc(), **{"kernel": "flow", "noise_level": 0.7, **options})


def velocity(x, t):
    """A stand-in policy: smooth, elementwise, dependent on the timestep."""
    return torch.sin(3 * x) + float(t) / 1000


def sample(scheduler, start, steps=6, begin=True):
    """What a pipeline does. Returns all latents."""
    scheduler.set_timesteps(steps)
    if begin:
        scheduler.set_begin_index(0)
    latents = [start]
    for t in scheduler.timesteps:
        latents.append(scheduler.step(velocity(latents[-1], t), t, latents[-1], return_dict=False)[0])
    return latents


def start(batch=2):
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))


def euler_path(schedule, x, steps=None):
    for k in range(schedule.num_steps if steps is None else steps):
        x = x + (schedule.sigmas[k + 1] - schedule.sigmas[k]) * velocity(x, schedule.timestep(k))
    return x


# --- sigmas and timesteps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    [unipc(), unipc(flow_shift=5.0), FlowMatchEulerDiscreteScheduler(shift=7.0)],
    ids=["unipc", "shift5", "euler"],
)
def test_sigmas_are_those_of_the_base_and_timesteps_are_floats(base):
    scheduler = make(base)
    scheduler.set_timesteps(20)
    base.set_timesteps(20)
    assert torch.equal(scheduler.sigmas, base.sigmas)
    assert scheduler.timesteps.dtype == torch.float32
    assert torch.equal(scheduler.timesteps, base.sigmas[:-1] * 1000)
    assert scheduler.schedule.fingerprint == read_schedule(base).fingerprint
    assert scheduler.num_inference_steps == 20 and scheduler.num_stochastic_steps == 19


def test_integer_timesteps_are_those_of_unipc():
    scheduler, base = make(integer_timesteps=True), unipc()
    scheduler.set_timesteps(20)
    base.set_timesteps(20)
    assert scheduler.timesteps.dtype == torch.int64 and torch.equal(scheduler.timesteps, base.timesteps)
    # The step still goes by the exact sigma, not by int(t) / 1000.
    x = start()
    following = scheduler.step(torch.zeros_like(x), scheduler.timesteps[19], x).prev_sample
    assert torch.equal(following, x) and scheduler.step_index == 20


def test_a_changed_shift_is_kept():
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_shift(9.0)
    scheduler = make(euler)
    scheduler.set_timesteps(10)
    assert scheduler.schedule == read_schedule(euler, 10)


def test_arguments_of_other_pipelines_reach_the_base():
    base = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler = make(base)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.9)
    base.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=0.9)
    assert torch.equal(scheduler.sigmas, base.sigmas)
    assert scheduler.config.get("base_image_seq_len") == 256 and scheduler.config.use_dynamic_shifting


# --- the steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "eta"), [("ode", None), ("flow", 0.0), ("cps", 0.0)])
def test_without_noise_it_is_the_euler_scheduler_of_diffusers(kernel, eta):
    base = FlowMatchEulerDiscreteScheduler(shift=3.0)
    found = sample(make(base, kernel=kernel, noise_level=eta), start())
    for a, b in zip(found, sample(base, start()), strict=True):
        assert torch.equal(a, b)


def test_base_solver_outside_the_window_is_unipc_itself_and_starts_afresh_behind_it():
    scheduler = make(ode_solver="base")
    with scheduler.rollout([1, 2], windows=()) as trajectory:
        found = sample(scheduler, start(), steps=20)
    expected = unipc()
    expected.set_timesteps(20)
    x = start()
    for t, s in zip(expected.timesteps, expected.sigmas, strict=False):
        x = expected.step(velocity(x, s * 1000), t, x, return_dict=False)[0]
    assert torch.equal(found[-1], x) and not trajectory.records
    with scheduler.rollout([1, 2], windows=(3,)) as trajectory:
        found = sample(scheduler, start(), steps=20)
    behind = unipc()
    behind.set_timesteps(20)
    behind.set_begin_index(4)
    first = behind.step(velocity(found[4], behind.sigmas[4] * 1000), behind.timesteps[4], found[4], return_dict=False)[
        0
    ]
    assert torch.equal(found[5], first) and [r.step for r in trajectory] == [3]


def test_noise_is_kept_to_the_window_and_records_hold_what_happened_there():
    scheduler = make()
    with scheduler.rollout([11, 12], windows=(2, 3)) as trajectory:
        latents = sample(scheduler, start())
    schedule = scheduler.schedule
    assert torch.allclose(latents[2], euler_path(schedule, start(), 2), atol=1e-6)
    assert [r.step for r in trajectory] == [2, 3] and trajectory.fingerprint == schedule.fingerprint
    for record in trajectory:
        k = record.step
        assert torch.equal(record.latents, latents[k]) and torch.equal(record.next_latents, latents[k + 1])
        assert (record.sigma, record.sigma_next) == schedule.sigmas[k : k + 2]
        assert torch.equal(record.timestep, schedule.timestep(k)) and record.rows == (0, 1)
        assert record.step_size == schedule.sigmas[k] - schedule.sigmas[k + 1]
        expected = transition(
            "flow", latents[k], velocity(latents[k], record.timestep), *schedule.sigmas[k : k + 2], noise_level=0.7
        )
        assert torch.equal(record.mean, expected.mean) and record.std == expected.std.item()
        assert torch.equal(record.log_prob, log_prob(record.next_latents, expected.mean, expected.std))
        noise = (record.next_latents - record.mean) / record.std
        assert noise.mean().abs() < 0.1 and noise.std() == pytest.approx(1, abs=0.1)
    # Behind the window the ODE again.
    x = latents[4]
    for k in (4, 5):
        x = x + (schedule.sigmas[k + 1] - schedule.sigmas[k]) * velocity(x, schedule.timestep(k))
    assert torch.allclose(latents[6], x, atol=1e-6)


def test_replay_gives_the_same_log_prob_to_the_bit():
    for kernel, eta in (("wan_linear", None), ("flow", 0.7), ("dance", 0.3), ("cps", 0.8), ("precise", 1.5)):
        scheduler = make(kernel=kernel, noise_level=eta)
        with scheduler.rollout([1, 2]) as trajectory:
            sample(scheduler, start())
        assert [r.step for r in trajectory] == [0, 1, 2, 3, 4]
        for record in trajectory:
            step = scheduler.transition_at(record.step, record.latents, velocity(record.latents, record.timestep))
            assert torch.equal(log_prob(record.next_latents, step.mean, step.std), record.log_prob)


def test_a_sample_depends_on_its_seed_and_not_on_its_batch_mates():
    scheduler = make()
    with scheduler.rollout([5, 6, 7]):
        together = sample(scheduler, start(3))[-1]
    for row, seed in enumerate((5, 6, 7)):
        with scheduler.rollout([seed]):
            alone = sample(scheduler, start(3)[row : row + 1])[-1]
        assert torch.equal(alone[0], together[row])
    with scheduler.rollout([5, 6, 8]):
        other = sample(scheduler, start(3))[-1]
    assert torch.equal(other[:2], together[:2]) and not torch.equal(other[2], together[2])


def test_noise_of_a_step_does_not_depend_on_the_window():
    scheduler = make()
    drawn = []
    for window in ((1, 2), (2,)):
        with scheduler.rollout([3, 4], windows=window) as trajectory:
            sample(scheduler, start())
        record = trajectory.records[-1]
        drawn.append((record.next_latents - record.mean) / record.std)
    assert torch.allclose(*drawn, atol=1e-5)
    assert not torch.equal(step_noise([3], 1, drawn[0][:1]), step_noise([3], 2, drawn[0][:1]))


def test_groups_of_one_batch_may_have_different_windows():
    scheduler = make()
    with scheduler.rollout([1, 2, 3], windows=[(1,), (1,), (3,)]) as trajectory:
        latents = sample(scheduler, start(3))
    assert [(r.step, r.rows) for r in trajectory] == [(1, (0, 1)), (3, (2,))]
    assert [len(trajectory.of(k)) for k in range(3)] == [1, 1, 1]
    with scheduler.rollout([3], windows=(3,)) as alone:
        expected = sample(scheduler, start(3)[2:])
    assert torch.equal(latents[-1][2:], expected[-1])
    record, single = trajectory.of(2)[0], alone.records[0]
    assert torch.equal(record.next_latents, single.next_latents) and torch.equal(record.log_prob, single.log_prob)
    assert torch.equal(trajectory.of(1)[0].latents[0], latents[1][1])


def test_neighbouring_records_share_their_latents():
    scheduler = make()
    with scheduler.rollout([1, 2]) as trajectory:
        sample(scheduler, start())
    size = start().numel() * 4
    assert trajectory.num_bytes == size * (6 + 5) + 5 * 2 * 4  # 6 latents, 5 means, 5 x 2 log-probs
    moved = trajectory.to("cpu")
    assert moved.seeds == (1, 2) and torch.equal(moved.records[0].latents, trajectory.records[0].latents)
    lean = make(record_means=False)
    with lean.rollout([1, 2]) as trajectory:
        sample(lean, start())
    assert trajectory.num_bytes == size * 6 + 40 and trajectory.of(1)[0].mean is None


def test_outside_a_rollout_it_samples_with_its_own_seeds_and_records_nothing():
    first, second = make(), make()
    runs = [sample(s, start())[-1] for s in (first, first, second)]
    assert torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], runs[1])
    assert not torch.equal(sample(make(seed=1), start())[-1], runs[0])
    assert not torch.equal(runs[0][0] - start()[0], runs[0][1] - start()[1])


def test_a_generator_decides_the_noise_outside_a_rollout_and_seeds_within():
    def first(generator, rollout=False):
        scheduler = make()
        scheduler.set_timesteps(6)
        x, t = start(), scheduler.timesteps[0]
        with scheduler.rollout([1, 2]) if rollout else nullcontext():
            return scheduler.step(velocity(x, t), t, x, generator=generator).prev_sample

    each = [torch.Generator().manual_seed(k) for k in (5, 6)]
    noises = [torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(k)) for k in (5, 6)]
    drawn, again = first(each), first([torch.Generator().manual_seed(k) for k in (5, 6)])
    assert torch.equal(drawn, again) and not torch.equal(drawn, first(None))
    scheduler = make()
    scheduler.set_timesteps(6)
    mean, std = scheduler.transition_at(0, start(), velocity(start(), scheduler.timesteps[0]))
    assert torch.equal(drawn, mean + std * torch.cat(noises))
    assert torch.equal(first(each, rollout=True), first(None, rollout=True))


@pytest.mark.parametrize("begin", [True, False])
def test_the_first_step_is_found_with_and_without_begin_index(begin):
    scheduler = make()
    with scheduler.rollout([1, 2]):
        latents = sample(scheduler, start(), begin=begin)
    assert scheduler.step_index == 6 and len(latents) == 7
    with pytest.raises(ValueError, match="all 6 steps are done"):
        scheduler.step(latents[-1], scheduler.timesteps[0], latents[-1])
    scheduler.set_timesteps(6)
    with pytest.raises(ValueError, match="timestep 999 is not in the schedule"):
        scheduler.step(latents[-1], 999, latents[-1])


def test_last_step_noise():
    for noisy in (False, True):
        scheduler = make(kernel="wan_linear", noise_level=None, last_step_noise=noisy)
        with scheduler.rollout([1, 2]) as trajectory:
            latents = sample(scheduler, start())
        assert (trajectory.records[-1].step == 5) is noisy
        schedule = scheduler.schedule
        clean = latents[5] - schedule.sigmas[5] * velocity(latents[5], schedule.timestep(5))
        assert torch.allclose(latents[6], clean, atol=1e-6) is not noisy


def test_latents_keep_their_dtype_and_the_record_its_precision():
    scheduler = make()
    with scheduler.rollout([1, 2], windows=(0,)) as trajectory:
        latents = sample(scheduler, start().bfloat16())
    assert all(x.dtype == torch.bfloat16 for x in latents)
    assert trajectory.records[0].next_latents.dtype == torch.float32


# --- files and configs ------------------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_shift(4.0)
    for base in (unipc(flow_shift=5.0), euler):
        scheduler = make(base, kernel="cps", noise_level=0.6, integer_timesteps=True, seed=3)
        scheduler.save_pretrained(tmp_path)
        written = json.loads((tmp_path / "scheduler_config.json").read_text())
        assert written["_class_name"] == "FlowSDEScheduler" and written["base_class"] == type(base).__name__
        for again in (FlowSDEScheduler.from_pretrained(tmp_path), FlowSDEScheduler.from_config(scheduler.config)):
            assert torch.equal(sample(again, start())[-1], sample(make(base, **settings(scheduler)), start())[-1])
            assert settings(again) == settings(scheduler)


def settings(scheduler):
    names = ("kernel", "noise_level", "integer_timesteps", "last_step_noise", "ode_solver", "record_means", "seed")
    return {name: scheduler.config[name] for name in names}


def test_from_the_config_of_a_loaded_scheduler(tmp_path):
    unipc(flow_shift=5.0).save_pretrained(tmp_path)
    loaded = UniPCMultistepScheduler.from_pretrained(tmp_path)
    scheduler = FlowSDEScheduler.from_config(loaded.config, kernel="dance", noise_level=0.3)
    scheduler.set_timesteps(20)
    assert scheduler.schedule == read_schedule(loaded, 20) and scheduler.config.kernel == "dance"
    with pytest.raises(ValueError, match=r"use FlowSDEScheduler.from_scheduler\(pipe.scheduler"):
        FlowSDEScheduler.from_config(unipc().config)


def test_one_of_its_own_kind_gives_its_base_away():
    scheduler = FlowSDEScheduler.from_scheduler(make(), kernel="ode", noise_level=None)
    assert scheduler.config.base_class == "UniPCMultistepScheduler" and scheduler.config.flow_shift == 3.0


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "sde"}, "kernel='sde' is unknown"),
        ({"noise_level": None}, "needs a noise_level"),
        ({"kernel": "wan_linear"}, "noise_level=0.7 has no effect on kernel 'wan_linear'"),
        ({"ode_solver": "heun"}, "ode_solver='heun' must be 'euler' or 'base'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("options", [{}, {"ode_solver": "base"}, {"integer_timesteps": True}], ids=str)
@pytest.mark.parametrize("begin", [True, False])
def test_a_call_may_take_a_part_of_the_schedule(options, begin):
    """The two parts of a call on either side of a step are the whole call: latents, records and step numbers."""
    scheduler = make(**options)
    with scheduler.rollout([1, 2], windows=(2, 3)) as whole:
        expected = sample(scheduler, start(), begin=begin)
    with scheduler.rollout([1, 2], windows=(), part=(0, 2)) as first:
        begun = sample(scheduler, start(), begin=begin)
        assert len(scheduler.sigmas) == 3 and len(scheduler.timesteps) == 2
    with scheduler.rollout([1, 2], windows=(2, 3), part=(2, None)) as second:
        ended = sample(scheduler, begun[-1], begin=begin)
    assert len(begun) + len(ended) == len(expected) + 1 and not first.records
    assert all(torch.equal(a, b) for a, b in zip([*begun, *ended[1:]], expected, strict=True))
    for one, other in zip(second, whole, strict=True):
        assert (one.step, one.sigma, one.timestep, one.std) == (other.step, other.sigma, other.timestep, other.std)
        assert torch.equal(one.latents, other.latents) and torch.equal(one.log_prob, other.log_prob)
    with scheduler.rollout([1, 2], windows=(2, 3)):
        assert torch.equal(sample(scheduler, start(), begin=begin)[-1], expected[-1]), "the next call is a whole one"


def test_a_part_must_lie_in_the_schedule_and_hold_the_window():
    scheduler = make()
    for part in ((0, 7), (6, None), (3, 3), (-1, None)):
        with (
            scheduler.rollout([1, 2], windows=(), part=part),
            pytest.raises(ValueError, match="must lie within the 6 steps"),
        ):
            sample(scheduler, start())
    for part, step in (((0, 2), 2), ((2, None), 1)):
        with (
            scheduler.rollout([1, 2], windows=(step,), part=part),
            pytest.raises(ValueError, match=f"window step {step} lies outside part="),
        ):
            sample(scheduler, start())


def test_bad_rollouts():
    scheduler = make()
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(start(), 1.0, start())
    with pytest.raises(ValueError, match="seeds is empty"), scheduler.rollout([]):
        pass
    with pytest.raises(ValueError, match="2 windows for 3 seeds"), scheduler.rollout([1, 2, 3], [(1,), (2,)]):
        pass
    for step in (5, 6, -1):
        message = f"window step {step} is not among the 5 stochastic steps"
        with scheduler.rollout([1, 2], windows=(0, step)), pytest.raises(ValueError, match=message):
            sample(scheduler, start())
    with pytest.raises(ValueError, match="a rollout is open already"), scheduler.rollout([1]), scheduler.rollout([2]):
        pass
    with scheduler.rollout([1]), pytest.raises(ValueError, match="samples 2 videos at once, the rollout has 1 seeds"):
        sample(scheduler, start())
    with scheduler.rollout([1, 2]):
        sample(scheduler, start())
        with pytest.raises(ValueError, match="one rollout holds one call"):
            sample(scheduler, start())
    mixed = make(ode_solver="base")
    with mixed.rollout([1, 2], [(1,), (2,)]), pytest.raises(ValueError, match="one window for the whole batch"):
        sample(mixed, start())
    assert len(sample(scheduler, start())) == 7, "an error must not leave a rollout open"
