"""Samples of stages 1 and 2: kept in the run's folder, once a step, and shown where ``report_to`` says."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from reward_model.conversation import Message
from reward_model.data.example import Example
from reward_model.training.sft.samples import SampleCallback

FRAMES = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), dtype=np.uint8)


class Answering(SampleCallback):
    """Answers without a model, which what is kept and shown does not depend on."""

    def answer(self, model, example):
        return f"{model} | <b>"


def example(row):
    return Example((Message("user", ("look", *FRAMES)),), f"expected of {row['n']}")


def evaluated(folder, report_to, step, model):
    samples = Answering(None, example, [{"n": 0}, {"n": 1}], folder)
    args = TrainingArguments(str(folder), report_to=report_to, use_cpu=True)
    samples.on_evaluate(args, TrainerState(global_step=step, is_world_process_zero=True), TrainerControl(), model=model)
    samples.on_train_end(args, TrainerState(), TrainerControl())


def lines(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_samples_are_kept_without_a_tracker_and_no_tracker_is_opened(tmp_path):
    evaluated(tmp_path / "s", "none", 4, "first")
    rows = lines(tmp_path / "s")
    assert [(r["step"], r["sample"], r["expected"], r["answer"]) for r in rows] == [
        (4, k, f"expected of {k}", "first | <b>") for k in (0, 1)
    ]
    assert all((tmp_path / "s" / r["video"]).read_bytes().startswith(b"GIF8") for r in rows)
    assert not (tmp_path / "s" / "tensorboard").exists()


def test_a_run_that_goes_on_makes_the_samples_of_a_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, model in ((2, "first"), (4, "killed after this"), (4, "again")):
        evaluated(tmp_path, "tensorboard", step, model)
    assert [(r["step"], r["answer"].split(" |")[0]) for r in lines(tmp_path)] == [
        *[(2, "first")] * 2,
        *[(4, "again")] * 2,
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["images"]) == ["samples/0", "samples/1"]


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_the_open_run_of_trackio_shows_them(tmp_path):
    import trackio
    import trackio.utils

    trackio.init(project="samples-of-a-test")
    evaluated(tmp_path / "s", "trackio", 4, "first")
    trackio.finish()
    [database] = trackio.utils.TRACKIO_DIR.rglob("samples-of-a-test.db")
    with sqlite3.connect(database) as connection:
        told = b"".join(v for row in connection.execute("SELECT * FROM metrics") for v in row if isinstance(v, bytes))
    assert b"samples/1" in told and b"trackio.video" in told and b"expected of 1" in told


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_the_open_run_of_wandb_shows_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    import wandb

    wandb.init(project="samples-of-a-test", dir=tmp_path)
    evaluated(tmp_path / "s", "wandb", 4, "first")
    wandb.finish()
    assert len(list((tmp_path / "wandb").rglob("*.gif"))) == 2
