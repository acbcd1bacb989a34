"""The recipes as users run them: their configurations, the dry run, training on own data, resuming after kill -9."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from reward_model.backends.local import LocalBackend
from reward_model.config import JudgeConfig, judge_json, load_judge_config
from reward_model.data.annotations import Record, read_annotations, write_annotations
from reward_model.engine.card import model_card
from reward_model.engine.guards import last_complete_checkpoint
from reward_model.judge import TwoTurnJudge
from reward_model.minis.model import build_judge
from reward_model.minis.stages import MINI
from reward_model.prompts import load_prompts
from reward_model.schema import Box, FrameRange
from reward_model.training.export import merge_adapter
from reward_model.training.missing import missing_inputs
from reward_model.training.plan import QWEN3_VL_8B_PARAMETERS
from reward_model.training.sft import config as stage_config
from reward_model.training.sft.data import stage_data
from reward_model.training.sft.left_out import unused_in_stage1
from reward_model.training.sft.model import judge_settings_of, load_model
from reward_model.training.sft.parts import STOCK
from reward_model.training.sft.run import LAUNCHER_SETS, run_stage
from reward_model.video.writing import write_video
from reward_model.world import make_video
from tests.campaigns import draws

ROOT = Path(__file__).resolve().parents[4]
CONFIGS = ROOT / "recipes" / "configs"
RECIPES = {"stage1": ROOT / "recipes" / "stage1_warmup.py", "stage2": ROOT / "recipes" / "stage2_sft.py"}
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


def parse_stage(arguments):
    """As the recipes do, with the options of the minis."""
    return stage_config.parse_stage(arguments, options=MINI.options)


def parsed(stage, size, *more):
    return parse_stage(["--config", str(CONFIGS / stage / f"{size}.yaml"), *ON_CPU, *more])


# --- configurations ---------------------------------------------------------------------------------------------------


def test_the_full_size_configurations_are_the_papers():
    stage, config, model = parsed("stage1", "full")
    assert (model.use_peft, model.lora_r, model.lora_target_modules) == (True, 32, None)
    assert (config.learning_rate, config.max_steps) == (1e-4, 9_330)
    assert model.model_name_or_path == "Qwen/Qwen3-VL-8B-Instruct" and stage.samples == 20_000 and stage.disjoint
    stage, config, model = parsed("stage2", "full")
    assert not model.use_peft and (config.learning_rate, config.max_steps) == (1e-4, 7_000)
    assert stage.samples == 35_000 and model.model_name_or_path == "outputs/stage1"
    assert not stage.untrimmed_windows, "clips are shorter than a second"


def test_a_judge_is_read_where_its_answers_were_trained(tmp_path):
    """Equation 7's own place unless a share of the answers gives its verdict at once."""
    (tmp_path / "judge.json").write_text('{"readouts": ["log_odds", "direct", "paper"], "window_margin": "half"}')
    shipped = load_judge_config(tmp_path)
    for name, given, expected in (
        ("full", JudgeConfig(), ("paper",)),
        ("full", shipped, ("paper",)),
        ("mini_own", shipped, ("log_odds", "direct", "paper")),
        ("mini_own", JudgeConfig(), ("paper", "direct", "log_odds")),
        ("mini", shipped, ("log_odds", "direct", "paper")),
    ):
        for stage in ("stage1", "stage2"):
            arguments, _, _ = parsed(stage, name)
            judge = judge_settings_of(arguments, given)
            assert judge.readouts == expected and judge.window_margin == given.window_margin
            (tmp_path / "judge.json").write_text(judge_json(judge))
            assert load_judge_config(tmp_path) == replace(judge, prompt_version=load_prompts(judge.prompts).version)
    asked = judge_settings_of(parsed("stage2", "full", "--window_margin", "half")[0], JudgeConfig())
    assert asked.window_margin == "half"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("stage[12]/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_configuration_parses_and_its_bf16_choice_is_its_own(path):
    parse_stage(["--config", str(path), "--dry-run"])
    text = path.read_text()
    if path.stem == "full":
        choices = [s for s in text.splitlines() if s.startswith(("per_device", "gradient_acc", "max_tokens"))]
        assert choices and all("ours" in line for line in choices), "not in the paper: must be marked"
        assert yaml.safe_load(text)["bf16"] is True


def test_an_unknown_setting_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("data: world\nlerning_rate: 1\n")
    with pytest.raises(ValueError, match="lerning_rate"):
        parse_stage(["--config", str(tmp_path / "a.yaml"), *ON_CPU])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--held_out 1.5", "held_out=1.5 must be a number of at least 0 and below 1; 0.05, for instance"),
        ("--samples 0", "samples=0 must be a whole number of at least 1, or null"),
        ("--samples x", "argument --samples: invalid int value: 'x'"),
        ("--domain_videos -1", "domain_videos=-1 must be a whole number of at least 0"),
        ("--scan_fps 0", "scan_fps=0.0 must be a number above 0 and at most 1,000"),
        ("--window_margin huge", "window_margin='huge' must be one of 'half', 'none'"),
        ("--matrix_lr -1", "matrix_lr=-1.0 must be a number of at least 0, or null"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_line_before_a_model_loads(given, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parsed("stage1", "mini", *given.split())


@pytest.mark.parametrize("word", ["on", "off", "jitter"])
def test_words_that_yaml_reads_as_true_and_false_are_choices(word, tmp_path):
    (tmp_path / "own.yaml").write_text(f"model_name_or_path: tiny\ngt_replace: {word}\ndisjoint: {word == 'on'}\n")
    stage, _, _ = parse_stage(["--config", str(tmp_path / "own.yaml"), *ON_CPU])
    assert (stage.gt_replace, stage.disjoint) == (word, word == "on")
    stage, _, _ = parse_stage(["--model_name_or_path", "tiny", "--set", f"gt_replace={word}", *ON_CPU])
    assert stage.gt_replace == word


def test_a_stage_without_the_minis_parts_names_what_it_lacks(tmp_path):
    """The library builds no mini and draws no world by itself; the same arguments with the parts work."""
    given = ["--output_dir", str(tmp_path), "--max_steps", "1", *ON_CPU]
    with pytest.raises(ValueError, match="unknown setting 'matrix_lr'"):
        stage_config.parse_stage([*given, "--model_name_or_path", "tiny", "--matrix_lr", "0.1"])
    stage, config, model = stage_config.parse_stage([*given, "--model_name_or_path", "tiny"])
    with pytest.raises(ValueError, match=r"data='world'.*name an annotations \.jsonl file"):
        stage_data("stage1", stage, config, None, JudgeConfig())
    with pytest.raises(ValueError, match="options=MiniArguments"):
        run_stage("stage1", stage, config, model, MINI)
    with pytest.raises(ValueError, match="'gpt' cannot be built from scratch"):
        STOCK.build("gpt", 0)


def test_the_dry_run_prints_the_plan_and_touches_nothing(tmp_path, capsys):
    assert run_stage("stage1", *planned("stage1", "full", "--output_dir", str(tmp_path / "o"))) is None
    text = capsys.readouterr().out
    assert "LoRA r=32 on 252 linear layers" in text and "ESTIMATE" in text and not (tmp_path / "o").exists()
    assert "8 GPUs" in text and "8 x 989 TFLOP/s" in text and "141 GiB" in text and text.count(" of peak") == 3
    run_stage("stage2", *planned("stage2", "full", "--num_gpus", "16"))
    text = capsys.readouterr().out
    assert f"{QWEN3_VL_8B_PARAMETERS:,} parameters" in text and "16 GPUs" in text


def planned(stage, size, *more):
    return parse_stage(["--config", str(CONFIGS / stage / f"{size}.yaml"), "--dry-run", *more])


def test_the_dry_run_says_what_is_missing(tmp_path, capsys):
    """A plan of something that cannot start would send people to rent machines."""
    run_stage("stage2", *planned("stage2", "full", "--cot", str(tmp_path / "cot.jsonl")))
    text = capsys.readouterr().out
    assert "Missing before it can start (3)" in text and "'data/annotations.jsonl': there is no such file" in text
    assert "'outputs/stage1': there is no such folder" in text and "cot.jsonl" in text
    run_stage("stage1", *planned("stage1", "mini"), MINI)
    assert "Inputs: all there." in capsys.readouterr().out
    (tmp_path / "data.jsonl").write_text("")
    assert missing_inputs(str(tmp_path), {"data": str(tmp_path / "data.jsonl"), "cot": None}) == []
    assert missing_inputs(None, {}) == ["no model is named"]


@pytest.mark.parametrize("stage", ["stage1", pytest.param("stage2", marks=pytest.mark.slow)])
def test_the_dry_run_of_a_cpu_configuration_speaks_of_the_cpu(stage, capsys):
    run_stage(stage, *planned(stage, "mini"), MINI)
    text = capsys.readouterr().out
    assert "on the CPU" in text and ("8,000 steps of the vision warm-up" in text) == (stage == "stage1")
    assert "GPU" not in text and "TFLOP" not in text and "of peak" not in text and "0.00 h" not in text
    run_stage(stage, *planned(stage, "mini", "--use_cpu", "false"), MINI)
    assert "8 GPUs" in capsys.readouterr().out


# --- own data ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """World videos as files with an annotation file: what a user brings."""
    folder = tmp_path_factory.mktemp("own")
    records = []
    for k in range(6):
        frames, truth = make_video(k, "squash" if k % 2 else None, num_frames=33)
        write_video(folder / f"{k}.mp4", frames, truth.fps)
        split = "val" if k >= 4 else ""
        records.append(Record(f"{k}.mp4", truth, split))
    return write_annotations(folder / "own.jsonl", records)


def run(stage, folder, data, *more):
    arguments = [
        *("--model_name_or_path", "tiny", "--data", str(data), "--output_dir", str(folder), "--max_steps", "2"),
        *("--per_device_train_batch_size", "2", "--gradient_checkpointing", "false", "--save_steps", "1"),
        *(
            "--learning_rate",
            "1e-3",
            "--seed",
            "0",
            "--untrimmed_windows",
            "true",
            "--logging_steps",
            "1",
            "--disable_tqdm",
            "true",
        ),
        *ON_CPU,
        *more,
    ]
    return run_stage(stage, *parse_stage(arguments), MINI)


@pytest.fixture(scope="module")
def stage2(footage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    evaluate = ["--eval_strategy", "steps", "--eval_steps", "2", "--eval_samples", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reward_model.training.sft.run.SHOWN_TOKENS", 16)  # a judge that has learnt nothing never ends
        return run("stage2", folder, footage, *evaluate)


def test_a_stage_on_own_videos_gives_a_judge(stage2, footage):
    backend = LocalBackend(stage2, device="cpu")
    judge = TwoTurnJudge(backend, backend.config, readout="direct", reasoning=False)
    verdict = judge.judge([footage.parent / "1.mp4"])[0]
    assert verdict.status in ("normal", "abnormal") and 0 <= verdict.score <= 1
    assert backend.config.prompts == "compact" and backend.config.demo_scale
    fresh = build_judge("tiny")[0].state_dict()
    moved = [k for k, v in load_file(stage2 / "model.safetensors").items() if not torch.equal(v, fresh[k])]
    for part in ("visual.blocks", "visual.merger", "deepstack", "language_model"):
        assert any(part in k for k in moved), f"{part} did not train"


def test_its_card_says_what_was_measured_and_only_that(stage2):
    from huggingface_hub import ModelCard

    card = ModelCard.load(stage2 / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and "stage2" in card.data.tags
    assert "held-out loss" in card.text and "own.jsonl" in card.text and "| optimiser steps | 2 |" in card.text
    bare = model_card(
        "x", base_model="a/b", stage="stage1", data="d", settings={}, metrics={}, trainable="", demo_scale=False
    )
    assert "Nothing was measured" in bare and "base_model: a/b" in bare


def test_tensorboard_shows_held_out_answers_and_frames(stage2):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(stage2 / "training" / "samples" / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["samples/0"]
    image = events.Images("samples/0")[0]
    assert image.step == 2 and image.encoded_image_string[:4] == b"GIF8" and image.height >= 144
    text = events.Tensors("samples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"status"' in text.split("**sample 0, answer**")[0]


@pytest.mark.slow
def test_lora_is_exported_merged(footage, tmp_path):
    lora = ["--use_peft", "true", "--lora_r", "2", "--lora_dropout", "0"]
    folder = run("stage1", tmp_path / "s", footage, *lora)
    assert not list(folder.glob("adapter*"))
    merged, fresh = load_file(folder / "model.safetensors"), build_judge("tiny")[0].state_dict()
    assert set(merged) <= set(fresh)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    delta = merged[name] - fresh[name]
    assert 0 < torch.linalg.matrix_rank(delta.double(), atol=1e-5) <= 2
    words = "model.language_model.embed_tokens.weight"
    assert torch.equal(merged[words], fresh[words])
    LocalBackend(folder, device="cpu")


def test_an_adapter_beside_its_base_merges_to_the_same_model(tmp_path):
    """The way sharded runs end: the engine writes the adapter, the CPU merges it."""
    from peft import get_peft_model

    from reward_model.training.lora import lora_config

    model, _ = build_judge("tiny")
    model.save_pretrained(tmp_path / "base")
    base = AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, lora_config(r=2))
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, 0.1)
    adapted.save_pretrained(tmp_path / "out")
    expected = adapted.merge_and_unload().state_dict()
    merge_adapter(tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.allclose(v, expected[k], atol=1e-6) for k, v in found.items())
    assert not list((tmp_path / "out").glob("adapter_*"))


def test_samples_that_are_too_long_are_refused_before_training(footage, tmp_path):
    with pytest.raises(ValueError, match="longer than max_tokens=20"):
        run("stage2", tmp_path, footage, "--max_tokens", "20")
    assert not (tmp_path / "training").exists()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_recipe_says_what_is_wrong_in_a_line_of_its_own(stage, tmp_path, capsys, monkeypatch):
    recipe = runpy.run_path(str(RECIPES[stage]))
    missing = tmp_path / "none.jsonl"
    arguments = ["--model_name_or_path", "tiny", "--data", str(missing), "--output_dir", str(tmp_path), *ON_CPU]
    monkeypatch.delenv(LAUNCHER_SETS, raising=False)
    assert recipe["STAGE"] == stage and recipe["main"](arguments) == 2
    said = capsys.readouterr().err
    assert "\nerror: " in said and str(missing) in said and "accelerate" not in said
    monkeypatch.setenv(LAUNCHER_SETS, "NO")
    assert recipe["main"](["--config", str(tmp_path / "none.yaml"), *ON_CPU]) == 2
    said = capsys.readouterr().err
    assert "\n\n(The traceback that follows is accelerate's" in said and "none.yaml" in said


def prepared(stage, *arguments):
    """The data of a stage for the tiny judge, as run_stage makes it."""
    stage_args, config, model = parse_stage(["--model_name_or_path", "tiny", *ON_CPU, *arguments])
    _, processor, judge = load_model(model, stage_args, 0, MINI)
    return stage_data(stage, stage_args, config, processor, judge, MINI)


@pytest.fixture(scope="module")
def long_anomalies(tmp_path_factory):
    """Own videos whose anomalies all last a second and more, some of types that one frame cannot show."""
    return anomalies_of(FrameRange(8, 40), tmp_path_factory.mktemp("long"))


def anomalies_of(window, folder):
    """Six annotated videos at 16 frames per second, the anomalies of three of them in this window."""
    records = []
    for k, kind in enumerate([None, "squash", None, "teleport", None, "float"]):
        frames, truth = make_video(k, kind, num_frames=49)
        found = [replace(a, frames=window, boxes=dict.fromkeys(window.frames(), BOXES)) for a in truth.anomalies]
        write_video(folder / f"{k}.mp4", frames, truth.fps)
        records.append(Record(f"{k}.mp4", replace(truth, anomalies=tuple(found)), "train"))
    return write_annotations(folder / "own.jsonl", records)


BOXES = (Box(100, 100, 400, 400),)


def test_the_minis_stage_2_takes_own_videos_with_long_anomalies(long_anomalies, tmp_path):
    own = ["--data", str(long_anomalies), "--output_dir", str(tmp_path)]
    presets = [["mini"], ["full", "--untrimmed_windows", "True"], ["mini_again"], ["mini_two_boxes"]]
    for name, *more in presets[: draws(4, 1)]:
        config = ["--config", str(CONFIGS / "stage2" / f"{name}.yaml"), "--max_tokens", "100000", "--disjoint", "false"]
        data = prepared("stage2", *config, *own, "--samples", "8", *more)
        assert {r["task"] for r in data.rows if r["status"] == "abnormal"} == {"scan", "zoom"}
    with pytest.raises(ValueError, match=r"--untrimmed_windows True .*untrimmed_windows: true in the YAML"):
        prepared("stage2", *own)


def test_the_world_does_not_look_at_untrimmed_windows(tmp_path):
    rows = [
        prepared("stage2", "--max_steps", "3", "--output_dir", str(tmp_path), "--untrimmed_windows", flag).rows
        for flag in ("False", "True")
    ]
    assert rows[0].to_list() == rows[1].to_list()


def test_stage_1_says_which_abnormal_videos_it_does_not_use(long_anomalies, tmp_path, caplog):
    data = prepared("stage1", "--data", str(long_anomalies), "--output_dir", str(tmp_path))
    said = "2 of 3 abnormal videos not used: "
    for text in (data.summary, caplog.text):
        assert said in text and "1 of types that one frame cannot show (Motion Anomalies" in text
        assert "(Physical Violations; stage 2 trains on them)" in text
    assert "not used" not in prepared("stage2", "--data", str(long_anomalies), "--untrimmed_windows", "True").summary


@pytest.mark.parametrize(("track", "most"), [("0.5s", 2), ("0.25s", 4), ("per_frame", None)])
def test_ticks_on_clips_of_short_anomalies_alone_are_warned_of(tmp_path, caplog, track, most):
    annotated = anomalies_of(FrameRange(8, 22), tmp_path)  # 15 frames, just below a second
    own = ["--data", str(annotated), "--track", track, "--output_dir", str(tmp_path)]
    prepared("stage2", *own, "--untrimmed_windows", "True")
    assert "tick" not in caplog.text
    data = prepared("stage2", *own)
    said = f"no answer has more than {most} tick(s)" in caplog.text
    assert said is (most is not None)
    answers = [json.loads(data.load(r).answer)["anomalies"] for r in data.rows if r["task"] == "zoom"]
    ticks = [len(a[0]["BBOX"]) for a in answers if a]
    assert ticks and (most is None or max(ticks) <= most)


def test_other_reasons_not_to_use_a_video(long_anomalies):
    records = read_annotations(long_anomalies)
    squashed = next(k for k, r in enumerate(records) if any(a.type.single_frame for a in r.truth.anomalies))
    truth = records[squashed].truth
    everything = range(len(records))
    assert unused_in_stage1(records, everything) == ""
    others = set(everything) - {squashed}
    assert "1 not drawn" in unused_in_stage1(records, others)
    assert "1 without verified reasoning" in unused_in_stage1(records, others, told=set())
    bare = replace(records[squashed], truth=replace(truth, anomalies=(replace(truth.anomalies[0], boxes={}),)))
    records[squashed] = bare
    assert "1 of 3 abnormal videos not used: 1 without a box" in unused_in_stage1(records, others)


# --- kill -9 ----------------------------------------------------------------------------------------------------------


def start(folder, *more):
    command = [
        *(sys.executable, str(RECIPES["stage1"]), "--config", str(CONFIGS / "stage1" / "mini.yaml")),
        *("--model_name_or_path", "tiny", "--output_dir", str(folder), "--max_steps", "8", "--save_steps", "2"),
        *("--per_device_train_batch_size", "4", "--vision_warmup_steps", "2", "--reading_warmup_steps", "2"),
        *("--eval_steps", "4", "--eval_samples", "1", *more),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


@pytest.mark.slow
def test_a_killed_recipe_continues_to_the_same_bytes(tmp_path):
    whole = start(tmp_path / "whole")
    assert whole.wait(timeout=900) == 0
    cut = start(tmp_path / "cut")
    work, deadline = tmp_path / "cut" / "training", time.monotonic() + 600
    while cut.poll() is None and last_complete_checkpoint(work) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(cut.pid, signal.SIGKILL)
    cut.wait()
    assert last_complete_checkpoint(work) is not None and not (tmp_path / "cut" / "config.json").exists()
    assert start(tmp_path / "cut").wait(timeout=900) == 0
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert same[0] == same[1]


FEW = ["--vision_warmup_steps", "10", "--reading_warmup_steps", "8", "--max_steps", "2", "--eval_strategy", "no"]


@pytest.mark.slow
def test_a_recipe_killed_in_its_warm_ups_continues_to_the_same_bytes(tmp_path):
    assert start(tmp_path / "whole", *FEW).wait(timeout=900) == 0
    work = tmp_path / "cut" / "training"
    for name in ("warmup", "reading"):
        cut, deadline = start(tmp_path / "cut", *FEW), time.monotonic() + 600
        state = work / f"{name}-state.safetensors"
        while cut.poll() is None and not state.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(cut.pid, signal.SIGKILL)
        cut.wait()
        assert state.exists() and not (work / f"{name}.safetensors").exists(), "killed in the middle"
    assert start(tmp_path / "cut", *FEW).wait(timeout=900) == 0
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert same[0] == same[1]
    assert not list(work.glob("*-state.safetensors"))
