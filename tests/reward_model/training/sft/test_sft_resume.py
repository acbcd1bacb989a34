"""A stopped training continues to the very same weights, bit for bit, and in the same order of samples."""

import os
import signal
from functools import cache

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from reward_model.engine.guards import last_complete_checkpoint
from reward_model.engine.interrupts import Interrupted
from reward_model.minis.model import build_judge
from reward_model.training.lora import lora_config
from reward_model.training.sft.trainer import AnswerCollator, run_sft, sft_config
from tests.reward_model.engine.test_guards import load


class PowerCut(Exception):
    pass


class CutAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise PowerCut


class SignalIn(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def train(folder, *, lora, seed=0, cut=None, batch=2, checkpointing=False, stopped_in=None, steps=4):
    """Four steps of shuffled samples, checkpoints every two; returns the weights and the order of the samples."""
    torch.manual_seed(seed)
    model, processor = build_judge("tiny", seed=seed)
    load.side = round(processor.image_processor.size["longest_edge"] ** 0.5)
    order = []

    def remember(row):
        order.append(row["id"])
        return load(row)

    config = sft_config(
        folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        warmup_steps=2,
        save_steps=2,
        report_to=[],
        bf16=False,
        gradient_checkpointing=checkpointing,
        use_cpu=True,
        disable_tqdm=True,
        num_train_epochs=3,
        seed=11,
    )
    rows = Dataset.from_list([{"id": k} for k in range(10)])
    peft = lora_config(r=2) if lora else None
    callbacks = [CutAfter(cut)] if cut else [SignalIn(stopped_in)] if stopped_in else []
    try:
        trainer = run_sft(
            model, processor, rows, AnswerCollator(processor, remember), config, callbacks=callbacks, peft_config=peft
        )
    except PowerCut:
        return None, order
    return {k: v.clone() for k, v in trainer.model.state_dict().items() if v.is_floating_point()}, order


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Gives weights and order of an uninterrupted run, with adapters or without; each is run once."""
    return cache(lambda lora: train(tmp_path_factory.mktemp("whole"), lora=lora))


@pytest.mark.slow  # a signal instead of a power cut: below, on every run
@pytest.mark.parametrize("lora", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, uninterrupted, lora):
    whole, order = uninterrupted(lora)
    _, before = train(tmp_path / "cut", lora=lora, cut=3)
    # Other initial adapters: what is loaded must be the checkpoint's. The base of LoRA is the same file in real runs.
    resumed, after = train(tmp_path / "cut", lora=lora, seed=0 if lora else 7)
    per_step = 2 * 2
    assert before == order[: len(before)], "the two runs drew different samples before the cut"
    assert after == order[2 * per_step :], "step 3 onwards must see what the whole run saw"
    assert len(set(order[:8])) == 8, "samples are shuffled without repetition within a pass"
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    assert len(resumed) == len(whole)


def test_a_signal_ends_a_training_with_a_checkpoint_and_a_sentence(tmp_path, uninterrupted):
    """In the middle of step 3, between two checkpoints: the step is finished, and nothing of it is done again."""
    whole, order = uninterrupted(True)
    with pytest.raises(
        Interrupted, match=r"after step 3 of 4; the same command continues from .*checkpoint-3"
    ) as ended:
        train(tmp_path / "cut", lora=True, stopped_in=3)
    assert ended.value.exit_code == 128 + signal.SIGTERM
    assert last_complete_checkpoint(tmp_path / "cut").name == "checkpoint-3"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "signals are heard while it trains only"
    resumed, after = train(tmp_path / "cut", lora=True)
    assert after == order[10:] and len(resumed) == len(whole)
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_lora_leaves_the_base_as_it_was_and_moves_every_part(tmp_path, uninterrupted, checkpointing):
    """Gradient checkpointing is where adapters of a frozen vision tower silently stop learning."""
    base = build_judge("tiny", seed=0)[0].state_dict()
    weights, _ = train(tmp_path, lora=True, checkpointing=True, steps=2) if checkpointing else uninterrupted(True)
    plain = {k.removeprefix("base_model.model.").replace(".base_layer", ""): v for k, v in weights.items()}
    assert all(torch.equal(v, base[k]) for k, v in plain.items() if k in base)
    moved = [k for k, v in weights.items() if "lora_B" in k and v.abs().sum() > 0]
    for part in ("visual.blocks", "visual.merger", "deepstack_merger_list", "language_model"):
        assert any(part in k for k in moved), f"no adapter of {part} has learnt anything"
