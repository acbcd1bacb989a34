"""Steps before a window are drawn once for a group: bit for bit the videos, records and updates of a run without."""

import pytest
import torch

from cac_align.flow_grpo.maths.sampling import SDEWindow, prefix_videos
from cac_align.flow_grpo.plan import describe_plan, make_run_plan
from cac_align.flow_grpo.sampler.rollout import split_calls
from tests.cac_align.flow_grpo.runs import PROMPTS, build, equal, settings, weights
from tests.cac_align.flow_grpo.test_image_to_video import build as build_with_images
from tests.cac_align.flow_grpo.test_trainer import gradients
from tests.campaigns import slow_but

#: Four videos of a group, two steps that they share, one that is trained, and the last one, which has no noise.
LATE = {"batch": "1x4", "same_initial_noise": True, "window_mode": "fixed", "window_start": 2, "window_size": 1}
LATE |= {"beta": 0.1}


pytestmark = pytest.mark.usefixtures("one_thread")


def both_ways(trainer, sharing="exact"):
    """The videos of a step with and without sharing under the same weights, each with the forwards it took."""
    found = []
    for how in (sharing, "off"):
        object.__setattr__(trainer.config, "shared_prefix", how)
        trainer.forwards.taken()
        found.append((trainer.collect(), trainer.forwards.taken()))
        planned = make_run_plan(trainer.config, trainer.transformer)
        assert found[-1][1] == planned.forwards_sampling <= planned.forwards_unshared
    return found


def distance(one, other):
    """The largest difference of two steps' videos (of 1) and records; every record must be of the same step."""
    far = 0.0
    for a, b in zip(one.rollouts, other.rollouts, strict=True):
        assert a.specs == b.specs and len(a.records) == len(b.records) > 0
        far = max(far, *(float(abs(x / 255 - y / 255).max()) for x, y in zip(a.frames, b.frames, strict=True)))
        for x, y in zip(a.records, b.records, strict=True):
            assert (x.step, x.rows, x.sigma, x.sigma_next, x.std) == (y.step, y.rows, y.sigma, y.sigma_next, y.std)
            assert torch.equal(x.timestep, y.timestep) and x.timestep.dtype == y.timestep.dtype
            for name in ("latents", "next_latents", "mean", "log_prob"):
                far = max(far, float((getattr(x, name) - getattr(y, name)).abs().max()))
    return far


@pytest.mark.parametrize(
    ("changes", "computed"),
    [
        pytest.param({"sample_batch_size": 1}, 1, marks=pytest.mark.slow),
        ({"sample_batch_size": 3}, 4),  # calls of three and of one: each of its own size
        pytest.param(
            {"sample_batch_size": 2, "train_batch_size": 1, "batched_guidance": False}, 2, marks=pytest.mark.slow
        ),
        pytest.param(
            {"sample_batch_size": 2, "ode_solver": "base", "integer_timesteps": True}, 2, marks=pytest.mark.slow
        ),
        pytest.param({"sample_batch_size": 2, "guidance_scale": 1.0}, 2, marks=pytest.mark.slow),
    ],
    ids=["one by one", "cut groups", "micro-batches", "the pipeline's solver", "no guidance"],
)
def test_a_shared_prefix_changes_no_bit(tmp_path, changes, computed):
    trainer = build(tmp_path, **{**LATE, **changes})
    (shared, fewer), (plain, all_of_them) = both_ways(trainer)
    assert distance(shared, plain) == 0
    assert [r.score for r in shared.rows] == [r.score for r in plain.rows]
    sides = 2 if trainer.config.guided else 1
    assert (fewer, all_of_them) == (sides * (2 * 4 + 2 * computed), sides * 4 * 4)
    found, expected = gradients(trainer, shared), gradients(trainer, plain)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any(bool(value.any()) for value in expected.values())


@pytest.mark.slow
def test_two_steps_end_with_the_same_adapter_and_count_their_forwards(tmp_path):
    """The second step draws with weights that the first has changed; its replay of them is exact."""
    found = []
    for how in ("exact", "off"):
        trainer = build(tmp_path / how, shared_prefix=how, sample_batch_size=2, **LATE)
        steps = [trainer.run_step()[1] for _ in range(2)]
        assert steps[1]["ratio/log_ratio_abs_max"] == 0
        assert steps[1]["forwards/sample"] == {"exact": 24, "off": 32}[how]
        assert steps[1]["forwards/train"] == make_run_plan(trainer.config, trainer.transformer).forwards_training == 16
        found.append((weights(trainer), [s["policy/loss"] for s in steps]))
    assert equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]


@pytest.mark.slow
def test_image_to_video(tmp_path):
    trainer = build_with_images(tmp_path, sample_batch_size=2, **LATE)
    (shared, fewer), (plain, all_of_them) = both_ways(trainer)
    assert distance(shared, plain) == 0 and fewer < all_of_them
    for one, other in zip(shared.rollouts, plain.rollouts, strict=True):
        assert torch.equal(one.image.latents, other.image.latents)


@pytest.mark.parametrize(
    ("batch", "spared"), slow_but([("1x4", 2), ("2x3", 4)]), ids=["one group on both", "one on each"]
)
def test_two_ranks_share_what_each_of_them_draws(tmp_path, batch, spared):
    trainer = build(tmp_path, **{**LATE, "batch": batch, "sample_batch_size": 1})
    found = []
    for how in ("exact", "off"):
        object.__setattr__(trainer.config, "shared_prefix", how)
        trainer.forwards.taken()
        drawn = []
        for rank in range(2):
            calls = split_calls(trainer.sampler.rank_samples(0, 0, rank, 2), 1)
            drawn += trainer.rollouts.draw(calls, PROMPTS, 0, 0)
        found.append((drawn, trainer.forwards.taken()))
        assert found[-1][1] == make_run_plan(trainer.config, trainer.transformer, world_size=2).forwards_sampling
    (shared, fewer), (plain, all_of_them) = found
    assert all_of_them - fewer == 2 * 2 * spared
    for one, other in zip(shared, plain, strict=True):
        assert all(torch.equal(a.next_latents, b.next_latents) for a, b in zip(one.records, other.records, strict=True))
        assert all((a == b).all() for a, b in zip(one.frames, other.frames, strict=True))


def test_one_video_for_a_whole_group_is_the_same_up_to_rounding(tmp_path):
    """A batch of one and a batch of four round differently; within the group all are then one, to the bit."""
    trainer = build(tmp_path, sample_batch_size=4, **LATE)
    (shared, fewer), (plain, _) = both_ways(trainer, "single")
    assert 0 < distance(shared, plain) < 0.005 and fewer == 2 * (2 * 4 + 2)  # at most one of 255 levels
    latents = shared.rollouts[0].records[0].latents
    assert torch.equal(latents, latents[:1].expand_as(latents))


def test_videos_of_other_groups_and_windows_at_the_first_step_share_nothing(tmp_path):
    transformer = build(tmp_path, **LATE).transformer
    for changes in ({"window_start": 0}, {"same_initial_noise": False}):
        config = settings(tmp_path, **{**LATE, "sample_batch_size": 1, **changes})
        plan = make_run_plan(config, transformer)
        assert plan.forwards_sampling == plan.forwards_unshared == 2 * 4 * 4


def test_the_plan_says_what_is_shared(tmp_path):
    trainer = build(tmp_path, sample_batch_size=1, **{**LATE, "window_mode": "random", "window_start": 0})
    plan = make_run_plan(trainer.config, trainer.transformer)
    assert plan.forwards_sampling == 32 - 2 * 1 * 3, "windows begin at 0, 1 or 2"
    said = describe_plan(trainer.config, plan, world_size=1, num_prompts=4)
    assert "26 to sample on average (32 without the shared prefix, exact)" in said


def test_starts_of_a_window():
    assert SDEWindow("fixed", size=2, start=3).starts(19) == [3] == SDEWindow("all", start=3).starts(19)
    assert SDEWindow("random", size=2, start=1, stop=5).starts(19) == [1, 2, 3]
    assert SDEWindow("progressive", size=2, start=1, stop=7, stride=3).starts(19) == [1, 4, 5]
    assert [prefix_videos([4, 4, 4, 4], how) for how in ("off", "exact", "single")] == [16, 4, 1]
    assert prefix_videos([], "single") == 0
