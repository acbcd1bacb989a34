"""The one-file recipe: it runs, its update is the trainer's, and the files it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.loading import located_settings
from recipes.flow_grpo_minimal import MINI, PlainFlowGRPO
from reward_model.engine.settings import read_yaml
from tests.cac_align.flow_grpo.runs import PROMPTS, build, settings, shallow_pipe
from tests.cac_align.flow_grpo.toy_rewards import brightness
from tests.cac_align.flow_grpo.wan22 import a14b, ti2v_5b

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "recipes" / "flow_grpo_minimal.py"


@pytest.mark.parametrize("guidance", [3.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_its_update_is_the_trainers(tmp_path, guidance):
    """A group of equal rewards counts in neither. With a large epsilon AdamW's step follows the gradient's size."""

    def reward(videos, prompts=None, *, fps, **kwargs):
        same = prompts[0] == flat
        return [0.5] * len(videos) if same else brightness(videos, prompts, fps=fps, **kwargs)

    options = {"guidance_scale": guidance, "adam_eps": 1.0, "weight_decay": 0.0, "max_grad_norm": 1e6}
    options |= {"step_weighting": "inv_c", "batch": "2x2", "sample_batch_size": 2, "learning_rate": 0.1}
    config = settings(tmp_path, **options)
    plain = PlainFlowGRPO(config, reward, shallow_pipe(), PROMPTS)
    flat = PROMPTS[plain.sampler.step_samples(0, 0)[0].prompt_index]
    start = [p.detach().clone() for p in plain.parameters]
    scores = plain.step()
    trainer = build(tmp_path, reward=reward, **options)
    experience, _ = trainer.run_step()
    assert [row.score for row in experience.rows] == pytest.approx(scores, abs=1e-6)
    pairs = list(zip(plain.parameters, trainer.learner.parameters.values(), start, strict=True))
    moved = max(float((b - was).detach().abs().max()) for _, b, was in pairs)
    assert moved > 0 and max(float((a - b).detach().abs().max()) for a, b, _ in pairs) < 1e-2 * moved
    if guidance == 1.0:
        return
    after = [p.detach().clone() for p in plain.parameters]
    assert plain.step() and plain.done == 2
    assert any(not p.equal(was) for p, was in zip(plain.parameters, after, strict=True))


def test_it_names_files_that_exist():
    text = SCRIPT.read_text(encoding="utf-8")
    named = re.findall(r"\[saved: ([a-z][\w/]*(?:\.py)?)", text) + re.findall(r"``(\w[\w/]*\.py)``", text)
    assert len(set(named)) >= 8
    for name in named:
        assert (ROOT / "cac_align" / "flow_grpo" / name).exists() or (ROOT / "recipes" / name).exists(), name


@pytest.mark.slow
def test_it_trains():
    """Eight steps on the brightness of wan-mini's videos: their mean was 0.32 in the first three, 0.51 in the last."""
    small = {"num_frames": 5, "batch": "4x8", "sample_batch_size": 8, "learning_rate": 3e-3}
    rewards = {"rewards": ["tests.cac_align.flow_grpo.toy_rewards:brightness"], "reward_combination": "scores"}
    config = FlowGRPOConfig.from_dict(located_settings({**read_yaml(MINI), **small, **rewards}))
    run = PlainFlowGRPO(config, brightness)
    means = [sum(run.step()) / config.samples_per_step for _ in range(8)]
    assert sum(means[-3:]) / 3 > sum(means[:3]) / 3 + 0.1


@pytest.mark.slow
def test_two_steps_from_the_command_line(tmp_path):
    """From another folder, as an installed recipe is run."""
    command = [sys.executable, str(SCRIPT), "--steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^step (\d): reward (0\.\d{4}) \(8 videos\)$", done.stdout, re.M)
    assert [number for number, _ in lines] == ["1", "2"] and not list(tmp_path.iterdir())


def test_settings_it_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match="objective grpo"):
        PlainFlowGRPO(settings(tmp_path, objective="guard"), brightness, object(), PROMPTS)


def test_models_that_it_would_train_in_part_are_refused(tmp_path):
    for pipe in (a14b(), ti2v_5b()):
        with pytest.raises(ValueError, match="knows one transformer and one timestep a video"):
            PlainFlowGRPO(settings(tmp_path), brightness, pipe, PROMPTS)
