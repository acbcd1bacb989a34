"""Failures that really happen, made to happen: NaN weights, infinite gradients, a full disk, broken checkpoints, bad
data.
"""

import json
import resource
import shutil
import struct

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from reward_model.conversation import Message
from reward_model.data.example import Example
from reward_model.engine.guards import (
    TrainingStopped,
    check_lengths,
    check_rows,
    check_videos,
    checkpoint_fault,
    last_complete_checkpoint,
    safetensors_fault,
)
from reward_model.minis.model import build_judge
from reward_model.training.sft.trainer import AnswerCollator, run_sft, sft_config


def load(row):
    """A frame and an answer that follow from the row alone."""
    rng = np.random.default_rng(row["id"])
    side = load.side
    frame = rng.integers(0, 255, (side, side, 3), np.uint8)
    return Example((Message("user", (frame, "Scan.")),), '{"COT": "", "status": "normal", "anomalies": []}')


def train(folder, steps, *, callbacks=(), resume=True, save_steps=2, seed=0):
    model, processor = build_judge("tiny", seed=seed)
    load.side = round(processor.image_processor.size["longest_edge"] ** 0.5)
    config = sft_config(
        folder,
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        save_steps=save_steps,
        logging_steps=1,
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    rows = Dataset.from_list([{"id": k} for k in range(16)])
    return run_sft(model, processor, rows, AnswerCollator(processor, load), config, resume=resume, callbacks=callbacks)


class At(TrainerCallback):
    """Does something to the model when a step begins."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.action(model)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run of four steps with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    trainer = train(folder, 4)
    return folder, {k: v.clone() for k, v in trainer.model.state_dict().items()}


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    return tmp_path / "run"


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_a_poisoned_weight_stops_and_names_step_and_checkpoint(tmp_path):
    def poison(model):
        with torch.no_grad():
            model.get_input_embeddings().weight[:] = float("nan")

    with pytest.raises(TrainingStopped, match=r"loss is nan in step 3\..*checkpoint-2; the same command continues"):
        train(tmp_path, 6, callbacks=[At(2, poison)])
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-2"


def test_an_infinite_gradient_stops_before_the_weights_are_spoilt(tmp_path):
    seen = {}

    def spoil(model):
        weight = model.model.language_model.layers[0].mlp.up_proj.weight
        seen["before"] = weight.detach().clone()
        seen["weight"] = weight
        weight.register_hook(lambda g: g * float("inf"))

    with pytest.raises(TrainingStopped, match=r"gradient is not finite in step 1\. There is no earlier checkpoint"):
        train(tmp_path, 2, callbacks=[At(0, spoil)])
    assert torch.equal(seen["weight"], seen["before"])


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_removes_the_half_checkpoint_and_the_run_continues_exactly(run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(model):
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))

    try:
        with pytest.raises(TrainingStopped, match=r"checkpoint of step 4 could not be written.*checkpoint-2"):
            train(tmp_path, 4, callbacks=[At(2, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "checkpoint-4").exists() and checkpoint_fault(tmp_path / "checkpoint-2") is None
    model = train(tmp_path, 4, seed=5).model
    assert all(torch.equal(v, run[1][k]) for k, v in model.state_dict().items())


def test_complete_checkpoints_pass(run):
    assert checkpoint_fault(run[0] / "checkpoint-2") is None
    assert last_complete_checkpoint(run[0]).name == "checkpoint-4"
    assert last_complete_checkpoint(run[0] / "nothing here") is None


def header(entries, raw=False):
    """A safetensors file that is nothing but a header."""
    text = (entries if raw else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda p: (p / "trainer_state.json").unlink(), "trainer_state.json"),
        (lambda p: (p / "trainer_state.json").write_text('{"global_step": 4, "log'), "trainer_state.json"),
        (lambda p: (p / "trainer_state.json").write_text('{"global_step": 3}'), "of step 3"),
        (lambda p: (p / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda p: (p / "optimizer.pt").write_bytes((p / "optimizer.pt").read_bytes()[:-9]), "optimizer.pt is cut off"),
        (lambda p: (p / "scheduler.pt").unlink(), "scheduler.pt is missing"),
        (lambda p: (p / "scheduler.pt").write_bytes(b""), "scheduler.pt is cut off"),
        (lambda p: (p / "rng_state.pth").unlink(), "rng_state.pth is missing"),
        (lambda p: (p / "model.safetensors").write_bytes(header([1, 2])), "not one of a safetensors file"),
        (lambda p: (p / "model.safetensors").write_bytes(header({"a": {"data_offsets": "ab"}})), "not one of"),
        (lambda p: (p / "model.safetensors").write_bytes(header({"a": None})), "not one of"),
        (lambda p: (p / "model.safetensors").write_bytes(header("[" * 9999, raw=True)), "not JSON"),
        (lambda p: (p / "model.safetensors").unlink(), "no weights"),
        (lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-7]), "should be"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\xff\xff"), "cut off in its header"),
        (
            lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}'),
            "model-2.safetensors is missing",
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(copy, damage, fault, caplog):
    damage(copy / "checkpoint-4")
    assert fault in checkpoint_fault(copy / "checkpoint-4")
    assert last_complete_checkpoint(copy).name == "checkpoint-2"
    assert "checkpoint-4 is incomplete" in caplog.text


def test_a_part_of_another_kind_is_named_and_not_a_traceback(copy):
    """It looks whole, so it is tried; what its reader trips over becomes one sentence."""
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({"state": 3}, copy / "checkpoint-4" / name)
        with pytest.raises(TrainingStopped, match=r"checkpoint-4 cannot be continued from .* remove it"):
            train(copy, 6)


def test_every_shipped_weight_file_is_whole(run):
    assert safetensors_fault(run[0] / "checkpoint-4" / "model.safetensors") is None


# --- data -------------------------------------------------------------------------------------------------------------


def rows_of(normal, abnormal):
    return Dataset.from_list(
        [
            {"video": f"v{k}", "task": "scan", "status": "normal" if k < normal else "abnormal", "length": 10 * k}
            for k in range(normal + abnormal)
        ]
    )


def test_imbalance_and_emptiness_are_refused():
    assert check_rows(rows_of(5, 5)) == {"normal": 5, "abnormal": 5}
    with pytest.raises(ValueError, match=r"8 of 10 samples are normal \(80%\).*1:1"):
        check_rows(rows_of(8, 2))
    with pytest.raises(ValueError, match="has no row"):
        check_rows(rows_of(1, 0).select([]))


def test_long_samples_are_left_out_and_named(caplog):
    rows = rows_of(2, 2)
    kept, long = check_lengths(rows, lambda r: r["length"], 20)
    assert kept["video"] == ["v0", "v1", "v2"] and long == ["v3 (scan, 30 tokens)"]
    assert "v3 (scan, 30 tokens)" in caplog.text and "not cut" in caplog.text
    assert check_lengths(rows, lambda r: r["length"], None) == (rows, [])
    with pytest.raises(ValueError, match="all 4 samples are longer than max_tokens=-1"):
        check_lengths(rows, lambda r: r["length"], -1)


def test_missing_videos_are_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"1 of 2 video files are missing: .*b\.mp4"):
        check_videos([tmp_path / "a.mp4", tmp_path / "b.mp4"])


def test_the_state_file_that_counts_is_the_trainers_own(run):
    """The guard goes by trainer_state.json; should the Trainer ever write it before the weights, this must change."""
    folder = run[0] / "checkpoint-4"
    state = folder / "trainer_state.json"
    assert json.loads(state.read_text())["global_step"] == 4
    assert state.stat().st_mtime_ns >= max(p.stat().st_mtime_ns for p in folder.glob("*.safetensors"))
