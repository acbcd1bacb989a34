"""Stage 3 as a whole on a tiny real judge: loss, oracle, resume, failures."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from reward_model.config import JudgeConfig, answer_limit, load_judge_config
from reward_model.engine.checkpoints import TrainingCheckpointError, grpo_checkpoint_fault, last_checkpoint
from reward_model.engine.interrupts import Interrupted
from reward_model.engine.settings import read_yaml
from reward_model.minis.collator import EQUAL_IMAGES, fast_vision
from reward_model.minis.model import build_judge
from reward_model.parsing import format_report
from reward_model.rewards import total_reward
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VideoAnnotation
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.log import clip_pictures
from reward_model.training.grpo.maths import group_advantages
from reward_model.training.grpo.prepare import check_no_dropout
from reward_model.training.grpo.rollouts import GrpoSample
from reward_model.training.grpo.rows import masked_log_probs, stock_vision_inputs
from reward_model.training.grpo.sampler import Sampled
from reward_model.training.grpo.setup import OWN, check_limits, describe_run, judge_file, open_trainer, plan_config
from reward_model.training.grpo.trainer import DivergenceError, GrpoTrainer
from tests.campaigns import draws
from tests.launched import ROOT, launch

SIZE = 48
JUDGE = JudgeConfig(
    prompts="compact", frame_size=SIZE, max_scan_tokens=160, max_zoom_tokens=160, min_zoom_frames=2, max_zoom_frames=6
)
ROWS = [{"seed": k, "abnormal": k % 2} for k in range(6)]


def load(row):
    """A video of noise of 17 frames at 16 fps (five scan frames); abnormal ones from frame 4 to 8."""
    boxes = dict.fromkeys(range(4, 9), (Box(100, 100, 400, 400),))
    anomalies = (Anomaly(AnomalyType.OBJECT, FrameRange(4, 8), boxes),) if row["abnormal"] else ()
    truth = VideoAnnotation(f"v{row['seed']}", 17, 16, SIZE, SIZE, anomalies=anomalies)
    pixels = np.random.default_rng(row["seed"]).integers(0, 256, (17, SIZE, SIZE, 3)).astype(np.uint8)
    return GrpoSample(truth, lambda indices: pixels[list(indices)])


def abnormal(start, end, box=None):
    boxes = dict.fromkeys(range(start, end + 1), (box,)) if box else {}
    anomaly = Anomaly(AnomalyType.OBJECT, FrameRange(start, end), boxes, reason="it bends")
    return format_report(TurnReport("abnormal", "It bends.", (anomaly,)), boxes=box is not None)


NORMAL = format_report(TurnReport("normal", "All well."))
SCANS = (NORMAL, abnormal(1, 2), abnormal(1, 1), abnormal(0, 3), "no json")
ZOOMS = (NORMAL, abnormal(0, 1, Box(100, 100, 400, 300)), abnormal(1, 1, Box(90, 90, 410, 410)), "{")


class Draws:
    """A generator that draws prepared answers with the trainer's random state: rewards differ, text is legible."""

    def __init__(self, trainer, scans=SCANS, zooms=ZOOMS):
        self.trainer, self.scans, self.zooms = trainer, scans, zooms

    def __call__(self, prompts, repeats, max_new_tokens):
        return [
            [self.one(prompt, max_new_tokens) for _ in range(n)] for prompt, n in zip(prompts, repeats, strict=True)
        ]

    def one(self, prompt, limit):
        tokenizer = self.trainer.processor.tokenizer
        answers = self.scans if "Scan" in tokenizer.decode(prompt.ids) else self.zooms
        pick = int(torch.randint(len(answers), (1,), generator=self.trainer.random))
        ids = tokenizer.encode(answers[pick] + tokenizer.eos_token, add_special_tokens=False)
        return Sampled(tuple(ids[:limit]), len(ids) <= limit)


def settings(folder, **changes):
    base = {
        "output_dir": str(folder),
        "max_steps": 4,
        "prompts_per_step": 2,
        "num_generations": 4,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "save_steps": 2,
        "log_samples_every": 0,
    }
    return GrpoConfig(**{**base, **changes})


@cache
def tiny():
    return build_judge("tiny")


def build(folder, *, rows=ROWS, load=load, generator=Draws, judge=JUDGE, **changes):
    model, processor = copy.deepcopy(tiny()[0]), tiny()[1]
    return GrpoTrainer(model, processor, rows, load, settings(folder, **changes), judge, generator=generator)


def weights(trainer):
    return {
        k: v.detach().clone() for k, v in trainer.accelerator.unwrap_model(trainer.policy).model.state_dict().items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def gradients(trainer, batches):
    trainer.policy.zero_grad()
    for batch in batches:
        trainer._backward(batch)
    return {n: p.grad.clone() for n, p in trainer.policy.named_parameters() if p.grad is not None}


def distance(a, b):
    assert a.keys() == b.keys()
    scale = max(float(v.abs().max()) for v in b.values())
    assert scale > 0
    return max(float((a[k] - b[k]).abs().max()) for k in a) / scale


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    trainer = build(tmp_path_factory.mktemp("run"))
    experience = trainer.collect()
    assert any(r.zooms for r in experience.records) and not all(r.zooms for r in experience.records)
    return trainer, experience


SLOW = pytest.mark.slow
#: Groups of two, for tests of the run and not of its groups.
PAIRS = {"num_generations": 2}
#: The run that is stopped, continued and damaged: checkpoints after half of its steps and after all.
LAST = draws(4, 2)
HALF = LAST // 2
RUN = {**PAIRS, "max_steps": LAST, "save_steps": HALF, "warmup_steps": draws(1, 0)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing stopped, and its first weights."""
    trainer = build(tmp_path_factory.mktemp("straight"), **RUN)
    start = weights(trainer)
    trainer.train()
    return trainer, start


# --- objective --------------------------------------------------------------------------------------------------------


def test_ratio_is_exactly_one_at_first(tmp_path):
    trainer = build(tmp_path, num_iterations=2, per_device_train_batch_size=3, **PAIRS)
    batches = trainer.micro_batches(trainer.collect())
    trainer.remember(batches)
    for batch in batches:
        assert torch.equal(trainer.policy(batch.rows)[0], batch.old)
        assert torch.equal(batch.old, batch.reference)


def test_rewards_and_advantages_are_those_of_the_paper(collected):
    _, experience = collected
    for k, sample in enumerate(experience.samples):
        expected = [total_reward(r.outcome(), sample.truth).total for r in experience.groups[k]]
        assert experience.rewards[k].tolist() == expected
    assert torch.equal(experience.advantages, group_advantages(experience.rewards))
    assert experience.total == 8


def test_gradient_is_that_of_the_written_out_objective(collected):
    """mu=1, beta=0: -(1/N) sum_i A_i (1/|y_i|) sum over the tokens of both turns of log pi."""
    trainer, experience = collected
    batches = trainer.micro_batches(experience)
    for batch in batches:
        batch.reference = None
    found = gradients(trainer, batches)
    trainer.policy.zero_grad()
    model, vision = trainer.policy.model, trainer.policy.vision_inputs
    loss = 0.0
    for record, advantage in zip(experience.records, experience.advantages.flatten().tolist(), strict=True):
        values = masked_log_probs(model, record.rows, vision).values
        assert len(values) == len(record.scan.ids) + sum(len(z.ids) for z in record.zooms)
        loss = loss - advantage * values.sum() / len(values) / len(experience.records)
    loss.backward()
    expected = {n: p.grad for n, p in trainer.policy.named_parameters() if p.grad is not None}
    assert distance(found, expected) < 1e-5


@pytest.mark.slow
def test_loss_does_not_depend_on_the_partition(collected):
    trainer, experience = collected
    whole = None
    for size, share in [(100, False), (5, True), (3, False), (1, False), (100, True)]:
        object.__setattr__(trainer.config, "per_device_train_batch_size", size)
        trainer.policy.options["share_prompts"] = share
        batches = trainer.micro_batches(experience)
        trainer.remember(batches)
        found = gradients(trainer, batches)
        whole = whole or found
        assert distance(found, whole) < 2e-6
    trainer.policy.options["share_prompts"] = False


def test_a_rollout_that_ended_after_turn_one_weighs_as_much(collected):
    trainer, experience = collected
    sums = dict.fromkeys(range(8), 0.0)
    for batch in trainer.micro_batches(experience):
        for row, part in zip(batch.rows, batch.weights.split([r.num_tokens for r in batch.rows]), strict=True):
            sums[row.rollout] += float(part.sum())
    assert list(sums.values()) == pytest.approx([1 / 8] * 8, abs=1e-6)


def test_equal_policies_have_no_kl_and_beta_pulls_back(collected):
    trainer, experience = collected
    batches = trainer.micro_batches(experience)
    for batch in batches:
        batch.advantages = torch.zeros_like(batch.advantages)
    trainer.remember(batches)
    still = gradients(trainer, batches)
    assert max(float(g.abs().max()) for g in still.values()) < 1e-7
    with torch.no_grad():
        trainer.reference.model.lm_head.weight.mul_(1.5)
    try:
        trainer.remember(batches)
        assert trainer._backward(batches[0])["kl"] > 0
    finally:
        with torch.no_grad():
            trainer.reference.model.lm_head.weight.div_(1.5)


@pytest.fixture
def without_kl(drawn_without_kl):
    """A trainer without a KL term, the batches of a step, and their gradient; its clip range is restored afterwards."""
    trainer, batches, plain = drawn_without_kl
    before = trainer.clip_max
    yield trainer, [replace(b) for b in batches], plain
    trainer.clip_max = before


@pytest.fixture(scope="module")
def drawn_without_kl(tmp_path_factory):
    trainer = build(tmp_path_factory.mktemp("without"), beta=0.0, **PAIRS)
    batches = trainer.micro_batches(trainer.collect())
    return trainer, batches, gradients(trainer, batches)


@pytest.mark.parametrize(
    ("gap", "changes", "factor"),
    [
        pytest.param(0.0, {}, 1.0, marks=pytest.mark.slow),
        pytest.param(0.3, {}, math.exp(0.3), marks=pytest.mark.slow),
        (-0.4, {}, math.exp(-0.4)),
        pytest.param(5.0, {}, 3.0, marks=pytest.mark.slow),
        pytest.param(5.0, {"vllm_importance_sampling_clip_max": 2.0}, 2.0, marks=pytest.mark.slow),
        (0.3, {"vllm_importance_sampling_correction": False}, 1.0),
    ],
)
def test_tokens_another_engine_drew_weigh_as_much_as_the_policy_would_draw_them(without_kl, gap, changes, factor):
    trainer, batches, plain = without_kl
    trainer.clip_max = replace(trainer.config, **changes).sampling_clip_max
    for batch in batches:
        batch.drawn = trainer.policy(batch.rows)[0].detach() - gap
        expected = pytest.approx(abs(gap) * len(batch.drawn), rel=1e-5, abs=1e-6)
        assert trainer._backward(batch)["sampling_gap"] == expected
    found = gradients(trainer, batches)
    assert distance(found, {k: factor * v for k, v in plain.items()}) < 1e-5


class Told(Draws):
    """Draws that say at what log-probability: minus the number of the token in the answer."""

    def one(self, prompt, limit):
        drawn = super().one(prompt, limit)
        return Sampled(drawn.ids, drawn.finished, tuple(-float(k) for k in range(len(drawn.ids))))


@pytest.mark.parametrize("context", ["fresh", "chat"])
def test_log_probabilities_of_the_engine_stay_with_their_tokens(tmp_path, context):
    trainer = build(tmp_path, generator=Told, context=context, per_device_train_batch_size=3)
    batches = trainer.micro_batches(trainer.collect())
    for batch in batches:
        expected = []
        for row in batch.rows:
            sampled = np.flatnonzero(row.mask)
            breaks = np.flatnonzero(np.diff(sampled) > 1) + 1  # a chat holds two answers
            expected += [-k for part in np.split(sampled, breaks) for k in range(len(part))]
        assert batch.drawn.tolist() == expected
    assert any(len(np.flatnonzero(np.diff(row.mask.astype(int)) > 0)) > 1 for b in batches for row in b.rows) == (
        context == "chat"
    )


def test_several_updates_move_the_ratio(tmp_path):
    trainer = build(tmp_path, num_iterations=3, learning_rate=1e-2, warmup_steps=0, prompts_per_step=1)
    _, numbers = trainer.run_step()
    assert numbers["policy/clip_low"] + numbers["policy/clip_high"] > 0 and numbers["policy/kl"] > 0
    assert trainer.schedule.last_epoch == 3 and trainer.step == 1


def test_no_reference_is_kept_without_kl(tmp_path):
    trainer = build(tmp_path, beta=0.0, **PAIRS)
    assert trainer.reference is None and trainer.reference_print == ""
    _, numbers = trainer.run_step()
    assert numbers["policy/kl"] == 0


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A trainer with LoRA after a step, and the batches of the next."""
    folder = tmp_path_factory.mktemp("lora")
    trainer = build(folder, use_lora=True, lora_r=4, learning_rate=1e-2, warmup_steps=0, **PAIRS)
    trainer.run_step()
    return trainer, trainer.micro_batches(trainer.collect())


def test_lora_reference_is_the_model_without_its_adapter(adapted):
    trainer, batches = adapted
    assert trainer.reference is None
    bare = tiny()[0]
    trainer.remember(batches)
    expected = masked_log_probs(bare, batches[0].rows, trainer.policy.vision_inputs).values
    assert torch.allclose(batches[0].reference, expected, atol=1e-6)
    assert (trainer.policy(batches[0].rows)[0] - expected).abs().max() > 1e-4


def test_frozen_vision_stays(tmp_path):
    trainer = build(tmp_path, freeze_vision=True, warmup_steps=0, **PAIRS)
    before = weights(trainer)
    trainer.run_step()
    after = weights(trainer)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved and not any(".visual." in k for k in moved)


def test_dropout_is_refused():
    model, _ = build_judge("tiny")
    check_no_dropout(model)
    model.model.language_model.layers[0].mlp.extra = torch.nn.Dropout(0.1)
    with pytest.raises(ValueError, match="dropout"):
        check_no_dropout(model)


# --- oracle -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [False, True])
def test_single_turn_loss_equals_trls(tmp_path, corrected):
    """TRL's own GRPO loss and gradients on the same tokens, images, advantages and reference."""
    from datasets import Dataset
    from trl import GRPOConfig as TrlConfig
    from trl import GRPOTrainer as TrlTrainer

    trainer = build(tmp_path / "ours", num_turns=1, num_iterations=2, use_bias_correction_kl=corrected)
    batches = trainer.micro_batches(trainer.collect())
    assert len(batches) == 1
    with torch.no_grad():
        trainer.reference.model.lm_head.weight.mul_(1.3)
    trainer.remember(batches)
    (batch,) = batches
    batch.old = batch.old + 0.3 * torch.randn(batch.old.shape, generator=torch.Generator().manual_seed(0))
    mine = gradients(trainer, batches)
    trainer.policy.zero_grad()
    loss = trainer._backward(batch)["loss"]

    model, processor = build_judge("tiny")
    args = TrlConfig(
        output_dir=str(tmp_path / "trl"),
        per_device_train_batch_size=8,
        num_generations=4,
        epsilon=0.2,
        loss_type="grpo",
        use_bias_correction_kl=corrected,
        use_cpu=True,
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
    )
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": "x"}]}] * 8)
    oracle = TrlTrainer(
        model, lambda completions, **_: [0.0] * len(completions), args, data, processing_class=processor
    )
    oracle.beta = 0.04  # given later: TRL would look for the reference on the hub
    oracle.model.train()
    oracle.current_gradient_accumulation_steps = 1
    inputs = trl_inputs(batch, processor, trainer.policy.vision_inputs)
    theirs = oracle._compute_loss(oracle.model, inputs)
    theirs.backward()
    assert loss == pytest.approx(float(theirs.detach()), abs=1e-6)
    expected = {f"model.{n}": p.grad for n, p in oracle.model.named_parameters() if p.grad is not None}
    assert distance(mine, expected) < 1e-5


def trl_inputs(batch, processor, vision):
    """A micro-batch of single-turn rows in the form of TRL: prompts padded left, completions padded right."""
    counts = [r.num_tokens for r in batch.rows]
    prompts = [torch.from_numpy(r.ids[~r.mask]) for r in batch.rows]
    pad = processor.tokenizer.pad_token_id

    def right(parts, value):
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    def left(parts, value):
        return right([p.flip(0) for p in parts], value).flip(1)

    answers = [torch.from_numpy(r.ids[r.mask]) for r in batch.rows]
    completion_ids, prompt_ids = right(answers, pad), left(prompts, pad)
    both = torch.cat([prompt_ids, completion_ids], 1)
    seen = [vision(r.pictures[0].frames) for r in batch.rows]
    spread = [right(list(v.split(counts)), 0.0) for v in (batch.old, batch.reference)]
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": left([torch.ones_like(p) for p in prompts], 0),
        "completion_ids": completion_ids,
        "completion_mask": right([torch.ones_like(a) for a in answers], 0),
        "advantages": torch.stack([v[0] for v in batch.advantages.split(counts)]),
        "old_per_token_logps": spread[0],
        "ref_per_token_logps": spread[1],
        "pixel_values": torch.cat([v["pixel_values"] for v in seen]),
        "image_grid_thw": torch.cat([v["image_grid_thw"] for v in seen]),
        "num_images": [len(r.pictures[0].frames) for r in batch.rows],
        "mm_token_type_ids": (both == processor.image_token_id).int(),
        "num_items_in_batch": torch.tensor(sum(counts)),
    }


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_same_run(tmp_path, straight, caplog):
    one, start = straight
    halted = build(tmp_path, **{**RUN, "max_steps": HALF, "lr_scheduler_type": "constant_with_warmup"})
    halted.train()
    resumed = build(tmp_path, **RUN)
    resumed.train()
    assert f"other settings than those of checkpoint-{HALF}: max_steps was {HALF}, now {LAST}" in caplog.text
    assert equal(weights(resumed), weights(one)) and not equal(weights(resumed), start)
    for a, b in zip(one.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    folders = tmp_path, Path(one.config.output_dir)
    lines, whole = ([json.loads(s) for s in (f / "metrics.jsonl").read_text().splitlines()] for f in folders)
    drop = [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in lines]
    assert drop == [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in whole]
    assert [p.name for p in sorted(tmp_path.glob("checkpoint-*"))] == [f"checkpoint-{HALF}", f"checkpoint-{LAST}"]


def test_checkpoints_hold_no_copy_of_the_reference(straight):
    folder = Path(straight[0].config.output_dir) / f"checkpoint-{LAST}"
    assert straight[0].reference is not None
    assert [p.name for p in folder.glob("*.safetensors")].count("model.safetensors") == 1
    assert not (folder / "model_1.safetensors").exists()


def test_a_checkpoint_of_another_run_is_refused(straight):
    folder = straight[0].config.output_dir
    with pytest.raises(TrainingCheckpointError, match="num_generations was 2 and is now 3"):
        build(folder, **{**RUN, "num_generations": 3}).train()
    with pytest.raises(TrainingCheckpointError, match=f"checkpoint-{LAST}"):
        build(folder, **RUN).train(resume=False)
    other = build(folder, **RUN)
    other.reference_print = "0" * 16
    with pytest.raises(TrainingCheckpointError, match="reference was"):
        other.train()


def test_a_run_goes_on_after_the_folder_of_its_videos_has_moved(tmp_path):
    trainer = build(tmp_path)
    trainer.dataset = [{"video": f"/here/{name}.mp4", "truth": "{}"} for name in "abc"]
    folder = trainer.save()
    trainer.dataset = [{**row, "video": row["video"].replace("here", "there/too")} for row in trainer.dataset]
    trainer.resume(folder)
    for change in ({"video": "/there/too/other.mp4"}, {"truth": "another"}):
        trainer.dataset[-1] = {**trainer.dataset[-1], **change}
        with pytest.raises(TrainingCheckpointError, match="dataset_ends was"):
            trainer.resume(folder)


@pytest.mark.slow
def test_a_failed_write_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    trainer = build(tmp_path, **PAIRS)
    trainer.run_step()
    first = trainer.save()
    before = {p.name: p.read_bytes() for p in first.iterdir()}
    trainer.run_step()
    (tmp_path / "checkpoint-2.partial").write_text("in the way of the folder")
    with pytest.raises(TrainingCheckpointError, match=r"checkpoint-1"):
        trainer.save()
    assert last_checkpoint(tmp_path) == first
    assert {p.name: p.read_bytes() for p in first.iterdir()} == before
    (tmp_path / "checkpoint-2.partial").unlink()
    build(tmp_path, max_steps=2, **PAIRS).train()
    assert last_checkpoint(tmp_path).name == "checkpoint-2"


def test_half_a_checkpoint_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-9.partial").mkdir()
    assert last_checkpoint(tmp_path) is None


def test_a_damaged_checkpoint_is_passed_over_or_refused_by_name(straight, tmp_path, caplog):
    """Every part in turn: the one before it serves; where none is whole, nothing begins anew in its place."""
    shutil.copytree(straight[0].config.output_dir, tmp_path / "run")
    newest, first = (tmp_path / "run" / f"checkpoint-{step}" for step in (LAST, HALF))
    parts = sorted(p.name for p in newest.iterdir())
    assert {"grpo_state.json", "model.safetensors", "optimizer.bin", "random_states_0.pkl"} < set(parts)
    assert grpo_checkpoint_fault(newest) is None
    for name in parts:
        kept = (newest / name).read_bytes()
        for damage in (kept[: len(kept) // 2], None):
            (newest / name).unlink()
            if damage is not None:
                (newest / name).write_bytes(damage)
            assert grpo_checkpoint_fault(newest) and last_checkpoint(tmp_path / "run") == first, name
        (newest / name).write_bytes(kept)
    assert f"{newest.name} is damaged" in caplog.text
    (newest / "grpo_state.json").write_text('{"step": 2, "num_processes": 1, "schedule": [], "config": 4}')
    assert "not one of stage 3" in grpo_checkpoint_fault(newest)
    (first / "optimizer.bin").unlink()
    with pytest.raises(TrainingCheckpointError, match=rf"{newest.name}' is damaged .*Remove them"):
        build(tmp_path / "run", **RUN).train()


def test_a_part_of_another_kind_is_named_and_not_a_traceback(straight, tmp_path):
    name = f"checkpoint-{HALF}"
    shutil.copytree(Path(straight[0].config.output_dir) / name, tmp_path / name)
    torch.save({"state": 3}, tmp_path / name / "optimizer.bin")
    with pytest.raises(TrainingCheckpointError, match=rf"{name}' cannot be continued from"):
        build(tmp_path, **RUN).train()


@pytest.mark.slow
def test_a_signal_ends_the_training_with_a_checkpoint_and_a_sentence(tmp_path, straight):
    class Stopped(Draws):
        def __call__(self, prompts, repeats, limit):
            if self.trainer.step == 2 and prompts:
                os.kill(os.getpid(), signal.SIGINT)
                type(self).__call__ = Draws.__call__
            return super().__call__(prompts, repeats, limit)

    with pytest.raises(Interrupted, match=r"after step 3 of 4; .*checkpoint-3") as ended:
        build(tmp_path, generator=Stopped, **PAIRS).train()
    assert ended.value.exit_code == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = build(tmp_path, **PAIRS)
    resumed.train()
    assert equal(weights(resumed), weights(straight[0]))


CHILD = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from tests.reward_model.training.grpo.test_grpo_trainer import build
build(sys.argv[1], max_steps=12, save_steps=2).train()
"""


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    torch.set_num_threads(1)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path / "killed")]
    child = subprocess.Popen(command, env=env, cwd=ROOT)
    deadline = time.monotonic() + 300
    while last_checkpoint(tmp_path / "killed") is None:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert last_checkpoint(tmp_path / "killed").name != "checkpoint-12"
    resumed = build(tmp_path / "killed", max_steps=12, save_steps=2)
    resumed.train()
    straight = build(tmp_path / "straight", max_steps=12, save_steps=2)
    straight.train()
    assert equal(weights(resumed), weights(straight))


def test_the_export_is_a_judge(adapted, tmp_path):
    from reward_model.backends.local import LocalBackend

    trainer, (batch, *_) = adapted
    trainer.judge_file = '{"prompts": "compact", "frame_size": 48}\n'
    expected = trainer.policy(batch.rows)[0].detach()
    backend = LocalBackend(trainer.export(tmp_path / "judge"), device="cpu")
    found = masked_log_probs(backend.model, batch.rows, stock_vision_inputs(backend.processor)).values
    assert torch.allclose(found, expected, atol=1e-4)
    assert load_judge_config(tmp_path / "judge").frame_size == 48


# --- failures ---------------------------------------------------------------------------------------------------------


def failing_load(row):
    sample = load(row)

    def frames(indices):
        if row["seed"] in (0, 1, 2):
            raise OSError("broken file")
        return sample.frames(indices)

    return GrpoSample(sample.truth, frames)


@pytest.mark.parametrize(
    ("scans", "zooms", "counted"),
    [
        (("no json",), ZOOMS, {"invalid/unparsable": 1.0, "rollouts/zero_variance": 1.0}),
        pytest.param((NORMAL,), ZOOMS, {"rollouts/turn_two": 0.0, "rollouts/zero_variance": 1.0}, marks=SLOW),
        ((abnormal(1, 1),), (abnormal(0, 0, Box(1, 1, 2, 2)),), {"window/one_frame": 1.0}),
        pytest.param((abnormal(30, 39),), ZOOMS, {"invalid/window": 1.0}, marks=SLOW),
    ],
)
def test_degenerate_steps_are_survived_and_counted(tmp_path, scans, zooms, counted):
    trainer = build(tmp_path, generator=lambda t: Draws(t, scans, zooms), **PAIRS)
    _, numbers = trainer.run_step()
    assert counted.items() <= numbers.items()
    assert all(math.isfinite(v) for v in numbers.values())


def test_unreadable_videos_are_counted_and_left_out(tmp_path):
    trainer = build(tmp_path, load=failing_load, prompts_per_step=6, **PAIRS)
    experience, numbers = trainer.run_step()
    assert numbers["rollouts/unscored"] == 0.5 and experience.total == 6
    assert all(math.isfinite(v) for v in numbers.values())
    assert sum(bool(r.rows) for r in experience.records) == 6


def test_nan_stops_the_run_and_names_the_last_checkpoint(tmp_path):
    trainer = build(tmp_path, **PAIRS)
    trainer.run_step()
    trainer.save()
    before = weights(trainer)
    batches = trainer.micro_batches(trainer.collect())
    batches[0].advantages[0] = math.nan
    with pytest.raises(DivergenceError, match=r"step 2: .*checkpoint-1"):
        trainer.update(batches)
    assert equal(weights(trainer), before)


def test_samples_are_shown_escaped_with_clips(tmp_path):
    evil = (abnormal(1, 2).replace("it bends", "<script>alert(1)</script>|`"),)
    trainer = build(tmp_path, max_steps=1, log_samples_every=1, generator=lambda t: Draws(t, evil, ZOOMS), **PAIRS)
    trainer.train()
    rows = [json.loads(s) for s in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and "<script>" in rows[0]["turn_one"]
    events = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b"<script>" not in events and b"&lt;script&gt;" in events
    clips = list((tmp_path / "samples").glob("*.gif"))
    assert clips and clips[0].read_bytes() in events, "the clip plays in TensorBoard too"


def test_clips_show_both_boxes(tmp_path):
    zoom = (abnormal(0, 1, Box(500, 500, 900, 900)),)
    trainer = build(tmp_path, generator=lambda t: Draws(t, (abnormal(1, 2),), zoom))
    experience = trainer.collect()
    shown = [(r, s) for g, s in zip(experience.groups, experience.samples, strict=True) for r in g if s.truth.anomalies]
    pictures = clip_pictures(shown[0][0], shown[0][1].truth)
    colours = {tuple(c) for c in np.stack(pictures).reshape(-1, 3).tolist()}
    assert (230, 60, 50) in colours and (60, 190, 90) in colours
    assert len(pictures) == len(shown[0][0].zooms[0].indices) and pictures[0].shape[0] == 144


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_generations": 1},
        {"beta": -0.1},
        {"epsilon": 0},
        {"scale_rewards": "std"},
        {"context": "none"},
        {"max_steps": 0},
        {"rescued_normal": 0.5},
        {"spatial_norm": "all"},
        {"max_scan_tokens": 0},
        {"vllm_gpu_memory_utilization": 1.0},
        {"vllm_max_model_length": 0},
        {"vllm_importance_sampling_clip_max": 0.0},
        {"loss_type": "dr_grpo"},
        {"use_lora": "yes"},
        {"seed": 1.5},
        {"weight_spatial": "five"},
        {"nonsense": 1},
    ],
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GrpoConfig.from_dict(wrong)


def test_settings_of_former_files_and_of_yaml():
    """The objective had a name when it could have had others; YAML reads 1e-4 as text."""
    assert GrpoConfig.from_dict({"loss_type": "grpo"}) == GrpoConfig()
    assert GrpoConfig.from_dict({"epsilon_high": "28e-2", "learning_rate": "1e-6", "beta": 0}).epsilon_high == 0.28


def test_groups_are_never_split(tmp_path):
    class Two:
        num_processes, process_index = 2, 0

    trainer = object.__new__(GrpoTrainer)
    trainer.config, trainer.dataset, trainer.accelerator = settings(tmp_path, prompts_per_step=3), ROWS, Two()
    with pytest.raises(ValueError, match="prompts_per_step=3"):
        trainer._check_sizes()


def test_every_prompt_comes_once_an_epoch(tmp_path):
    trainer = build(tmp_path, prompts_per_step=4)
    seen = [trainer.order(k) for k in range(12)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6)) and seen[:6] != seen[6:]


@pytest.mark.parametrize("name", ["mini", "mini_again", "mini_two_boxes", "mini_kinds", "full"])
def test_shipped_settings_are_valid(name):
    data = read_yaml(ROOT / "recipes" / "configs" / "stage3" / f"{name}.yaml")
    planned = plan_config(data)
    own = {k: data.pop(k) for k in OWN if k in data}
    config = GrpoConfig.from_dict(data)
    assert "model" in own and "data" in own
    JudgeConfig().override(**own.get("judge", {}))
    assert planned.stage == "stage3" and planned.steps == config.max_steps
    if name == "full":
        assert planned.num_gpus * planned.accumulation == 64 * 8
        assert planned.reference and (planned.vllm_share, planned.drawn_at_once) == (0.35, 0)
        alone = plan_config({**config.to_dict(), **own, "use_vllm": False})
        assert alone.drawn_at_once == 64 * 8 // planned.num_gpus and not alone.vllm_share
        # The longest answers are those of judge.json, about 21 frames and about the longest clip.
        assert (planned.longest_frames, planned.longest_answer) == (48, answer_limit(48))
        assert planned.drawn_tokens == answer_limit(21) + answer_limit(48) and planned.host_copies == 2
        assert config.vllm_max_model_length >= 48 * 400 + 1_200 + answer_limit(48)
        assert not plan_config({**config.to_dict(), "beta": 0.0}).reference
        assert (config.max_steps, config.prompts_per_step, config.num_generations, config.learning_rate) == (
            *(250, 64, 8),
            1e-6,
        )


def test_a_limit_below_what_was_taught_is_refused_before_anything_loads(tmp_path):
    (tmp_path / "judge.json").write_text('{"prompts": "compact", "max_scan_tokens": 300, "max_zoom_tokens": 400}')
    given = {"model": str(tmp_path), "data": {"source": "world", "rows": 2, "size": 48}}
    for wrong in ({"max_zoom_tokens": 399}, {"judge": {"max_scan_tokens": 200}}):
        with (
            pytest.raises(ValueError, match=r"max_(zoom|scan)_tokens=(399|200) is below the (400|300) .*null"),
            open_trainer({**given, **wrong}),
        ):
            pass
    # Where no number is set, limits follow the frames: 21 of a scan, and the longest clip.
    with pytest.raises(ValueError, match="max_scan_tokens=4096 is below the 7744"):
        check_limits(JudgeConfig(), JudgeConfig(max_scan_tokens=4096), 21)
    with pytest.raises(ValueError, match="max_zoom_tokens=9999 is below the 16384"):
        check_limits(JudgeConfig(), JudgeConfig(max_zoom_tokens=9999), 21)
    check_limits(JudgeConfig(), JudgeConfig(max_scan_tokens=7744, max_zoom_tokens=16384), 21)


def test_the_trained_judge_is_asked_as_it_was_trained(tmp_path):
    (tmp_path / "judge.json").write_text(
        '{"prompts": "compact", "max_new_tokens": {"scan": 9, "zoom": 8}, "aggregate": "joint"}'
    )
    known = load_judge_config(tmp_path)
    config = GrpoConfig(crop="per_window", context="clip_only", num_turns=1, max_zoom_tokens=99)
    asked = config.asked(known.override(window_margin="none", require_all_frames=True))
    text = judge_file(str(tmp_path), asked)
    (tmp_path / "judge.json").write_text(text)
    trained = load_judge_config(tmp_path)
    assert (trained.crop, trained.context, trained.num_turns) == ("per_window", "clip_only", 1)
    assert (trained.window_margin, trained.require_all_frames) == ("none", True)
    assert (trained.max_scan_tokens, trained.max_zoom_tokens, trained.aggregate) == (9, 99, "joint")
    assert config.reward_config(known).num_turns == 1 and GrpoConfig().reward_config(trained).num_turns == 1
    # A base model has no judge.json; that it was cropped without a margin must be written down.
    assert json.loads(judge_file("Qwen/none", JudgeConfig()))["window_margin"] == "none"


def test_every_setting_is_explained():
    text = "\n" + GrpoConfig.help_text()
    assert all(f"\n{n} = " in text for n in GrpoConfig().to_dict())


@pytest.mark.slow
def test_a_settings_file_becomes_a_run(tmp_path):
    """The recipe's path on a tiny checkpoint: world data, fast vision, real sampling, a step, an export."""
    model, processor = build_judge("tiny")
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    (tmp_path / "tiny" / "judge.json").write_text(
        '{"prompts": "compact", "frame_size": 48, "max_scan_tokens": 4, "max_zoom_tokens": 4}'
    )
    data = {"source": "world", "rows": 4}
    given = {"model": str(tmp_path / "tiny"), "data": data, "fast_vision": True, "output_dir": str(tmp_path / "out")}
    few = {"max_steps": 1, "prompts_per_step": 2, "num_generations": 2}
    with open_trainer({**given, **few}, fast_vision=fast_vision) as trainer:
        assert trainer.policy.model.config.vision_config._attn_implementation == EQUAL_IMAGES
        assert "2 prompts x 2 = 4 a step" in describe_run(trainer, given)
        batches = trainer.micro_batches(trainer.collect())
        trainer.remember(batches)
        assert all(torch.equal(b.reference, trainer.policy(b.rows)[0]) for b in batches)
        numbers = trainer.train()
        folder = trainer.export(tmp_path / "judge")
    assert numbers["invalid/truncated"] == 1.0 and numbers["length/turn_one"] == 4
    assert "equal_images" not in (folder / "config.json").read_text()
    assert load_judge_config(folder).max_scan_tokens == 4


# --- two processes ----------------------------------------------------------------------------------------------------

WORKER = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from tests.reward_model.training.grpo.test_grpo_trainer import TurnByTurn, build
trainer = build(sys.argv[1], prompts_per_step=4, per_device_train_batch_size=3, generator=TurnByTurn, max_grad_norm=0.0)
assert trainer.accelerator.num_processes == int(sys.argv[3])
batches = trainer.micro_batches(trainer.collect())
trainer.remember(batches)
trainer.optimizer.step = lambda *a, **k: None
trainer.optimizer.zero_grad = lambda *a, **k: None
trainer.update(batches)
model = trainer.accelerator.unwrap_model(trainer.policy)
if trainer.accelerator.is_main_process:
    save_file({{n: p.grad.contiguous() for n, p in model.named_parameters() if p.grad is not None}}, sys.argv[2])
"""


class TurnByTurn(Draws):
    """The same answers for the same prompt, whichever process asks."""

    def one(self, prompt, limit):
        tokenizer = self.trainer.processor.tokenizer
        answers = self.scans if "Scan" in tokenizer.decode(prompt.ids) else self.zooms
        seed = int(prompt.pictures[0].frames[0].astype(np.int64).sum())
        self.count = getattr(self, "count", {})
        self.count[seed] = self.count.get(seed, -1) + 1
        ids = tokenizer.encode(answers[(seed + self.count[seed]) % len(answers)] + tokenizer.eos_token)
        return Sampled(tuple(ids[:limit]), len(ids) <= limit)


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path):
    from safetensors.torch import load_file

    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    for count in (1, 2):
        launch(script, count, tmp_path / str(count), tmp_path / f"{count}.st", count)
    one, two = (load_file(tmp_path / f"{n}.st") for n in (1, 2))
    assert distance(two, one) < 1e-6


SHARDED = """
import copy, sys
sys.path.insert(0, {root!r})
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
torch.set_num_threads(1)
from reward_model.training.grpo.sampler import ModelSampler
from tests.reward_model.training.grpo.test_grpo_trainer import TurnByTurn, build
trainer = build(sys.argv[1], prompts_per_step=4, generator=TurnByTurn)
rank = dist.get_rank()
rows = trainer.micro_batches(trainer.collect())[0].rows
plain = trainer.accelerator.unwrap_model(trainer.policy)
sharded, mesh = copy.deepcopy(plain), init_device_mesh("cpu", (2,))
for module in sharded.modules():
    if type(module).__name__ in sharded._no_split_modules:
        fully_shard(module, mesh=mesh)
fully_shard(sharded, mesh=mesh)
assert torch.equal(sharded(rows)[0], plain(rows)[0])

def most(value):
    number = torch.tensor([value])
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return int(number)

prompts = list({{id(r.prompt): r.prompt for r in rows}}.values())[:2]
repeats, limit = ([2, 3], 9) if rank else ([1, 1], 6)
samplers = [
    ModelSampler(model.eval(), torch.Generator().manual_seed(rank), [3], batch_size=3, most=how)
    for model, how in ((sharded, most), (plain, int))
]
first, second = (one(prompts, repeats, limit) for one in samplers)
assert first == second
# A process without a question takes part in the others' forward passes.
assert len(samplers[0](prompts if rank else [], repeats if rank else [], 4)) == 2 * rank

# A layer of one process runs out of memory: both processes halve, and draw what smaller batches would have drawn.
layers = [m for m in sharded.modules() if type(m).__name__.endswith("TextDecoderLayer")]
attention = layers[1].self_attn
whole = attention.forward
def narrow(hidden_states, *args, **options):
    if rank == {short} and len(hidden_states) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return whole(hidden_states, *args, **options)
attention.forward = narrow
short, small = (
    ModelSampler(model.eval(), torch.Generator().manual_seed(rank), [3], batch_size=size, most=how)
    for model, size, how in ((sharded, 3, most), (plain, 1, int))
)
answers = short(prompts, repeats, limit)
assert short.batch_size == 1, short.batch_size
assert answers == small(prompts, repeats, limit)
"""


@pytest.mark.slow
@pytest.mark.parametrize("short", [0, 1])
def test_sharded_weights_give_the_same_values_and_answers(tmp_path, short):
    """FSDP2 on the CPU: unequal numbers of prompts, answers and tokens in two processes must not wait for each other
    for ever, nor must a process with memory for one that is ``short`` of it.
    """
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.format(root=str(ROOT), short=short))
    launch(script, 2, tmp_path / "out")
