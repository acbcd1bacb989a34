"""The training on pairs with a tiny real pipeline: it learns, goes on bit for bit, and refuses what cannot work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError, last_finished_checkpoint
from cac_align.flow_grpo.output_folder import OutputError
from cac_align.preference.plan import check_model_size
from cac_align.preference.trainer import PreferenceTrainer
from reward_model.video.writing import write_video
from tests.cac_align.flow_grpo.runs import equal, shallow_pipe, weights
from tests.cac_align.preference.pairs import build, settings, video, write
from tests.campaigns import slow_but
from tests.launched import ROOT, launch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write(tmp_path_factory.mktemp("others"), (3, 4))


def lines(folder):
    rows = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in rows]


@pytest.mark.parametrize(
    "more", slow_but([{}, {"localised": True}, {"objective": "sft"}], {}), ids=["plain", "localised", "winners"]
)
def test_a_resumed_run_is_the_same_run(listed, others, tmp_path, more):
    options = {"max_steps": 2, "save_every": 1, "warmup_steps": 2, **more}
    if not more:  # whatever the objective, one way of measuring
        options |= {"eval_pairs": str(others), "eval_every": 2}
    straight = build(tmp_path / "a", listed, **options)
    start = weights(straight)
    straight.train()
    build(tmp_path / "b", listed, **options | {"max_steps": 1}).train()
    torch.manual_seed(99)  # a new process starts somewhere else
    np.random.seed(99)
    shutil.copytree(listed.parent, tmp_path / "moved")  # equal content is the same, wherever it lies
    resumed = build(tmp_path / "b", tmp_path / "moved" / "pairs.jsonl", **options)
    resumed.train()
    assert equal(weights(resumed), weights(straight)) and not equal(weights(resumed), start)
    for a, b in zip(straight.learner.ema.shadow_params, resumed.learner.ema.shadow_params, strict=True):
        assert torch.equal(a, b)
    for name in straight.learner.parameters:
        a, b = (t.learner.optimizer.optimizer.state[t.learner.parameters[name]] for t in (straight, resumed))
        assert all(torch.equal(a[k], b[k]) for k in ("exp_avg", "exp_avg_sq", "step"))
    training = [[row for row in lines(tmp_path / run) if "policy/loss" in row] for run in "ab"]
    assert training[0] == training[1] and len(training[0]) == 2
    assert resumed.history[-1] == straight.history[-1] if not more else resumed.history == []


@pytest.mark.slow
def test_another_run_is_refused(listed, tmp_path):
    shutil.copytree(listed.parent, tmp_path / "pairs")
    pairs = tmp_path / "pairs" / "pairs.jsonl"
    first = build(tmp_path / "run", pairs, max_steps=1)
    first.train()
    with pytest.raises(TrainingCheckpointError, match="holds checkpoint-1; resume it"):
        first.train(resume=False)
    with pytest.raises(TrainingCheckpointError, match="objective was 'dpo' and is now 'sft'"):
        build(tmp_path / "run", pairs, objective="sft").train()
    with pytest.raises(TrainingCheckpointError, match="belongs to another run: ") as refused:
        build(tmp_path / "run", pairs, beta=500.0, learning_rate=0.5).train()
    assert "beta was 2000.0 and is now 500.0" in str(refused.value) and "learning_rate was 0.01" in str(refused.value)
    write_video(tmp_path / "pairs" / "videos" / "rejected-0.mp4", video(False, 9), 16)
    with pytest.raises(TrainingCheckpointError, match="pairs_digest was"):
        build(tmp_path / "run", pairs).train()


@pytest.mark.slow
def test_samples_export_and_card(listed, others, tmp_path):
    """The base model is drawn once, the trained one when it is due; the LoRA loads back; the card says what it is."""
    options = {"max_steps": 2, "log_videos_every": 2, "num_samples": 1, "eval_pairs": str(others), "eval_every": 1}
    trainer = build(tmp_path / "run", listed, **options)
    trainer.train()
    drawn = sorted(str(p.relative_to(tmp_path / "run" / "videos")) for p in (tmp_path / "run").rglob("videos/*/*.mp4"))
    assert drawn == ["step-00000/sample-000-base.mp4", "step-00002/sample-000-trained.mp4"]
    assert [entry["step"] for entry in trainer.history] == [1, 2] and "accuracy" in trainer.history[0]
    folder = trainer.export(tmp_path / "lora")
    clips = trainer.learner.term.clips
    inputs = {
        "hidden_states": clips[0][None],
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": trainer.texts.batch([clips.clips[0].prompt]),
        "return_dict": False,
    }
    with torch.no_grad():
        with trainer.learner.averaged_weights():
            expected = trainer.transformers[0](**inputs)[0]
        fresh = shallow_pipe()
        before = fresh.transformer(**inputs)[0]
        fresh.load_lora_weights(folder)
        found = fresh.transformer(**inputs)[0]
    assert (found - expected).abs().max() < 1e-6 < (before - expected).abs().max()
    assert {p.name for p in folder.iterdir()} >= {"lora_comfyui.safetensors", "settings.yaml"}
    card = (folder / "README.md").read_text()
    for said in ("trained on 3 pairs of a chosen and a rejected", "beta 2000", "2 steps of 2", "pairs told right"):
        assert said in card
    assert "- dpo\n" in card and "flow-grpo" not in card and "Of 2 pairs that it was not trained on" in card


def test_the_card_of_winners_says_that_nothing_was_measured(listed, tmp_path):
    trainer = build(tmp_path / "run", listed, objective="sft", max_steps=1)
    trainer.train()
    card = (trainer.export(tmp_path / "lora") / "README.md").read_text()
    assert "trained on 3 chosen videos (supervised fine-tuning" in card and "No pairs were measured" in card


@pytest.mark.slow
def test_ctrl_c_saves_the_step_and_ends(listed, tmp_path):
    trainer = build(tmp_path, listed, max_steps=4, save_every=4)
    learn = trainer.learner.learn
    trainer.learner.learn = lambda step: (os.kill(os.getpid(), signal.SIGINT) if step == 1 else None, learn(step))[1]
    trainer.train()
    assert trainer.step == 2 and trainer.interrupted == signal.SIGINT
    assert last_finished_checkpoint(tmp_path).name == "checkpoint-2"


def test_what_cannot_be_trained_is_refused_before_a_model_loads(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "cac_align.preference.trainer.load_pipeline", lambda *args, **kwargs: pytest.fail("a model was loaded")
    )
    image = tmp_path / "image" / "model_index.json"
    image.parent.mkdir()
    image.write_text(json.dumps({"_class_name": "WanImageToVideoPipeline"}))
    (tmp_path / "file").write_text("")
    for changes, kind, said in (
        ({"pairs": "gone.jsonl"}, ValueError, "pairs='gone.jsonl': no file at that path"),
        ({"model": "outputs/no-such"}, ValueError, r"model: outputs/no-such \(no such folder\)"),
        ({"sample_prompts": "gone.txt"}, ValueError, "sample_prompts='gone.txt': "),
        ({"frozen_adapter": "gone"}, ValueError, r"frozen adapter: gone \(no LoRA\)"),
        ({"guidance_scale": 3.0, "guidance_scale_2": 2.0}, ValueError, "guidance_scale_2=2 is that of a second expert"),
        ({"output_dir": str(tmp_path / "file" / "run")}, OutputError, "a part of this path is a file"),
    ):
        with pytest.raises(kind, match=said):
            made = settings(tmp_path / "run", changes.pop("pairs", listed), **{"model": "assets/wan-mini", **changes})
            PreferenceTrainer(made)
    with pytest.raises(ValueError, match="is a WanImageToVideoPipeline, and pairs have no first frames"):
        PreferenceTrainer(settings(tmp_path / "run", listed, model=str(image.parent)))
    with pytest.raises(ValueError, match="height=16 must be a multiple of 32 for Wan-AI/Wan2"):
        check_model_size(settings(tmp_path / "run", listed, model="Wan-AI/Wan2.2-TI2V-5B-Diffusers"))
    with pytest.raises(ValueError, match="config must be a PreferenceConfig, got dict"):
        PreferenceTrainer({})


# --- the recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "modules"), slow_but([("mini", 48), ("wan21_1p3b", 240)], ("mini", 48)))
def test_presets_are_planned_without_weights(load_recipe, monkeypatch, capsys, preset, modules):
    monkeypatch.chdir(ROOT)
    assert load_recipe("preference").main(["--config", preset, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{modules} modules" in said and "GiB estimated per process" in said
    assert "missing: the run would stop here" in said


def test_the_plan_counts_pairs_and_forwards(load_recipe, listed, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    size = ["height=16", "width=16", "num_frames=5", "batch_size=6", "max_steps=10", f"pairs={listed}"]
    load_recipe("preference").main(["--dry-run", "--set", *size])
    said = capsys.readouterr().out
    assert f"pairs       3 of {listed}; 6 a step over 1 process(es)" in said and "missing" not in said
    assert "forwards    12 to train and 12 of the reference, per step" in said and "20.00 passes over the pairs" in said
    load_recipe("preference").main(["--dry-run", "--set", *size, "objective=sft"])
    said = capsys.readouterr().out
    assert "winners     3 of" in said and "forwards    6 to train, per step" in said


# --- what takes longer ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_trained_model_tells_other_pairs_right(listed, others, tmp_path):
    """DPO lowers the error on chosen videos against that on rejected ones; fine-tuning lowers that on winners."""
    trainer = build(tmp_path / "dpo", listed, eval_pairs=str(others), max_steps=40, eval_every=40, ema_decay=0.0)
    trainer.train()
    assert trainer.history[-1]["accuracy"] > 0.8 and trainer.history[-1]["margin"] > 0
    trainer = build(
        tmp_path / "sft",
        listed,
        objective="sft",
        eval_pairs=str(others),
        max_steps=40,
        eval_every=40,
        ema_decay=0.0,
    )
    trainer.train()
    assert trainer.history[-1]["chosen_gain"] > 0


CHILD = """
import sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.cac_align.preference.pairs import build
build(Path(sys.argv[1]), Path(sys.argv[2]), max_steps=12, save_every=2, localised=True).train()
"""


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(listed, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", CHILD.format(root=str(ROOT)), str(tmp_path / "killed"), str(listed)]
    child = subprocess.Popen(command, env=env, cwd=ROOT)
    deadline = time.monotonic() + 600
    while last_finished_checkpoint(tmp_path / "killed") is None:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert last_finished_checkpoint(tmp_path / "killed").name != "checkpoint-12"
    options = {"max_steps": 12, "save_every": 2, "localised": True}
    resumed = build(tmp_path / "killed", listed, **options)
    resumed.train()
    straight = build(tmp_path / "straight", listed, **options)
    straight.train()
    assert equal(weights(resumed), weights(straight))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_two_processes_do_what_one_does(listed, tmp_path, objective):
    """Three pairs a step do not divide by two: the process with one fewer fills up and counts nothing twice."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from tests.cac_align.preference.pairs import build\n"
        "trainer = build(Path(sys.argv[1]), Path(sys.argv[2]), objective=sys.argv[3], max_steps=2, batch_size=3,\n"
        "                train_batch_size=1, text_cache=None)\n"
        "trainer.train()\n"
        "trainer.export(Path(sys.argv[1]) / 'lora')\n"
    )
    launch(script, 2, tmp_path / "two", listed, objective)
    single = build(tmp_path / "one", listed, objective=objective, max_steps=2, batch_size=3, train_batch_size=1)
    single.train()
    from safetensors.torch import load_file

    found = load_file(tmp_path / "two" / "checkpoint-2" / "lora.safetensors")
    wanted = weights(single)
    # AdamW moves a weight by the sign of its gradient, which rounding decides where the gradient is next to nothing.
    apart = torch.cat([(found[name] - value).flatten() for name, value in wanted.items()])
    size = torch.cat([value.flatten() for name, value in wanted.items() if "lora_B" in name])  # zero at the start
    assert apart.norm() / size.norm() < 1e-2
    two, one = lines(tmp_path / "two"), lines(tmp_path / "one")
    assert [row["policy/loss"] for row in two] == pytest.approx([row["policy/loss"] for row in one], abs=1e-3)
