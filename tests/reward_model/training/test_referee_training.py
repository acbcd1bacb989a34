"""Training of a referee: its samples of annotated videos, the recipe from settings to a folder, kill -9, processes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file

from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, write_annotations
from reward_model.engine.guards import last_complete_checkpoint
from reward_model.evidence.model_referee import VLMReferee
from reward_model.evidence.practice import WAYS
from reward_model.minis.referee import practice_rows, world_practice
from reward_model.prompts.referee import parse_grades
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.training.referee import annotated_practice, thinned_truth
from reward_model.video.writing import write_video
from tests.campaigns import Scale, draws
from tests.launched import ROOT

SMOKE = str(ROOT / "recipes" / "configs" / "referee" / "smoke.yaml")
BOXED = Anomaly(
    AnomalyType.OBJECT, FrameRange(4, 11), dict.fromkeys(range(4, 12), (Box(100, 100, 400, 400),)), ("ball",), "", "it"
)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Twenty-four frames of noise, abnormal in the middle, and a normal video."""
    folder = tmp_path_factory.mktemp("footage")
    rng = np.random.default_rng(0)
    normal = VideoAnnotation("b", 24, 8, 64, 48)
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", rng.integers(0, 256, (24, 48, 64, 3)).astype(np.uint8), 8)
    truths = {"a": replace(normal, video_id="a", anomalies=(BOXED,)), "b": normal}
    write_annotations(folder / "boxes.jsonl", [Record(f"{n}.mp4", t) for n, t in truths.items()])
    bare = replace(truths["a"], anomalies=(replace(BOXED, boxes={}),))
    write_annotations(folder / "bare.jsonl", [Record("a.mp4", bare), Record("b.mp4", normal)])
    return folder


def stage(data, **changes):
    given = {"data": str(data), "disjoint": False, "held_out": 0.0, "cache_dir": "none", "samples": 40}
    return SimpleNamespace(**{**given, **changes})


CONFIG = SimpleNamespace(data_seed=0, output_dir="unused")


def test_annotated_videos_give_claims_about_their_own_frames(footage):
    data = annotated_practice(stage(footage / "boxes.jsonl"), CONFIG, JudgeConfig())
    assert len(data.rows) == 40 and data.held_out is None and "40 claims about 1 abnormal videos" in data.summary
    grades = set()
    for row in data.rows:
        example = data.load(row)
        [message] = example.conversation
        frame, crop = (p for p in message.content if not isinstance(p, str))
        assert frame.shape == (48, 64, 3) and max(crop.shape) == 384
        assert "abnormal: Object Distortion" in str(message.content)
        grades.add(parse_grades(example.answer))
    assert {(2, 2), (2, 1), (2, 0), (0, 0)} <= grades
    small = JudgeConfig(prompts="compact", frame_size=48, frame_fit="pad")
    example = annotated_practice(stage(footage / "boxes.jsonl", samples=None), CONFIG, small)
    assert len(example.rows) == 10
    pictures = [p for p in example.load(example.rows[0]).conversation[0].content if not isinstance(p, str)]
    assert [p.shape for p in pictures] == [(48, 48, 3)] * 2


def test_footage_without_boxes_cannot_train_a_referee(footage):
    with pytest.raises(ValueError, match=r"bare.jsonl: no anomaly has a box"):
        annotated_practice(stage(footage / "bare.jsonl"), CONFIG, JudgeConfig())


def test_few_frames_of_a_long_video_are_kept(footage):
    long = replace(BOXED, frames=FrameRange(100, 900), boxes=dict.fromkeys(range(100, 901), (Box(0, 0, 9, 9),)))
    truth, kept = thinned_truth(VideoAnnotation("v", 2000, 25, 64, 64, anomalies=(long,)))
    assert len(truth.anomalies[0].boxes) == 16 and len(kept) == 24 and kept == sorted(kept)
    assert {100, 900} <= set(kept) and min(kept) == 0 and max(kept) == 1999


@pytest.mark.slow
def test_the_recipe_writes_a_referee_with_its_card(load_recipe, tmp_path, capsys, monkeypatch):
    recipe = load_recipe("train_referee")
    assert recipe.main(["--config", SMOKE, "--output_dir", str(tmp_path / "r"), "--max_steps", "1"]) == 0
    assert f'VLMReferee("{tmp_path / "r"}")' in capsys.readouterr().out
    card = (tmp_path / "r" / "README.md").read_text()
    assert 'VLMReferee("<this folder>")' in card and "it is not a judge" in card and "CaCReward" not in card
    assert "| optimiser steps | 1 |" in card and "4 claims about procedural videos" in card
    assert list((tmp_path / "r" / "training").glob("**/events.out*"))
    referee = VLMReferee(tmp_path / "r", device="cpu")
    questions = [world_practice(row)[0] for row in practice_rows(3, first_seed=900_000)]
    assert all(o.error is None for o in referee.check(questions))
    checked = load_recipe("check_referee")
    words = ["--referees", str(tmp_path / "r"), "oracle:flip=0.2", "--claims", str(draws(60, 16))]
    words += [] if Scale.whole else ["--kinds", "squash", "split"]  # each kind costs hundreds of resamples
    assert checked.main([*words, "--output", str(tmp_path / "o")]) == 0
    tables = json.loads((tmp_path / "o" / "referees.json").read_text())
    assert set(tables["referees"]) == {"r", "oracle:flip=0.2"}
    text = (tmp_path / "o" / "referees.md").read_text()
    assert "Spearman of localisation" in text and all(f"claims: {way}" in text for way in WAYS[: draws(2, 1)])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("oracle:often", "takes settings such as oracle:flip=0.2"),
        ("oracle:flop=1", "unknown setting"),
        ("oracle:flip=2", "flip=2"),
        ("openai:", "needs a model"),
    ],
)
def test_a_referee_that_cannot_be_meant_is_refused(load_recipe, spec, said):
    with pytest.raises(ValueError, match=said):
        load_recipe("check_referee").referee_spec(spec)


def test_specs_of_referees(load_recipe):
    spec = load_recipe("check_referee").referee_spec
    name, remote = spec("big=openai:my-org/vlm@http://h:8000/v1")
    assert (name, remote.kind, remote.model, remote.base_url) == ("big", "openai", "my-org/vlm", "http://h:8000/v1")
    assert spec("outputs/referee-mini")[0] == "referee-mini" and spec("a=outputs/x")[1].model == "outputs/x"
    assert (spec("oracle")[0], spec("noisy=oracle:flip=0.25,seed=3")[1].seed) == ("oracle", 3)


# --- kill -9, two processes -------------------------------------------------------------------------------------------


def command(folder, steps, processes=1, **options):
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    given = {"output_dir": folder, "max_steps": steps, **options}
    words = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    return [*launch, str(ROOT / "recipes" / "train_referee.py"), "--config", SMOKE, *words]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(folder, *args, **options):
    subprocess.run(command(folder, *args, **options), check=True, env=ENVIRONMENT, capture_output=True)
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    child = subprocess.Popen(command(tmp_path / "killed", 6), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "training").is_dir() or not last_complete_checkpoint(
        tmp_path / "killed" / "training"
    ):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (tmp_path / "killed" / "config.json").exists()
    resumed, straight = run(tmp_path / "killed", 6), run(tmp_path / "straight", 6)
    assert resumed.keys() == straight.keys() and all((resumed[k] == straight[k]).all() for k in straight)


@pytest.mark.slow
def test_two_processes_train_like_one_that_accumulates(tmp_path):
    options = {"per_device_train_batch_size": 2, "save_steps": 3}
    one = run(tmp_path / "one", 3, 1, gradient_accumulation_steps=2, **options)
    two = run(tmp_path / "two", 3, 2, gradient_accumulation_steps=1, **options)
    worst = max((one[name] - two[name]).abs().max().item() for name in one)
    assert one.keys() == two.keys() and worst < 2e-6, worst
