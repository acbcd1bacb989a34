"""Active evidence as users run it: the command lines, plans, cards, annotated footage, and what is refused at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace

import pytest
import yaml

from cac_align import CaCReward
from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, write_annotations
from reward_model.engine.settings import parse_settings
from reward_model.training.active.card import round_table
from reward_model.training.active.config import OWN, ActiveConfig
from reward_model.training.active.setup import active_plan_config, narrate_footage
from reward_model.training.active.videos import footage_loader, footage_rows
from reward_model.video.writing import write_video
from reward_model.world import make_video
from tests.launched import ROOT

PRESETS = ROOT / "recipes" / "configs" / "active"


@pytest.fixture
def recipe(load_recipe):
    return load_recipe("active")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, judge_folder):
    folder = shutil.copytree(judge_folder, tmp_path_factory.mktemp("tiny"), dirs_exist_ok=True)
    settings = {"prompts": "compact", "frame_size": 48, "max_zoom_tokens": 8, "demo_scale": True}
    (folder / "judge.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("preset", ["mini", "smoke", "full"])
def test_presets_name_settings_that_exist(preset):
    chosen = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text())
    config = ActiveConfig.from_dict({k: v for k, v in chosen.items() if k not in OWN})
    assert config.pairs_per_step % 2 == 0 and config.cold_batch % 2 == 0, "two processes can share it"
    JudgeConfig().override(**chosen["judge"])
    assert config.max_steps > 0 and active_plan_config(chosen).stage == "active evidence"


def test_plans_of_the_mini_and_of_full_size(recipe, capsys):
    recipe.main(["--dry-run"])
    mini = capsys.readouterr().out
    assert "on the CPU" in mini and "GPU" not in mini and "Inputs: all there." in mini
    recipe.main(["--config", "full", "--dry-run"])
    full = capsys.readouterr().out
    assert "2,127,532,032 parameters" in full and "64 frames x 390 visual tokens" in full
    assert "model 'Qwen/Qwen3-VL-2B-Instruct'" in full and "26,112 episodes" in full
    ddp = next(line for line in full.splitlines() if line.strip().startswith("DDP"))
    assert ddp.split()[-1] == "yes", "a whole model in each process"


def test_every_ablation_is_a_setting(recipe):
    base = recipe.settings(_parsed(recipe, []))
    names = {f.name for f in fields(ActiveConfig)}
    for name, changes in recipe.VARIANTS.items():
        assert set(changes) <= names
        chosen = recipe.settings(_parsed(recipe, ["--variant", name]))
        assert {k: chosen[k] for k in changes} == changes and chosen["output_dir"] == f"{base['output_dir']}-{name}"


def _parsed(recipe, arguments):
    return parse_settings(recipe.parser(), arguments, presets=PRESETS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--round-step", "3"], "unknown setting 'round_step'"),
        (["--beta", "0"], "beta=0"),
        (["--num-branches", "8"], "a branch needs an episode to leave"),
        (["--config", "large"], "--config 'large'"),
        (["--data.source", "world"], "source='world' must be 'aliasing' or 'annotations'"),
        (["--data.rows", "7"], "an even count=7"),
        (["--data.colour", "red"], "data: "),
        (["--judge.max_view_frames", "99"], "exceeds max_episode_frames"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_costly(recipe, tiny, arguments, said):
    with pytest.raises(ValueError, match=said):
        recipe.main(["--model", str(tiny), *arguments])


def test_a_run_folder_without_a_judge_is_refused(load_recipe, tmp_path):
    evaluate = load_recipe("evaluate_active")
    with pytest.raises(ValueError, match="holds no judge; give a run folder"):
        evaluate.main(["--run", str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="must be NAME=RUN_FOLDER"):
        evaluate.check([], ["x"])


@pytest.mark.slow
def test_smoke_run_card_reward_and_acceptance(recipe, load_recipe, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    recipe.main(
        ["--config", "smoke", "--model", str(tiny), "--output-dir", str(folder), "--judge.max_zoom_tokens", "8"]
    )
    assert "cold start  2 updates of 2 scripted episodes" in capsys.readouterr().out
    card = (folder / "judge" / "README.md").read_text()
    assert "interactive preference optimisation" in card and "Demonstration scale" in card
    assert "| round 1: mean utility |" in card and len(round_table(folder)) > 6
    assert CaCReward(folder / "judge", device="cpu").judge_model.config.policy == "active"
    evaluate = load_recipe("evaluate_active")
    arguments = ["--run", str(folder), "--videos", "4", "--dev", "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert evaluate.main(arguments) == 1
    said = capsys.readouterr().out
    assert "scripted oracle 1.0" in said and "not met" in said and "cold start" in said
    assert len(json.loads((tmp_path / "out" / "tables.json").read_text())) == 2


# --- annotated footage ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    records = []
    for k, kind in enumerate((None, "squash", None, "vanish")):
        frames, truth = make_video(k, kind, num_frames=33)
        write_video(folder / f"v{k}.mp4", frames, truth.fps)
        records.append(Record(f"v{k}.mp4", replace(truth, video_id=f"v{k}")))
    return write_annotations(folder / "annotations.jsonl", records)


def test_annotated_footage_gives_samples_and_scripted_answers(footage):
    judge = JudgeConfig(policy="active")
    rows, load = footage_rows(footage), footage_loader(judge)
    samples = [load(row) for row in rows]
    assert sorted(s.truth.status for s in samples) == ["abnormal", "abnormal", "normal", "normal"]
    for sample in samples:
        assert sample.part == (0, 32) and sample.frames([0, 7]).shape == (2, 48, 48, 3)
        assert (sample.window is None) == (sample.truth.status == "normal")
        report = narrate_footage(sample.truth, range(0, 33, 2))
        assert report.status == sample.truth.status and report.cot.startswith("Frame 0:")
        assert all(a.boxes for a in report.anomalies)
    short = footage_loader(judge.override(max_view_frames=3))
    parts = {short(row).part for row in rows}
    assert all(part[1] - part[0] < 32 for part in parts)
