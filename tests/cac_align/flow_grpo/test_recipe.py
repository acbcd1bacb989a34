"""The recipe and its presets: each is read, planned without weights, and says what the paper says."""

import dataclasses
import functools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import UniPCMultistepScheduler
from safetensors.torch import save_file

from cac_align.flow_grpo import plan as plans
from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import read_specs
from cac_align.flow_grpo.learner.lora import add_lora, lora_parameters, lora_sizes, matching_modules
from cac_align.flow_grpo.maths.schedule import Schedule, read_schedule
from cac_align.flow_grpo.model_layout import expert_line
from cac_align.flow_grpo.needs import is_path, readout_notes
from cac_align.flow_grpo.plan import make_run_plan, meta_transformer
from cac_align.prompts import read_prompts

ROOT = Path(__file__).resolve().parents[3]
PRESETS = sorted((ROOT / "recipes" / "configs" / "flow_grpo").glob("*.yaml"))
WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("flow_grpo")


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", autouse=True)
def shapes_read_once() -> Iterator[None]:
    """Each plan builds its transformer on the meta device, a quarter of a second, and changes nothing of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "meta_transformer", functools.cache(plans.meta_transformer))
        yield


def test_all_presets_are_there():
    names = {p.stem for p in PRESETS}
    full = {"paper_wan21_1p3b", "strict_official", "wan21_1p3b_24gb", "wan21_1p3b_80gb", "wan21_few_step"}
    full |= {"wan22_a14b_480p", "wan22_ti2v_5b", "wan21_1p3b_16gb", "wan21_14b_24gb", "wan22_a14b_24gb"}
    full |= {"wan22_a14b_few_step"}
    assert names == {"mini", "grpo", "guard", "dppo", "nft", "rvm", "anchored", *full}


@pytest.mark.slow
def test_presets_of_small_gpus_fit_by_reckoning():
    """Weights by the shapes alone: 14 B in fp8 with a float for each output, two experts in nf4, a block in bf16."""
    read = lambda name: FlowGRPOConfig.from_yaml(ROOT / f"recipes/configs/flow_grpo/{name}.yaml")  # noqa: E731
    linear, rest, outputs = 40 * 351_272_960, 14_288_491_584 - 40 * 351_272_960, 40 * (8 * 5120 + 13824 + 5120)
    large = make_run_plan(read("wan21_14b_24gb"))
    assert large.weights == pytest.approx((linear + 4 * outputs + 2 * rest) / 2**30) and large.memory < 20
    recomputed = dataclasses.replace(read("wan21_14b_24gb"), gradient_checkpointing=False)
    assert make_run_plan(recomputed).activations - large.activations > 2 * linear * 39 / 40 / 2**30
    experts = make_run_plan(read("wan22_a14b_24gb"))
    nf4 = linear * (0.5 + 1 / 64 + 4 / 16384)
    assert experts.weights == pytest.approx(2 * (nf4 + 2 * rest) / 2**30) and experts.memory < 20
    small, whole = make_run_plan(read("wan21_1p3b_16gb")), make_run_plan(read("wan21_1p3b_24gb"))
    assert small.weights == pytest.approx(whole.weights - small.offloaded * 29 / 30)
    assert small.memory < whole.memory < 4 and whole.offloaded == 0 and 2.5 < small.offloaded < whole.weights


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_every_preset_is_planned_without_weights(path, recipe, capsys):
    recipe.main(["--config", str(path), "--dry-run"])
    said = capsys.readouterr().out
    config = FlowGRPOConfig.from_yaml(path)
    modules = {"assets/wan-mini": 48, "Wan-AI/Wan2.2-T2V-A14B-Diffusers": 2 * 320}
    modules |= {"Wan-AI/Wan2.1-T2V-14B-Diffusers": 320}
    assert (
        f"{modules.get(config.model, 240)} modules" in said
        and f"= {config.samples_per_step} a step over 1 process" in said
    )
    assert "GiB estimated per process" in said
    assert len(read_prompts(config.prompts)) >= config.groups_per_step


def test_paper_preset_is_the_paper():
    config = FlowGRPOConfig.from_yaml(ROOT / "recipes/configs/flow_grpo/paper_wan21_1p3b.yaml")
    assert (config.height, config.num_frames, config.num_inference_steps, config.max_steps) == (480, 81, 50, 120)
    assert (config.num_generations, config.lora_r, config.noise_level) == (16, 32, 0.3)
    assert len(read_prompts(config.prompts)) == 240 == config.max_steps * config.groups_per_step
    assert [r["reward"] for r in config.rewards] == ["cac", "unified"]


def readouts(path):
    """The readout that each reward of a preset names, by the reward's name."""
    entries = yaml.safe_load((ROOT / "recipes" / "configs" / path).read_text(encoding="utf-8"))["rewards"]
    return {e.get("name", e["reward"]): e["options"].get("readout") for e in entries if e["reward"] == "cac"}


@pytest.mark.parametrize(
    "path", ["flow_grpo/paper_wan21_1p3b.yaml", "flow_grpo/strict_official.yaml", "table2/full.yaml"]
)
def test_presets_of_the_paper_read_the_final_judgment(path):
    """Equation 7 is read after the reasoning; a preset that carries the paper's name says so itself."""
    assert readouts(path) == {"cac": "paper"}


def test_presets_of_the_minis_name_the_readout_they_were_measured_with():
    assert readouts("flow_grpo/mini.yaml") == readouts("table2/mini.yaml") == {"cac": "direct"}
    assert readouts("table2/mini_readouts.yaml") == {"cac": "direct", "cac-log-odds": "log_odds", "cac-paper": "paper"}


def test_strict_preset_is_the_public_formula():
    config = FlowGRPOConfig.from_yaml(ROOT / "recipes/configs/flow_grpo/strict_official.yaml")
    assert config.kernel == "wan_linear" and config.last_step_noise and config.integer_timesteps
    assert not config.batched_guidance and config.num_trained_steps == 19 and config.kl_space == "mean"
    assert (config.beta, config.clip_range, config.advantage_eps, config.ema_every) == (4e-3, 1e-3, 1e-4, 8)


@pytest.mark.slow
def test_wan_has_240_modules_on_the_meta_device():
    """Attention q, k, v, out, in self and cross attention, of 30 blocks; no weight is loaded."""
    transformer = meta_transformer(WAN)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    assert len(matching_modules(transformer, ["ffn.net.2"])) == 30
    modules, parameters = lora_sizes(transformer, r=32, targets=targets)
    with torch.device("meta"):
        names = add_lora(transformer, r=32, alpha=64, targets=targets)
    assert modules == 240 and parameters == sum(p.numel() for p in lora_parameters(transformer).values())
    assert len(names) == 240 == 4 * 2 * 30 and len(set(names)) == 240
    assert all(p.device.type == "meta" for p in transformer.parameters())
    assert sum("lora_A" in n for n, _ in transformer.named_parameters()) == 240


def test_plan_arithmetic():
    config = FlowGRPOConfig.from_yaml(ROOT / "recipes/configs/flow_grpo/wan21_1p3b_80gb.yaml")
    plan = make_run_plan(config)
    assert plan.lora_modules == 240 and plan.lora_parameters == 240 * 32 * (1536 + 1536)
    assert 1.4e9 < plan.transformer_parameters < 1.45e9
    assert plan.weights == pytest.approx(plan.transformer_parameters * 2 / 2**30)
    assert plan.adapter == pytest.approx(plan.lora_parameters * 4 * 5 / 2**30)  # value, gradient, moments, average
    assert plan.forwards_sampling == 128 * 16 * 2
    assert plan.forwards_training == 2 * (128 * 2 * 2), "policy and reference"
    latents = 16 * 9 * 30 * 52
    assert plan.records == pytest.approx(3 * 2 * 128 * latents * 4 / 2**30)
    assert make_run_plan(config, world_size=8).records == pytest.approx(plan.records / 8)
    checkpointed = FlowGRPOConfig.from_dict({**config.to_dict(), "gradient_checkpointing": True})
    assert make_run_plan(checkpointed).activations < plan.activations / 5


def a_lora(path, width):
    """A LoRA of rank 4 for one module of a transformer of this width."""
    name = "transformer.blocks.3.attn1.to_q.lora_"
    save_file({f"{name}A.weight": torch.ones(4, width), f"{name}B.weight": torch.ones(width, 4)}, path)
    return f"frozen_adapter={path}"


@pytest.mark.slow
def test_the_few_step_preset_plans_its_frozen_adapter(recipe, tmp_path, capsys):
    """A missing one is listed, one that fits is counted, one of another model is refused, all without weights."""
    preset = str(ROOT / "recipes/configs/flow_grpo/wan21_few_step.yaml")
    recipe.main(["--config", preset, "--dry-run"])
    without = capsys.readouterr().out
    assert "on the frozen adapter models/wan21_1p3b_4step_lora.safetensors" in without
    assert "missing frozen adapter: models/wan21_1p3b_4step_lora.safetensors (no LoRA)" in without
    assert "forwards    128 to sample, 128 to train" in without, "4 steps of 32 videos, without guidance"
    recipe.main(["--config", preset, "--dry-run", "--set", a_lora(tmp_path / "fits.safetensors", 1536)])
    said = capsys.readouterr().out
    assert f"found   frozen adapter: {tmp_path / 'fits.safetensors'}" in said
    base = meta_transformer(WAN)
    assert f"{sum(p.numel() for p in base.parameters()) + 2 * 4 * 1536:,} parameters" in said
    with pytest.raises(ValueError, match=r"is one of another model: .*lora_A.weight has the shape \(4, 24\)"):
        recipe.main(["--config", preset, "--dry-run", "--set", a_lora(tmp_path / "other.safetensors", 24)])


def test_the_few_step_preset_has_the_distilled_schedule():
    config = FlowGRPOConfig.from_yaml(ROOT / "recipes/configs/flow_grpo/wan21_few_step.yaml")
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=config.flow_shift
    )
    sigmas = read_schedule(scheduler, config.num_inference_steps).sigmas
    assert list(sigmas) == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0], abs=2e-3) and not config.guided


def test_the_few_step_preset_of_two_experts_plans_both_adapters(recipe, tmp_path, capsys):
    first = a_lora(tmp_path / "high.safetensors", 5120)
    recipe.main(["--config", "wan22_a14b_few_step", "--dry-run", "--set", first])
    said = capsys.readouterr().out
    assert "guidance 1. Steps: 2 and 2" in said and "missing frozen adapter: models/wan22_a14b_4step_low_noise" in said
    assert f"on the frozen adapters {tmp_path / 'high.safetensors'} and models/wan22_a14b_4step_low_noise" in said


def test_the_plan_counts_the_videos_of_the_data_term(recipe, capsys):
    recipe.main(["--config", "anchored", "--dry-run", "--set", "data_batch=5", "num_minibatches=2"])
    said = capsys.readouterr().out
    assert "forwards    48 to sample, 42 to train" in said, "8 videos at 2 levels, as many of the reference, 2 x 5"
    assert "anchor selective; data 0.1 x 5 of outputs/minis/clips/clips.jsonl" in said


def test_motion_needs_more_than_a_frame(recipe):
    with pytest.raises(ValueError, match="reward 'motion' needs videos of at least 2 frames, and num_frames=1"):
        recipe.main(["--config", "anchored", "--set", "num_frames=1", "--dry-run"])


def test_plans_of_wan22(recipe, capsys):
    """Two experts of 14.3 B with 320 modules each, or one transformer of 5 B whose tokens are 32 pixels wide."""
    folder = ROOT / "recipes" / "configs" / "flow_grpo"
    config = FlowGRPOConfig.from_yaml(folder / "wan22_a14b_480p.yaml")
    plan = make_run_plan(config)
    assert plan.transformer_parameters == 2 * 14_288_491_584 and plan.lora_modules == 2 * 8 * 40
    assert plan.lora_parameters == 640 * 32 * (5120 + 5120)
    assert plan.records == pytest.approx(16 * 16 * 13 * 60 * 104 * 4 / 2**30)
    tokens = 13 * 30 * 52
    assert plan.flop == pytest.approx(2 * 14_288_491_584 * tokens + 4 * tokens**2 * 5120 * 40)
    assert plan.memory < 78, "the preset names GPUs of 80 GB, which have 79.6 GiB"
    small = FlowGRPOConfig.from_yaml(folder / "wan22_ti2v_5b.yaml")
    found = make_run_plan(small)
    assert 4.9e9 < found.transformer_parameters < 5.1e9 and found.memory < 60
    assert found.records == pytest.approx(3 * 2 * 16 * 48 * 31 * 44 * 80 * 4 / 2**30)
    recipe.main(["--config", str(folder / "wan22_a14b_480p.yaml"), "--dry-run", "--set", "flow_shift=12"])
    said = capsys.readouterr().out
    assert (
        "experts     two: high noise from timestep 875 on, guidance 4; low noise below, guidance 3. Steps: 13 and 7"
        in said
    )
    with pytest.raises(ValueError, match="guidance_scale_2=2 is that of a second expert"):
        recipe.main(["--config", "mini", "--dry-run", "--set", "guidance_scale=3", "guidance_scale_2=2"])
    with pytest.raises(ValueError, match="height=720 must be a multiple of 32"):
        recipe.main(["--config", str(folder / "wan22_ti2v_5b.yaml"), "--dry-run", "--set", "height=720"])


def test_the_plan_says_what_the_window_leaves_untrained():
    schedule = Schedule((1.0, 0.95, 0.9, 0.8, 0.4, 0.0))
    stochastic = {"kernel": "cps", "window_size": 1}
    for changes, words in (
        ({}, "Steps: 3 and 2, of which the window may hold 3 and 1"),
        ({"window_stop": 3}, "hold 3 and 0: the adapter of the low-noise expert stays untrained"),
        ({"window_start": 3}, "hold 0 and 1: the adapter of the high-noise expert stays untrained"),
        ({"objective": "rvm", "kernel": "ode", "noise_level": None, "window_size": 2}, "Steps: 3 and 2"),
    ):
        config = FlowGRPOConfig(num_inference_steps=5, **(changes if "objective" in changes else stochastic | changes))
        assert expert_line(875.0, schedule, config).endswith(words)
    assert "depends on the checkpoint's shift" in expert_line(875.0, None, FlowGRPOConfig())
    assert expert_line(None, schedule, FlowGRPOConfig()) == ""


def test_list_settings(recipe, capsys):
    recipe.main(["--list-settings"])
    assert "noise_level = 0.3" in capsys.readouterr().out


def test_a_second_set_adds_to_the_first(recipe):
    given = recipe.settings(recipe.parse(["--set", "output_dir=o", "lora_r=4", "--set", "seed=7", "--set", "lora_r=8"]))
    assert (given["output_dir"], given["seed"], given["lora_r"]) == ("o", 7, 8)
    assert recipe.parse([]).set == [], "what one command line names is not remembered for the next"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "kernel=sde"], "kernel='sde' must be one of"),
        (["--set", "batch=40x4"], "batch='40x4' needs 40 prompts, the list has 24"),
        (["--set", "prompts=none.txt"], "prompts='none.txt': no prompt file at 'none.txt'"),
        (["--set", "rewards=[no.such.module:thing]"], "cannot be imported"),
        (["--set", "rewards=[{reward: cac, options: {readout: logodds}}]"], "readout"),
        (["--set", "lora_targets=[to_z]"], r"lora_targets \['to_z'\] match no linear module"),
        (["--set", "learning_rate"], "must be name=value"),
        (["--set", "learning_rate=fast"], "learning_rate='fast' must be a finite number above 0"),
        (
            ["--config", "none.yaml"],
            "--config .none.yaml. is not a file; presets are anchored, dppo, grpo, guard, mini, nft, paper_wan21_1p3b",
        ),
    ],
)
def test_mistakes_cost_nothing(recipe, arguments, said):
    with pytest.raises(ValueError, match=said):
        recipe.main([*arguments, "--dry-run"])


def test_a_dry_run_says_what_is_missing_and_how_judges_are_read(recipe, capsys, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    recipe.main(["--config", str(ROOT / "recipes/configs/flow_grpo/paper_wan21_1p3b.yaml"), "--dry-run"])
    said = capsys.readouterr().out
    assert "rewards     1 cac (readout paper), 1 unified; mean of scores on the scale of outputs/calibration" in said
    assert "missing reward cac: outputs/stage3/judge (no such folder)" in said
    assert f"missing model: {WAN}" in said and "4 missing: the run would stop here" in said
    command = (
        "cac-align calibrate --config recipes/configs/flow_grpo/paper_wan21_1p3b.yaml --output outputs/calibration"
    )
    assert "there is no calibration 'outputs/calibration/paper_wan21_1p3b.json'" in said
    assert command in said.replace(f"{ROOT}/", "")
    recipe.main(["--dry-run"])
    said = capsys.readouterr().out
    assert "found   reward cac: assets/cac-mini" in said.replace(f"{ROOT}/", "") and "missing" not in said


def test_a_judge_read_where_it_was_never_trained_is_named(tmp_path):
    (tmp_path / "judge").mkdir()
    options = {"model": str(tmp_path / "judge"), "readout": "direct"}
    [note] = readout_notes(read_specs([{"reward": "cac", "options": options}]))
    assert "readout 'direct'" in note and "was for paper" in note and "set readout: paper" in note
    (tmp_path / "judge" / "judge.json").write_text('{"readouts": ["log_odds", "direct"]}')
    assert readout_notes(read_specs([{"reward": "cac", "options": options}])) == []
    assert readout_notes(read_specs([{"reward": "cac", "options": {**options, "readout": None}}, "unified"])) == []


def test_names_of_the_hub_and_paths_are_told_apart():
    assert all(map(is_path, ("outputs/judge", "./a", "/a/b", "~/a", "judge", "a/b/c")))
    assert not is_path("Qwen/Qwen3-VL-8B-Instruct")


def test_a_model_that_is_nowhere(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="is not a folder of a Wan pipeline"):
        meta_transformer("no/such-model")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_so_by_its_exit_code_and_writes_no_lora(recipe, tmp_path, monkeypatch, number, code):
    from cac_align.flow_grpo import trainer as module

    class Stopped:
        def __init__(self, config):
            self.interrupted = 0

        def train(self, resume):
            self.interrupted = number

        def export(self, folder):
            pytest.fail("a LoRA was written")

    monkeypatch.setattr(module, "FlowGRPOTrainer", Stopped)
    assert recipe.main(["--set", f"output_dir={tmp_path}"]) == code


@pytest.mark.slow
def test_the_demo_runs_to_the_end(recipe, tmp_path, capsys):
    """One step of the real minis: wan-mini, the embedded judge, an evaluation on both sides, a LoRA that loads."""
    from diffusers import WanPipeline
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    changes = ["max_steps=1", "batch=1x2", "num_inference_steps=3", "window_stop=2", "window_size=1"]
    folder = tmp_path / "run"
    recipe.main(["--set", f"output_dir={folder}", "eval_num_prompts=1", "eval_every=1", *changes])
    said = capsys.readouterr().out
    assert "noise floor none" in said and "accelerate launch recipes/flow_grpo.py" in said
    pipe = WanPipeline.from_pretrained(ROOT / "assets" / "wan-mini")
    pipe.load_lora_weights(folder / "lora")
    assert len(load_file(folder / "lora" / "pytorch_lora_weights.safetensors")) == 2 * 48
    assert (folder / "checkpoint-1").is_dir() and list((folder / "videos").rglob("*.mp4"))
