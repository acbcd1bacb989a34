"""Stage 3 as users run it: the command line, the plan of the mini, and the card beside the judge."""

import json

import pytest

from reward_model.training.grpo_card import SHOWN, last_numbers
from reward_model.training.mini_config import build_judge

STEP = ["max_steps=1", "prompts_per_step=2", "num_generations=2", "per_device_train_batch_size=16"]


@pytest.fixture
def recipe(load_recipe):
    return load_recipe("stage3_grpo")


@pytest.fixture
def tiny(tmp_path):
    model, processor = build_judge("tiny")
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    settings = {"prompts": "compact", "frame_size": 48, "max_scan_tokens": 4, "max_zoom_tokens": 4, "demo_scale": True}
    (tmp_path / "tiny" / "judge.json").write_text(json.dumps(settings))
    return tmp_path / "tiny"


@pytest.mark.parametrize("lora", ["false", "true"])
def test_both_sets_count_and_a_card_lies_beside_the_judge(recipe, tiny, tmp_path, lora):
    from huggingface_hub import ModelCard

    first = ["--set", f"model={tiny}", f"output_dir={tmp_path / 'out'}", *STEP]
    second = ["--set", "data={source: world, rows: 4}", f"use_lora={lora}", "lora_r=2"]
    recipe.main([*first, *second])
    card = ModelCard.load(tmp_path / "out" / "judge" / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and "stage3" in card.data.tags
    assert f"after stage3 (two-turn GRPO), started from `{tiny}`" in card.text
    assert "4 prompts of source 'world' (rows 4)" in card.text and "Demonstration scale" in card.text
    assert "| steps | 1 |" in card.text and "2 prompts x 2 rollouts" in card.text
    assert "r=2" in card.text if lora == "true" else "| LoRA | no |" in card.text
    logged = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"| reward | {logged['reward/mean']:.4g} |" in card.text and "training prompts" in card.text


def test_a_finished_run_that_is_exported_again_keeps_its_numbers(recipe, tiny, tmp_path):
    arguments = ["--set", f"model={tiny}", f"output_dir={tmp_path / 'out'}", *STEP, "data.rows=4"]
    recipe.main(arguments)
    card = tmp_path / "out" / "judge" / "README.md"
    before = card.read_text()
    card.write_text("old")
    recipe.main(arguments)
    assert card.read_text() == before and "Measured during training" in before


def test_without_a_log_nothing_was_measured(tmp_path):
    assert last_numbers(tmp_path) == {}
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 2}\n{"step": 2, "reward/mean": 3.5}\n')
    assert last_numbers(tmp_path) == {SHOWN["reward/mean"]: 3.5}


def test_the_plan_of_the_mini_speaks_of_no_gpu(recipe, capsys):
    recipe.main(["--dry-run"])
    text = capsys.readouterr().out
    assert "64 samples a step x 300 steps" in text and "on the CPU" in text
    assert "GPU" not in text and "TFLOP" not in text and "of peak" not in text
