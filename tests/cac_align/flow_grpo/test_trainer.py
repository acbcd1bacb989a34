"""The trainer on a tiny real pipeline: what moves, what does not, what is refused, and that a run can be resumed."""

import copy
import json
import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cac_align import CompositeReward, MotionReward
from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError, last_finished_checkpoint, newest_checkpoint
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.trainer import DivergenceError
from cac_align.rewards.base import Evaluation, RewardError
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, Verdict
from tests.cac_align.flow_grpo.runs import (
    EVAL_PROMPTS,
    PROMPTS,
    build,
    equal,
    gradients,
    settings,
    shallow_pipe,
    tiny_pipe,
    weights,
)
from tests.campaigns import slow_but
from tests.conftest import _wan_parts

WAN = Path(__file__).resolve().parents[3] / "assets" / "wan-mini"


pytestmark = pytest.mark.usefixtures("one_thread")


def distance(a, b):
    scale = max(float(v.abs().max()) for v in b.values())
    assert scale > 0
    return max(float((a[k] - b[k]).abs().max()) for k in b) / scale


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A trainer after one update, and a step's videos drawn with those weights."""
    trainer = build(tmp_path_factory.mktemp("run"), beta=0.0, sample_batch_size=2)
    trainer.run_step()
    return trainer, trainer.collect()


# --- what is trained --------------------------------------------------------------------------------------------------


def test_two_steps_move_the_adapter_and_nothing_else(tmp_path):
    pipe = tiny_pipe()
    base = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    vae = {k: v.clone() for k, v in pipe.vae.state_dict().items()}
    trainer = build(tmp_path, pipe=pipe, batch="1x4")
    before = weights(trainer)
    trainer.run_step()
    trainer.run_step()
    after = weights(trainer)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == set(before) and len(moved) == 2 * 16
    state = {k.replace(".base_layer", ""): v for k, v in pipe.transformer.state_dict().items() if "lora_" not in k}
    assert equal(state, base) and equal(dict(pipe.vae.state_dict()), vae)
    assert all(p.dtype == torch.float32 for p in trainer.learner.parameters.values())


@pytest.mark.parametrize("batched", slow_but([True, False]))
def test_ratio_is_exactly_one_and_the_noise_floor_is_zero(tmp_path, batched):
    trainer = build(tmp_path, batched_guidance=batched, batch="1x4")
    trainer.run_step()
    assert trainer.self_check() == {"floor": 0.0, "limit": 1e-3, "log_prob": 0.0}
    _, numbers = trainer.run_step()
    assert numbers["ratio/log_ratio_abs_max"] == 0.0 and numbers["policy/grad_norm"] > 0


@pytest.fixture
def other_precision():
    """accelerate allows one precision per process; a test that needs another one puts the state back."""
    from accelerate.state import AcceleratorState

    kept = dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()
    yield
    AcceleratorState._shared_state.clear()
    AcceleratorState._shared_state.update(kept)


@pytest.mark.slow
def test_ratio_is_exactly_one_in_bfloat16(tmp_path, other_precision):
    """Under autocast, as the presets run: sampling and replay round alike."""
    trainer = build(tmp_path, mixed_precision="bf16", batch="1x4")
    trainer.run_step()
    assert trainer.self_check()["floor"] == 0.0
    _, numbers = trainer.run_step()
    assert numbers["ratio/log_ratio_abs_max"] == 0.0 and numbers["policy/grad_norm"] > 0


def test_gradient_is_that_of_the_written_out_objective(drawn):
    """-(1/N) sum over videos and steps of A d log p, from the public pieces alone."""
    trainer, experience = drawn
    found = gradients(trainer, experience)
    loss = 0.0
    transformer = trainer.transformer
    for number, rollout in enumerate(experience.rollouts):
        advantages, _ = experience.of(number)
        text = trainer.texts.batch([rollout.prompt] * len(rollout.specs))
        blank = trainer.texts.batch([""] * len(rollout.specs))
        for record in rollout.records:
            times = record.timestep.expand(len(rollout.specs))
            cond, uncond = (
                transformer(hidden_states=record.latents, timestep=times, encoder_hidden_states=t, return_dict=False)[0]
                for t in (text, blank)
            )
            step = trainer.scheduler.transition_at(record.step, record.latents, uncond + 3.0 * (cond - uncond))
            error = ((record.next_latents - step.mean) / step.std).square()
            loss = loss + (advantages * error.flatten(1).mean(1) / 2).sum() / (8 * len(rollout.records))
    expected = dict(
        zip(
            trainer.learner.parameters,
            torch.autograd.grad(loss, list(trainer.learner.parameters.values())),
            strict=True,
        )
    )
    assert distance(found, expected) < 1e-4


def test_loss_does_not_depend_on_the_partition(drawn):
    from cac_align.flow_grpo.learner.experience import chunks_of

    trainer, experience = drawn
    single, whole = chunks_of(experience, 1), chunks_of(experience, trainer.config.rows_per_forward)
    assert len(single) > len(whole)
    assert distance(gradients(trainer, experience, single), gradients(trainer, experience, whole)) < 1e-4


def test_windows_are_shared_in_a_group_and_only_they_are_kept(drawn):
    trainer, experience = drawn
    windows = {}
    for rollout in experience.rollouts:
        steps = tuple(r.step for r in rollout.records)
        assert len(steps) == trainer.config.window_size
        assert windows.setdefault(rollout.group, steps) == steps
    assert {len(r.specs) for r in experience.rollouts} == {2} and len(experience.rollouts) == 4


@pytest.mark.parametrize("objective", slow_but(["guard", "dppo"]))
def test_other_objectives_train(tmp_path, objective):
    trainer = build(tmp_path, objective=objective, step_weighting="inv_c", num_iterations=2, num_minibatches=2)
    before = weights(trainer)
    _, numbers = trainer.run_step()
    assert numbers["policy/updates"] == 4 and trainer.learner.updates == 4
    assert not equal(weights(trainer), before) and math.isfinite(numbers["policy/loss"])
    assert numbers["ratio/log_ratio_abs_max"] > 0, "later updates of a step are off policy"


@pytest.mark.slow
def test_log_probs_without_constants_reach_record_replay_and_ratio(tmp_path):
    trainer = build(tmp_path, kernel="cps", log_prob_constants=False, batch="1x4", window_size=1)
    experience = trainer.collect()
    [record] = experience.rollouts[0].records
    error = (record.next_latents - record.mean).square().flatten(1).mean(1)
    assert torch.allclose(record.log_prob, -error, rtol=1e-5)
    assert trainer.self_check() == {"floor": 0.0, "limit": 1e-3, "log_prob": 0.0}
    plain = gradients(trainer, experience)
    object.__setattr__(trainer.config, "log_prob_constants", True)
    gaussian = {name: 2 * record.std**2 * value for name, value in gradients(trainer, experience).items()}
    assert distance(plain, gaussian) < 1e-5


def test_nft_trains_on_finished_videos(tmp_path):
    trainer = build(tmp_path, objective="nft", kernel="ode", noise_level=None, nft_decay=2, beta=0.01, batch="1x4")
    before = weights(trainer)
    experience, numbers = trainer.run_step()
    assert all(not r.records and r.clean.shape == (4, 16, 2, 2, 2) for r in experience.rollouts)
    after = weights(trainer)
    assert not equal(after, before) and "ratio/approx_kl" not in numbers
    assert equal(dict(zip(after, trainer.learner.old, strict=True)), after), (
        "decay 0: the sampling policy follows at once"
    )


@pytest.mark.slow
def test_the_sampling_policy_of_nft_follows_by_updates(tmp_path):
    """Two updates a step: after one step DiffusionNFT keeps 0.002 of the old policy, not 0.001."""
    more = {"num_minibatches": 2, "learning_rate": 0.1}
    trainer = build(tmp_path, objective="nft", kernel="ode", noise_level=None, **more)
    before = [p.detach().clone() for p in trainer.learner.old]
    trainer.run_step()
    assert trainer.learner.updates == 2
    for old, was, new in zip(trainer.learner.old, before, weights(trainer).values(), strict=True):
        assert torch.allclose(old, 0.002 * was + 0.998 * new, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_nft_goes_towards_the_better_videos(drawn, tmp_path):
    """At theta = old the gradient is that of sum (2r - 1): opposite advantages, opposite gradients; none, none."""
    trainer = build(tmp_path, objective="nft", kernel="ode", noise_level=None, batch="1x4")
    experience = trainer.collect()
    plus = gradients(trainer, experience)
    values = experience.advantages.values.clone()
    experience.advantages.values.mul_(-1)
    minus = gradients(trainer, experience)
    experience.advantages.values.copy_(values * 0)
    nothing = gradients(trainer, experience)
    scale = max(float(v.abs().max()) for v in plus.values())
    assert max(float((plus[k] + minus[k]).abs().max()) for k in plus) < 1e-4 * scale
    assert max(float(v.abs().max()) for v in nothing.values()) < 1e-4 * scale


@pytest.mark.slow
def test_rvm_trains_on_finished_videos_towards_the_better_ones(drawn, tmp_path):
    """Opposite advantages, opposite gradients; with positive ones alone, half of them are gone."""
    rvm = {"objective": "rvm", "kernel": "ode", "noise_level": None, "batch": "1x4"}
    trainer = build(tmp_path / "plain", **rvm)
    experience = trainer.collect()
    assert all(not r.records and r.clean.shape == (4, 16, 2, 2, 2) for r in experience.rollouts)
    assert trainer.learner.old is None
    plus = gradients(trainer, experience)
    kept = experience.advantages.values.clone()
    experience.advantages.values.mul_(-1)
    minus = gradients(trainer, experience)
    experience.advantages.values.copy_(kept.clamp(min=0))
    better = gradients(trainer, experience)
    scale = max(float(v.abs().max()) for v in plus.values())
    assert scale > 0 and max(float((plus[k] + minus[k]).abs().max()) for k in plus) < 1e-5 * scale
    careful = build(tmp_path / "careful", rvm_positive_updates=1, **rvm)
    experience.advantages.values.copy_(kept)
    first = gradients(careful, experience)
    assert max(float((first[k] - better[k]).abs().max()) for k in first) < 1e-6 * scale
    careful.learner.updates = 1
    later = gradients(careful, experience)
    assert max(float((later[k] - plus[k]).abs().max()) for k in later) < 1e-6 * scale


@pytest.mark.slow
def test_the_anchor_of_rvm_is_the_model_without_adapter(tmp_path):
    trainer = build(tmp_path, objective="rvm", kernel="ode", noise_level=None, beta=0.5, batch="1x4", learning_rate=0.1)
    assert trainer.run_step()[1]["policy/kl"] < 1e-10, "before the first update there is no distance"
    assert trainer.run_step()[1]["policy/kl"] > 1e-8


# --- KL ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", slow_but(["velocity", "mean"]))
def test_kl_is_zero_at_first_and_has_a_gradient_later(tmp_path, space):
    trainer = build(tmp_path, beta=1.0, kl_space=space, learning_rate=1e-2, batch="1x4")
    experience, numbers = trainer.run_step()
    assert numbers["policy/kl"] == 0.0
    experience.advantages.values.zero_()
    pull = gradients(trainer, experience)
    assert max(float(g.abs().max()) for g in pull.values()) > 0, "KL without gradient has no effect"
    result = trainer.learner.step_loss(experience, first_chunk(trainer, experience), 0)
    assert (result.kl > 0).all() and result.loss.requires_grad


def first_chunk(trainer, experience):
    from cac_align.flow_grpo.learner.experience import chunks_of

    return chunks_of(experience, trainer.config.rows_per_forward)[0]


def test_reference_is_the_model_before_training(drawn):
    trainer, experience = drawn
    record = experience.rollouts[0].records[0]
    condition = trainer.texts.condition([experience.rollouts[0].prompt] * 2, "")
    found = trainer.learner.replay.reference_velocity(record.latents, record.timestep, condition)
    fresh = type(trainer.learner.bare)(shallow_pipe().transformer, 3.0, True)
    with torch.no_grad():
        assert torch.allclose(found, fresh(record.latents, record.timestep, condition), atol=1e-6)
        assert not torch.equal(found, trainer.learner.bare(record.latents, record.timestep, condition))
    assert all(p.requires_grad for p in trainer.learner.parameters.values())


def test_adapter_comes_back_after_an_error(drawn):
    trainer, _ = drawn
    with pytest.raises(RuntimeError), adapter_off(trainer.transformer):
        raise RuntimeError
    modules = [m for m in trainer.transformer.modules() if hasattr(m, "disable_adapters")]
    assert not any(m.disable_adapters for m in modules if isinstance(m.disable_adapters, bool))
    assert all(p.requires_grad for p in trainer.learner.parameters.values())


@pytest.mark.slow
def test_reference_pass_is_skipped_without_kl(tmp_path):
    counts = []
    for beta in (0.0, 0.1):
        trainer = build(tmp_path / str(beta), beta=beta)
        experience = trainer.collect()
        calls = []
        hook = trainer.transformer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        gradients(trainer, experience)
        hook.remove()
        counts.append(len(calls))
    assert counts == [4, 8]


# --- rewards ----------------------------------------------------------------------------------------------------------


class Some:
    """Judges what it likes: a score of None for some videos, an error for others, and a verdict."""

    name = "some"

    def __init__(self, scores, verdict=None):
        self.scores, self.verdict, self.calls = scores, verdict, 0

    def evaluate(self, videos, prompts, *, fps):
        first, self.calls = self.calls, self.calls + len(videos)
        scores = [self.scores[(first + k) % len(self.scores)] for k in range(len(videos))]
        if "raise" in scores:
            raise RuntimeError("judge is down")
        reasons = [None if s is not None else "too dark" for s in scores]
        return Evaluation(scores, [self.verdict] * len(videos), reasons, {"some": scores})

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        return self.evaluate(videos, prompts, fps=fps).scores


def test_a_missing_score_is_counted_and_teaches_nothing(tmp_path):
    reward = Some([None, 0.2, 0.9, 0.4, 0.1, 0.3, 0.5, 0.7])
    trainer = build(tmp_path, reward=reward)
    experience = trainer.collect()
    assert experience.advantages.values[0] == 0 and not experience.advantages.valid[0]
    with_it = gradients(trainer, experience)
    lost = experience.rollouts[0].records[0]
    lost.next_latents[0] += 100.0  # the unjudged video may hold anything
    assert distance(gradients(trainer, experience), with_it) == 0
    from cac_align.flow_grpo.learner.experience import experience_numbers

    assert experience_numbers(experience.rows, experience.advantages)["reward/failed"] == 1 / 8
    assert experience.rows[0].reason == "too dark"


@pytest.mark.slow
def test_a_reward_that_raises_costs_its_videos_and_not_the_run(tmp_path):
    trainer = build(
        tmp_path, reward=Some([0.2, 0.9, 0.4, "raise", 0.1, 0.3, 0.5, 0.7]), reward_retries=0, sample_batch_size=2
    )
    experience, numbers = trainer.run_step()
    assert numbers["reward/failed"] == 2 / 8
    assert experience.rows[3].reason == "RuntimeError: judge is down" and experience.rows[3].score is None


def test_a_step_nobody_could_judge_stops_the_run(tmp_path):
    trainer = build(tmp_path, reward=Some([None]))
    with pytest.raises(RewardError, match="step 1: 8 of 8 videos could not be judged, such as: too dark"):
        trainer.run_step()


@pytest.mark.slow
def test_a_single_missing_score_stops_a_run_that_wants_it(tmp_path):
    trainer = build(tmp_path, reward=Some([None, 0.2, 0.9, 0.4]), reward_on_failure="raise")
    with pytest.raises(RewardError, match="2 of 8 videos could not be judged"):
        trainer.run_step()


@pytest.mark.slow
def test_groups_without_variance_are_skipped_and_counted(tmp_path):
    trainer = build(tmp_path, reward=Some([0.5, 0.5, 0.5, 0.5, 0.1, 0.3, 0.5, 0.7]))
    calls = []
    experience = trainer.collect()
    hook = trainer.transformer.register_forward_hook(lambda *_: calls.append(1))
    gradients(trainer, experience)
    hook.remove()
    assert len(calls) == 2, "a forward of two steps each: one group of two"
    still = build(tmp_path / "all", reward=Some([0.5]))
    before = weights(still)
    _, numbers = still.run_step()
    assert numbers["groups/zero_variance"] == 1.0 and numbers["policy/updates"] == 0
    assert equal(weights(still), before) and still.step == 1


@pytest.mark.slow
def test_the_first_step_tells_of_a_reward_that_is_always_at_its_limit(tmp_path, caplog):
    trainer = build(tmp_path, reward=CompositeReward({"motion": MotionReward(full=1e-6)}))
    trainer.run_step()
    assert "part/motion/saturated: 100 % of the step's videos" in caplog.text
    caplog.clear()
    trainer.run_step()
    assert not caplog.records


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (lambda videos, prompts=None, *, fps, **kw: [float("nan")], "returned nan"),
        (lambda videos, prompts=None, *, fps, **kw: [0.1, 0.2], "returned 2 scores for 1 videos"),
        (lambda videos, prompts=None, *, fps, **kw: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_broken_reward_is_refused_before_anything_is_drawn(tmp_path, reward, said):
    trainer = build(tmp_path, reward=reward)
    drawn = []
    trainer.transformer.register_forward_hook(lambda *_: drawn.append(1))
    with pytest.raises(ValueError, match=f"the reward does not work on a video of .*{said}"):
        trainer.train()
    assert not drawn


def test_a_hanging_reward_is_refused_before_anything_is_drawn(tmp_path):
    release = threading.Event()

    def hangs(videos, prompts=None, *, fps, **kwargs):
        release.wait(60)
        return [0.5] * len(videos)

    trainer = build(tmp_path, reward=hangs, reward_mode="thread", reward_deadline_s=0.3)
    drawn = []
    trainer.transformer.register_forward_hook(lambda *_: drawn.append(1))
    try:
        with pytest.raises(ValueError, match=r"the reward does not work on .*no answer from 'hangs' within 0.3"):
            trainer.train()
    finally:
        release.set()
    assert not drawn


@pytest.mark.slow
def test_one_reward_normalised_on_its_own_is_the_plain_one(tmp_path):
    plain = build(tmp_path / "a", batch="1x4").collect()
    parts = build(tmp_path / "b", batch="1x4", reward_combination="advantages").collect()
    assert torch.equal(plain.advantages.values, parts.advantages.values)
    with pytest.raises(ValueError, match=r"needs a part of the reward named 'brightness'.*it has \['some'\]"):
        build(tmp_path / "c", reward=Some([0.1, 0.2]), reward_combination="advantages").collect()


@pytest.mark.slow
def test_async_rewards_are_the_sync_ones(tmp_path):
    found = {}
    for mode in ("sync", "thread"):
        trainer = build(tmp_path / mode, reward_mode=mode, batch="1x4")
        trainer.run_step()
        trainer.bus.close()
        found[mode] = weights(trainer)
    assert equal(found["sync"], found["thread"])


# --- localised credit -------------------------------------------------------------------------------------------------


def verdict():
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(1, 2), {1: (Box(0, 0, 500, 500),)})
    return Verdict(status="abnormal", score=0.1, anomalies=(anomaly,), window=FrameRange(1, 2), num_frames=5, fps=16)


@pytest.mark.slow
def test_uniform_credit_is_plain_grpo_and_localised_credit_is_not(tmp_path):
    found = {}
    reward = [0.1, 0.5, 0.3, 0.9]
    for name, options in {
        "plain": {},
        "uniform": {"localised_credit": True, "credit_floor": 1.0},
        "local": {"localised_credit": True, "credit_floor": 0.0},
    }.items():
        trainer = build(tmp_path / name, reward=Some(reward, verdict()), batch="1x4", **options)
        trainer.run_step()
        found[name] = weights(trainer)
    assert equal(found["plain"], found["uniform"]) and not equal(found["plain"], found["local"])


def test_localised_credit_leaves_other_cells_without_gradient(tmp_path):
    trainer = build(tmp_path, reward=Some([0.1, 0.5], verdict()), localised_credit=True, credit_floor=0.0)
    experience = trainer.collect()
    before = gradients(trainer, experience)
    for rollout in experience.rollouts:
        for k, record in enumerate(rollout.records):
            changed = record.next_latents.clone()  # the next record's latents are the same tensor
            changed[:, :, 0] += 1.0  # frame 0 lies outside the anomaly
            rollout.records[k] = replace(record, next_latents=changed)
    assert distance(gradients(trainer, experience), before) < 1e-6


# --- safety -----------------------------------------------------------------------------------------------------------


def test_nan_stops_the_run_and_keeps_weights_and_checkpoint(tmp_path):
    trainer = build(tmp_path)
    trainer.run_step()
    good = trainer.save()
    files = {p.name: p.read_bytes() for p in good.iterdir()}
    before = weights(trainer)
    experience = trainer.collect()
    experience.rollouts[1].records[0].next_latents[0] = math.nan
    with pytest.raises(DivergenceError, match=r"step 2: loss nan.*Last good checkpoint: .*checkpoint-1"):
        trainer.learner.learn(experience)
    assert equal(weights(trainer), before)
    assert {p.name: p.read_bytes() for p in good.iterdir()} == files


def test_replay_noise_above_the_clip_is_refused(tmp_path, monkeypatch):
    trainer = build(tmp_path, noise_floor="refuse")
    draw = trainer.rollouts.draw_one

    def moved(*args, **kwargs):  # as if sampling ran in another precision
        rollout = draw(*args, **kwargs)
        for record in rollout.records:
            record.mean.mul_(1.1)
        return rollout

    monkeypatch.setattr(trainer.rollouts, "draw_one", moved)
    with pytest.raises(ValueError, match=r"gradients are partly noise.*train_batch_size"):
        trainer.self_check()
    object.__setattr__(trainer.config, "noise_floor", "warn")
    assert trainer.self_check()["floor"] > 1e-4


@pytest.mark.slow
def test_early_stop_when_the_reward_rises_while_motion_dies(tmp_path):
    class Rising:
        calls = 0

        def __call__(self, videos, prompts=None, *, fps, **kwargs):
            self.calls += len(videos)
            return [min(1.0, self.calls / 1000 + k / 100) for k in range(len(videos))]

    options = {"batch": "1x4", "max_steps": 6, "eval_every": 1, "canary_patience": 1}
    trainer = build(tmp_path, reward=Rising(), eval_prompts=EVAL_PROMPTS, **options)
    trainer._evaluate(_nothing(), base=True)
    trainer.history[0]["motion_energy"] = 10.0  # the base moved a lot
    trainer.train()
    assert trainer.step == 1 and "motion_energy" in trainer.stopped_by
    assert last_finished_checkpoint(tmp_path).name == "checkpoint-1"


def _nothing():
    from pathlib import Path

    from cac_align.flow_grpo.run_log import RunLog

    return RunLog(Path("unused"), active=False)


@pytest.mark.slow
def test_evaluation_repeats_itself_and_compares_with_the_base(tmp_path):
    trainer = build(tmp_path, eval_prompts=EVAL_PROMPTS, max_steps=1, eval_every=1, log_videos_every=1)
    trainer.train()
    base, after = trainer.history
    assert base["step"] == 0 and after["step"] == 1 and {"reward", "motion_energy"} <= base.keys()
    trainer._evaluate(_nothing(), base=True)
    again = {k: v for k, v in trainer.history[-1].items() if k != "step"}
    assert again == {k: v for k, v in base.items() if k != "step"}, "the adapter is off, latents are fixed"
    names = {p.name for p in (tmp_path / "videos").rglob("*.mp4")}
    assert {"eval-000-base.mp4", "eval-000-trained.mp4", "group-0-best.mp4", "group-1-worst.mp4"} <= names


@pytest.mark.slow
def test_average_is_the_closed_form_is_evaluated_and_the_trained_weights_come_back(tmp_path):
    """With diffusers' warm-up min(decay, (1 + k) / (10 + k)) the first averaging takes the weights as they are."""
    trainer = build(tmp_path, ema_decay=0.9, ema_every=1, batch="1x4")
    seen = []
    for _ in range(2):
        trainer.run_step()
        seen.append(weights(trainer))
    with trainer.learner.averaged_weights():
        inside = weights(trainer)
    assert equal(weights(trainer), seen[-1]) and not equal(inside, seen[-1])
    assert equal(inside, dict(zip(inside, trainer.learner.ema.shadow_params, strict=True)))
    for name, average in zip(trainer.learner.parameters, trainer.learner.ema.shadow_params, strict=True):
        expected = seen[0][name]
        for k, values in enumerate(seen[1:], 1):
            decay = min(0.9, (1 + k) / (10 + k))
            expected = decay * expected + (1 - decay) * values[name]
        assert torch.allclose(average, expected, atol=1e-7)
        assert average.data_ptr() != trainer.learner.parameters[name].data_ptr()


# --- state ------------------------------------------------------------------------------------------------------------


def lines(folder):
    rows = [json.loads(s) for s in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in rows]


FINISHED = {"kernel": "ode", "noise_level": None}


@pytest.mark.parametrize(
    "more",
    slow_but([{}, {"objective": "nft", **FINISHED}, {"objective": "rvm", "rvm_positive_updates": 1, **FINISHED}], {}),
    ids=["grpo", "nft", "rvm"],
)
def test_a_resumed_run_is_the_same_run(tmp_path, more):
    options = {"window_mode": "random", "warmup_steps": 3, "beta": 0.01, **more}
    options |= {"batch": "1x4", "max_steps": 2, "save_every": 1}
    if not more:  # whatever the objective, one way of evaluating
        options |= {"eval_prompts": EVAL_PROMPTS, "eval_every": 1}
    straight = build(tmp_path / "a", **options)
    start = weights(straight)
    straight.train()
    build(tmp_path / "b", **options | {"max_steps": 1}).train()
    torch.manual_seed(99)  # a new process starts somewhere else
    np.random.seed(99)
    resumed = build(tmp_path / "b", **options)
    resumed.train()
    assert equal(weights(resumed), weights(straight)) and not equal(weights(resumed), start)
    for a, b in zip(straight.learner.ema.shadow_params, resumed.learner.ema.shadow_params, strict=True):
        assert torch.equal(a, b)
    for name in straight.learner.parameters:
        a, b = (t.learner.optimizer.optimizer.state[t.learner.parameters[name]] for t in (straight, resumed))
        assert all(torch.equal(a[k], b[k]) for k in ("exp_avg", "exp_avg_sq", "step"))
    assert resumed.learner.schedule.get_last_lr() == straight.learner.schedule.get_last_lr()
    assert lines(tmp_path / "a") == lines(tmp_path / "b") and resumed.history == straight.history
    if not more:  # the rewards of each prompt outlive a checkpoint, so that a resumed run compares in pairs, too
        assert len(resumed.eval_rewards["base"]) == 2 and resumed.eval_rewards == straight.eval_rewards
        more_prompts = "noise at 2 prompts; more prompts (eval_num_prompts) or more steps would tell."
        assert resumed.change() == straight.change() and resumed.change().endswith(more_prompts)
    assert [p.name for p in sorted((tmp_path / "b").glob("checkpoint-*"))] == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.slow
def test_a_checkpoint_holds_no_pickle(tmp_path):
    trainer = build(tmp_path, batch="1x4")
    trainer.run_step()
    names = {p.name for p in trainer.save().iterdir()}
    assert {p.rpartition(".")[2] for p in names} == {"safetensors", "json"}
    assert {"lora.safetensors", "optimizer.safetensors", "ema.safetensors", "grpo_state.json"} <= names


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    first = build(tmp_path, batch="1x4")
    first.run_step()
    first.save()
    with pytest.raises(TrainingCheckpointError, match=r"noise_level was 0.7 and is now 0.5") as refused:
        build(tmp_path, batch="1x4", noise_level=0.5, flow_shift=3.0).train()
    assert "sigma_fingerprint was" in str(refused.value)
    with pytest.raises(TrainingCheckpointError, match="holds checkpoint-1"):
        first.train(resume=False)
    other = build(tmp_path, batch="1x4", max_steps=2, save_every=1, reward_workers=2)  # free settings may change
    other.resume(last_finished_checkpoint(tmp_path))
    assert other.step == 1


@pytest.mark.slow
def test_a_failed_write_leaves_the_former_checkpoint(tmp_path):
    trainer = build(tmp_path, batch="1x4")
    trainer.run_step()
    first = trainer.save()
    trainer.run_step()
    (tmp_path / "checkpoint-2.partial").write_text("in the way of the folder")
    with pytest.raises(TrainingCheckpointError, match=r"could not write checkpoint 2.*checkpoint-1; free some space"):
        trainer.save()
    assert last_finished_checkpoint(tmp_path) == first


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(tmp_path):
    trainer = build(tmp_path, batch="1x4")
    trainer.run_step()
    path = trainer.save() / "lora.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrainingCheckpointError, match=r"lora.safetensors' is damaged"):
        build(tmp_path, batch="1x4").train()


def test_ctrl_c_saves_the_step_and_ends(tmp_path):
    trainer = build(tmp_path, batch="1x4", save_every=100, max_steps=50)
    learn = trainer.learner.learn

    def interrupted(experience):
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(experience)

    trainer.learner.learn = interrupted
    trainer.train()
    assert trainer.step == 2 and "SIGINT; the same command resumes" in trainer.stopped_by and trainer.interrupted == 2
    assert last_finished_checkpoint(tmp_path).name == "checkpoint-2"


def test_a_signal_before_the_first_step_trains_nothing(tmp_path):
    trainer = build(tmp_path)
    check = trainer.self_check

    def asked():
        os.kill(os.getpid(), signal.SIGTERM)
        return check()

    trainer.self_check = asked
    trainer.train()
    assert trainer.step == 0 and trainer.interrupted == signal.SIGTERM and newest_checkpoint(tmp_path) is None


@pytest.mark.slow
def test_a_signal_during_the_last_step_ends_a_whole_run(tmp_path):
    trainer = build(tmp_path, max_steps=1, batch="1x4")
    learn = trainer.learner.learn
    trainer.learner.learn = lambda experience: (os.kill(os.getpid(), signal.SIGINT), learn(experience))[1]
    trainer.train()
    assert trainer.step == 1 and trainer.interrupted == 0 and trainer.stopped_by is None


@pytest.mark.slow
def test_export_loads_back(tmp_path):
    trainer = build(tmp_path, ema_decay=0.5, learning_rate=1e-2, batch="1x4")
    for _ in range(2):
        trainer.run_step()
    folder = trainer.export(tmp_path / "lora")
    record = trainer.collect().rollouts[0].records[0]
    inputs = {
        "hidden_states": record.latents,
        "timestep": record.timestep.expand(4),
        "encoder_hidden_states": trainer.texts.batch(PROMPTS),
        "return_dict": False,
    }
    with torch.no_grad():
        with trainer.learner.averaged_weights():
            expected = trainer.transformer(**inputs)[0]
        fresh = shallow_pipe()
        before = fresh.transformer(**inputs)[0]
        fresh.load_lora_weights(folder)
        found = fresh.transformer(**inputs)[0]
    assert (found - expected).abs().max() < 1e-6 < (before - expected).abs().max()
    card = (folder / "README.md").read_text()
    assert "load_lora_weights" in card and "flow-grpo" in card and "TODO" not in card
    assert (folder / "settings.yaml").is_file()


@pytest.mark.slow
def test_a_killed_base_evaluation_is_in_the_log_once(tmp_path):
    """Killed before the first checkpoint, a run begins again from nothing, and so does its log."""
    options = {"eval_prompts": EVAL_PROMPTS[:1], "batch": "1x4", "max_steps": 1}
    killed = build(tmp_path, **options)
    killed.run_step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        killed.train()
    assert [row["step"] for row in lines(tmp_path)] == [0]
    build(tmp_path, **options).train()
    assert [row["step"] for row in lines(tmp_path)] == [0, 1, 1]


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused(tmp_path, ltx_pipe):
    from diffusers import WanVideoToVideoPipeline

    with pytest.raises(ValueError, match=r"LTXPipeline .* cannot be trained"):
        build(tmp_path, pipe=copy.copy(ltx_pipe))
    with pytest.raises(ValueError, match="WanVideoToVideoPipeline with WanTransformer3DModel cannot be trained"):
        build(tmp_path, pipe=WanVideoToVideoPipeline(**_wan_parts(16)))
    with pytest.raises(ValueError, match=r"lora_targets \['to_z'\] match no linear module .*attn1.to_q"):
        build(tmp_path, lora_targets=["to_z"])
    two = shallow_pipe()
    two.register_to_config(boundary_ratio=0.9)
    with pytest.raises(ValueError, match="no transformer_2 for the timesteps below"):
        build(tmp_path, pipe=two)
    with pytest.raises(ValueError, match="batch='5x2' needs 5 prompts, the list has 4; add prompts, or set batch: 4x2"):
        build(tmp_path, batch="5x2")


def test_prompts_of_both_lists_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 prompts are in both lists"):
        build(tmp_path, eval_prompts=[PROMPTS[0].upper()])


def test_a_config_that_is_none_is_named():
    from cac_align import FlowGRPOTrainer

    with pytest.raises(ValueError, match=r"config must be a FlowGRPOConfig, got dict; .*from_dict"):
        FlowGRPOTrainer({"prompts": None})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "outputs/nowhere"}, r"model: outputs/nowhere \(no such folder\)"),
        ({"model": "some-org/no-model"}, "model: some-org/no-model .*HF_HUB_OFFLINE=1"),
        (
            {"rewards": [{"reward": "cac", "options": {"model": "outputs/none/judge"}}]},
            "reward cac: outputs/none/judge",
        ),
        ({"rewards": ["no.such.module:thing"]}, "cannot be imported"),
        ({"prompts": "none.txt"}, "prompts='none.txt': no prompt file at 'none.txt'"),
        ({"eval_prompts": "none.txt"}, "eval_prompts='none.txt': no prompt file"),
    ],
)
def test_what_is_missing_is_found_before_anything_loads(tmp_path, monkeypatch, changes, said):
    import huggingface_hub.constants

    from cac_align import FlowGRPOTrainer
    from cac_align.flow_grpo import trainer as module

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(module, "load_pipeline", lambda *a, **k: pytest.fail("a pipeline was loaded"))
    lists = {} if "prompts" in changes else {"prompts": PROMPTS}
    with pytest.raises(ValueError, match=said):
        FlowGRPOTrainer(settings(tmp_path, **changes), **lists)


def test_a_reward_is_tried_before_the_pipeline_is_loaded(tmp_path, monkeypatch):
    from cac_align import FlowGRPOTrainer
    from cac_align.flow_grpo import trainer as module

    monkeypatch.setattr(module, "load_pipeline", lambda *a, **k: pytest.fail("a pipeline was loaded"))
    with pytest.raises(ValueError, match=r"the reward does not work on a video of .*judge is down"):
        FlowGRPOTrainer(settings(tmp_path, model=str(WAN), reward_retries=0), reward=Some(["raise"]), prompts=PROMPTS)


def test_missing_attention_backend_names_the_pip_line(tmp_path):
    with pytest.raises(ValueError, match=r"attention_backend='flash' cannot be used.*pip install flash-attn"):
        build(tmp_path, attention_backend="flash")
    assert build(tmp_path / "native", attention_backend="native").modules


def test_the_vae_of_a_pipeline_runs_in_float32(tmp_path, caplog):
    pipe = shallow_pipe()
    pipe.vae = copy.deepcopy(pipe.vae).to(torch.bfloat16)  # the other tests' is the same
    trainer = build(tmp_path, pipe=pipe)
    assert trainer.pipe.vae.dtype == torch.float32 and "VAE is torch.bfloat16" in caplog.text


def test_settings_of_the_checkout_work_from_any_folder(tmp_path, monkeypatch):
    from cac_align.flow_grpo.plan import meta_transformer
    from cac_align.flow_grpo.run_prompts import prompt_lists

    monkeypatch.chdir(tmp_path)
    assert len(prompt_lists(FlowGRPOConfig(), None, None)[0]) == 240
    assert meta_transformer(FlowGRPOConfig().model).config.num_layers > 0


@pytest.mark.slow
def test_two_trainers_do_not_touch_each_other(tmp_path):
    one, two = (build(tmp_path / name, batch="1x4") for name in "12")
    before = weights(two)
    one.run_step()
    assert equal(weights(two), before)
