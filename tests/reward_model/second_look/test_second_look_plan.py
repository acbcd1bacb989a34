"""Which runs of the stage recipes the experiment consists of, and when one counts as done."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import yaml

from reward_model.evaluation.tables.ablation import parse_ablation
from reward_model.second_look.experiment import ablation_command, chosen_variants, describe_experiment, open_benches
from reward_model.second_look.settings import SecondLookConfig, read_second_look
from reward_model.second_look.stage_runs import STATE, plan_runs
from reward_model.shipped import recipes_folder
from reward_model.training import launch
from reward_model.training.grpo.config import OWN, GrpoConfig
from reward_model.training.launch import launch_recipe
from tests.launched import ROOT

MINI = recipes_folder() / "configs" / "second_look" / "mini.yaml"


@pytest.fixture
def recipe(load_recipe):
    return load_recipe("second_look")


def mini(tmp_path, **changes) -> SecondLookConfig:
    return replace(read_second_look(MINI), output_dir=str(tmp_path), **changes)


def test_every_seed_has_a_stage_2_and_each_variant_starts_from_it(tmp_path):
    config = mini(tmp_path, seeds=(3, 5))
    runs = plan_runs(config, config.variants)
    assert [(r.seed, r.row) for r in runs] == [(s, n) for s in (3, 5) for n in ("stage 2", *config.variants)]
    second, *thirds = runs[4:]
    assert second.base == config.model and second.judge == tmp_path / "seed-5" / "stage2"
    assert {r.base for r in thirds} == {r.settings["model"] for r in thirds} == {str(second.judge)}
    assert {r.judge for r in thirds} == {tmp_path / "seed-5" / n / "judge" for n in config.variants}
    assert all(r.settings["seed"] == r.settings["data"]["seed"] == 5 for r in thirds)


def test_both_stages_train_on_the_same_stories_and_only_stage_2_on_what_people_give(tmp_path):
    config = mini(tmp_path, stories={"zoom/look-alike": 0.6}, kinds=("squash",), supervision="people", samples=64)
    second, third, *_ = plan_runs(config, ["batch_deviation"])
    told = {"stories": {"zoom/look-alike": 0.6}, "kinds": ["squash"]}
    assert {k: second.settings[k] for k in told} == told == {k: third.settings["data"][k] for k in told}
    assert (second.settings["supervision"], second.settings["samples"]) == ("people", 64)
    assert "supervision" not in third.settings and "supervision" not in third.settings["data"]
    bench = open_benches(config)["second-look"]
    assert bench.describe()["stories"] == told["stories"] and bench.describe()["kinds"] == ["squash"]
    assert bench.describe()["seed"] >= 860_000


def test_variants_are_laid_over_each_other(tmp_path):
    config = mini(tmp_path)
    runs = {r.row: r.settings for r in plan_runs(config, [*config.ablation, "free_rescue"])[1:]}
    whole, timeless = runs["batch_deviation"], runs["batch_deviation+without_time"]
    changed = {k for k in timeless if timeless[k] != whole.get(k)}
    assert changed == {"weight_temporal", "output_dir"}
    assert (whole["scale_rewards"], whole["rescued_normal"]) == ("batch", -0.5)
    assert (runs["free_rescue"]["scale_rewards"], runs["free_rescue"]["rescued_normal"]) == ("group", 0.0)
    assert runs["batch_deviation+one_turn"]["num_turns"] == 1


def test_the_ablation_of_the_preset_covers_what_the_paper_ranks_and_every_weight():
    config = read_second_look(MINI)
    runs = plan_runs(config, chosen_variants(config, []))
    found = [GrpoConfig.from_dict({k: v for k, v in r.settings.items() if k not in OWN}) for r in runs[1:]]
    assert {c.num_turns for c in found} == {None, 1}
    for name in ("type", "temporal", "spatial"):
        paper = getattr(GrpoConfig(), f"weight_{name}")
        assert {0, paper / 2, paper, 2 * paper} <= {getattr(c, f"weight_{name}") for c in found}, name
    assert {c.saliency_repair for c in found} == {"none", "scale_advantage", "mean_only"}
    assert {c.spatial_norm for c in found} == {"pred", "named", "gt"} and {c.gate for c in found} == {
        "both",
        "turnwise",
    }
    assert {(c.scale_rewards, c.rescued_normal) for c in found} >= {
        ("group", -0.5),
        ("group", 0.0),
        ("batch", -0.5),
        ("batch", 0.0),
        ("none", -0.5),
    }
    assert chosen_variants(config, None) == list(config.variants)
    assert chosen_variants(config, ["no_deviation"]) == [*config.variants, "no_deviation"]


def test_the_judges_can_stand_beside_the_papers_table_3(tmp_path, load_recipe):
    config = mini(tmp_path, seeds=(0, 1))
    words = shlex.split(ablation_command(config, config.ablation))
    args = load_recipe("evaluate_reward").parser().parse_args(words[2:])
    rows = parse_ablation(args.ablation)
    first = ["no-grpo", "no-two-turn", "no-temporal", "no-spatial", "no-attribution", "full"]
    assert list(rows)[:6] == first and len(rows) == 1 + len(config.ablation)
    assert all(len(contestants) == 2 for contestants in rows.values())
    assert f"no-temporal={tmp_path}/seed-0/batch_deviation-and-without_time/judge," in " ".join(args.ablation)


def test_a_step_of_stage_2_is_two_half_batches_whatever_the_processes(tmp_path):
    one, two = (plan_runs(mini(tmp_path, processes=n), [])[0].settings for n in (1, 2))
    assert (one["gradient_accumulation_steps"], two["gradient_accumulation_steps"]) == (2, 1)
    with pytest.raises(ValueError, match="processes=3 must be 1 or 2"):
        plan_runs(mini(tmp_path, processes=3), [])


def finished(run, **changes) -> None:
    """What a training leaves behind."""
    run.judge.mkdir(parents=True)
    (run.judge / "judge.json").write_text("{}")
    known = {"settings": {**run._identity(), **changes}, "spent": 1.0, "seconds": 90.0}
    (run.folder / STATE).write_text(json.dumps(known))


def test_a_training_is_done_if_its_judge_was_made_so(tmp_path):
    config = mini(tmp_path)
    second, third = plan_runs(config, ["free_rescue"])
    assert not second.done() and second.seconds() is None
    finished(second)
    assert second.done() and second.seconds() == 90.0
    finished(third)
    assert third.done()
    (second.judge / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"free_rescue is a training with base=.*use another output_dir"):
        third.done()
    (third.judge / "judge.json").unlink()
    (second.judge / "model.safetensors").unlink()
    assert not third.done(), "its judge is gone"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"samples": 640}, "with samples=3200, now 640"),
        ({"stage2": {"max_steps": 5, "matrix_lr": None}}, "with max_steps=700, now 5"),
        ({"stage2": {"max_steps": 700, "new": 1}}, "with"),
    ],
)
def test_a_folder_with_another_experiment_is_refused(tmp_path, changes, rule):
    finished(plan_runs(mini(tmp_path), [])[0])
    with pytest.raises(ValueError, match=rule):
        plan_runs(mini(tmp_path, **changes), [])[0].done()
    assert plan_runs(mini(tmp_path, processes=1), [])[0].done(), "the number of processes changes nothing"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"variants": ("batch",)}, "variant 'batch': 'batch' must be one of accuracy_only"),
        ({"stage3": {"max_steps": 0}}, "max_steps=0"),
        ({"seeds": ()}, "must name at least one each"),
        ({"seeds": (1, 1)}, "names 1 twice"),
        ({"stories": {"zoom/fad": 0.5}}, "must give shares of"),
        ({"kinds": ("fade",)}, "must name some of"),
        ({"supervision": "crowd"}, "supervision='crowd' must be one of 'exact', 'people'"),
        ({"seconds": {"stage2": 1.0}}, "unknown setting 'stage2'"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, rule):
    with pytest.raises(ValueError, match=rule):
        plan_runs(config := mini(tmp_path, **changes), config.variants)


def test_a_dry_run_names_trainings_videos_and_hours(recipe, tmp_path, capsys):
    words = ["--dry-run", "--output-dir", str(tmp_path), "--seeds", "0", "1", "--variants", "no_deviation"]
    assert recipe.main([*words, "--set", "seconds={stage2_step: 2, stage3_step: 10, video: 0.5}"]) == 0
    text = capsys.readouterr().out
    assert "stage 2, seed 1: 700 steps" in text and "no_deviation, seed 0: 60 steps" in text
    assert "2640 videos judged, second-look, 11 judges" in text
    hours = (2 * (700 * 2 + 4 * 60 * 10) / 2 + 2640 * 0.5) / 3600
    assert f"about {hours:.1f} hours on 2 core(s)" in text
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_wrong_word_ends_before_anything_runs(recipe, tmp_path):
    for words, rule in (
        (["--seed", "1"], "unknown setting 'seed'"),
        (["--variants", "nonsense"], "variant 'nonsense'"),
        (["--config", "nowhere"], "presets are mini, smoke"),
    ):
        with pytest.raises(ValueError, match=rule):
            recipe.main(["--dry-run", "--output-dir", str(tmp_path), *words])


def test_every_preset_can_be_planned(recipe):
    for preset in sorted(MINI.parent.glob("*.yaml")):
        args = recipe.parse(["--config", str(preset)])
        recipe.check(recipe.settings(args))
        assert yaml.safe_load(preset.read_text())["model"] == "assets/cac-mini"
        assert "trainings" not in describe_experiment(recipe.settings(args), ["batch_deviation"])


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_recipe_runs_with_this_code_and_its_words_go_to_the_log(tmp_path):
    script = tmp_path / "recipe.py"
    script.write_text("import sys, reward_model\nprint(reward_model.__file__, sys.argv[1:])\n")
    log = tmp_path / "logs" / "train.log"
    launch_recipe(script, "--x", 3, log=log)
    launch_recipe(script, log=log)
    first, second = log.read_text().splitlines()
    assert first == f"{ROOT / 'reward_model' / '__init__.py'} ['--x', '3']" and second.endswith(" []")


def test_a_recipe_that_fails_says_its_last_words(tmp_path):
    script = tmp_path / "recipe.py"
    script.write_text("import sys\nprint('one')\nprint('two')\nsys.exit(2)\n")
    with pytest.raises(
        ValueError, match=r"recipe\.py ended with exit code 2; its last words: one \| two; log: .*train.log"
    ):
        launch_recipe(script, log=tmp_path / "train.log")


def test_two_processes_are_started_by_torch_itself(tmp_path, monkeypatch):
    """The command alone: torch's launcher takes seconds to start, and the slow test below has it start two."""
    monkeypatch.setattr(launch.sys, "executable", shutil.which("echo"))
    launch_recipe(tmp_path / "recipe.py", "--x", 3, processes=2, log=tmp_path / "train.log")
    started = (tmp_path / "train.log").read_text().split()
    assert started == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *started[-3:]]
    assert started[-3:] == [str(tmp_path / "recipe.py"), "--x", "3"]


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    script = tmp_path / "recipe.py"
    # Written at once: the lines of two processes must not mix.
    script.write_text(
        "import os\nos.write(1, f\"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}\\n\".encode())\n"
    )
    launch_recipe(script, processes=2, log=tmp_path / "train.log")
    said = (tmp_path / "train.log").read_text()
    assert "rank 0 of 2" in said and "rank 1 of 2" in said
