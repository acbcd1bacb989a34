"""Every objective has a preset that trains; what no preset has is called experimental, in the code and on one page."""

from pathlib import Path

import pytest
import yaml

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.plan import describe_plan, make_run_plan
from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from reward_model.engine.settings import read_yaml
from reward_model.terminal.described import choices_of, experimental_values, notes_on, settings_of
from tests.cac_align.flow_grpo.runs import PROMPTS, equal, settings, shallow_pipe, weights
from tests.campaigns import slow_but

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "recipes" / "configs"
OBJECTIVES = ("grpo", "guard", "dppo", "nft", "rvm")
#: Set by nobody but the user: a matter of the own machine, prompts or log.
OWN = {"revision", "attention_backend", "wandb_project", "report_to", "vae_tiling", "gradient_checkpointing", "seed"}
OWN |= {"negative_prompt", "fps", "flow_shift", "warmup_steps", "noise_floor", "reward_on_failure", "reward_mode"}
OWN |= {"train_batch_size", "reward_deadline_s", "lr_scheduler_type", "early_stop"}
#: What makes a preset a run of a second; all else is the preset's.
TINY = ("output_dir", "prompts", "height", "width", "num_frames", "max_sequence_length", "text_cache", "rewards")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("objective", slow_but(OBJECTIVES))
def test_the_preset_of_an_objective_trains(tmp_path, objective):
    preset = read_yaml(CONFIGS / "flow_grpo" / f"{objective}.yaml")
    assert preset["objective"] == objective
    small = settings(tmp_path).to_dict()
    changes = {name: small[name] for name in TINY} | {"max_steps": 2, "eval_prompts": None, "batch": "1x4"}
    changes |= {"reward_combination": "scores", "localised_credit": False, "log_videos_every": 0}
    config = FlowGRPOConfig.from_dict({**preset, **changes})
    trainer = FlowGRPOTrainer(config, pipe=shallow_pipe(), prompts=PROMPTS)
    before = weights(trainer)
    numbers = trainer.train()
    assert trainer.step == 2 and numbers["policy/updates"] > 0 and not equal(weights(trainer), before)
    plan = make_run_plan(config, trainer.transformer)
    assert (numbers["forwards/sample"], numbers["forwards/train"]) == (plan.forwards_sampling, plan.forwards_training)
    said = describe_plan(config, plan, world_size=1, num_prompts=4)
    assert f"objective   {objective}: " in said and "experimental" not in said
    unread = {"nft": "clip_range", "rvm": "nft_beta"}.get(objective, "rvm_scale")
    assert unread not in said and {"nft": "nft_beta 1", "rvm": "rvm_scale 0.1"}.get(objective, "kl_space") in said


def presets():
    """What presets set, each with its own changes over its base."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONFIGS / "flow_grpo").glob("*.yaml")]
    return found + [yaml.safe_load(p.read_text("utf-8"))["overrides"] for p in (CONFIGS / "table2").glob("*.yaml")]


def test_what_no_preset_sets_is_experimental():
    """A path that no preset takes is a path that nobody runs; what is left is the user's own."""
    taken, choices = presets(), choices_of(FlowGRPOConfig)
    for s in settings_of(FlowGRPOConfig):
        given = [p[s.name] for p in taken if s.name in p]
        trial = s.metadata["experimental"]
        assert not any(value in trial or (... in trial and value != s.default) for value in given), s.name
        if s.name in OWN or ... in trial:
            continue
        whole = choices.get(s.name) or ((True, False) if isinstance(s.default, bool) else ())
        missing = [c for c in whole if c != s.default and c not in given and c not in trial]
        assert not missing, f"{s.name}: no preset has {missing}; give one to a preset, or mark it experimental"
        assert given or whole, f"{s.name}: no preset sets it; let one set it, or mark it experimental"


def test_the_page_and_the_help_list_what_is_experimental():
    page = (ROOT / "docs" / "how_to" / "align_a_generator.md").read_text(encoding="utf-8")
    section = page.split("### Experimental values")[1].split("\n#")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    text = FlowGRPOConfig.help_text()
    for s in settings_of(FlowGRPOConfig):
        row = [line for line in rows if line.startswith(f"| `{s.name}` |")]
        values = experimental_values(s)
        assert len(row) == bool(values), s.name
        if values:
            assert row[0].split("|")[2].strip() == ", ".join(f"`{v}`" if v != "any other" else v for v in values)
            assert "experimental: " + ", ".join(values) in notes_on(s) and notes_on(s) in text


def test_the_plan_names_experiments(tmp_path):
    config = settings(tmp_path, kernel="cps", log_prob_constants=False, advantage_ddof=1)
    plan = make_run_plan(config, FlowGRPOTrainer(config, pipe=shallow_pipe(), prompts=PROMPTS).transformer)
    said = describe_plan(config, plan, world_size=1, num_prompts=4)
    assert "experimental log_prob_constants=False, advantage_ddof=1: no preset has that" in said
