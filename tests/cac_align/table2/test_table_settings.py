"""Bad input costs nothing: settings are refused with the value, the rule and the remedy; the configs are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cac_align.flow_grpo.needs import check_model, contents_of
from cac_align.table2.settings import TableSettings, read_settings
from cac_align.table2.training import DONE, make_training, trainings
from reward_model.files import write_json
from tests.cac_align.table2.tables import TOYS, settings
from tests.campaigns import slow_but

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "recipes" / "configs" / "table2").glob("*.yaml"))


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("table2")


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def inputs(tmp_path):
    """Settings without weights: enough for every check."""
    from tests.cac_align.table2.tables import FLOW

    (tmp_path / "flow.yaml").write_text(FLOW.format(model="assets/wan-mini", prompts=tmp_path / "train.txt"))
    (tmp_path / "train.txt").write_text("a red ball moves right\na blue square bounces\n")
    (tmp_path / "eval.txt").write_text("a red square bounces\na blue ball moves left\n")
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "n=0 must be a whole number of at least 1"),
        ({"eval_seeds": [0, 0]}, "eval_seeds=.* must be a list of different whole numbers"),
        ({"train_seeds": 3}, "train_seeds=3 must be a list of whole numbers of at least 0"),
        ({"motion_share": 1.5}, "motion_share=1.5 must be a number above 0 and at most 1; the share"),
        ({"columns": ["diversity"], "motion": None, "eval_seeds": [3]}, r"eval_seeds=\[3\] draws one; give two seeds"),
        ({"columns": ["fid"]}, "column 'fid' is unknown; there are motion"),
        ({"columns": ["anomaly_judge"], "motion": None}, "column 'anomaly_judge' needs judge"),
        ({"columns": ["anomaly_people"], "motion": None}, "needs ratings=..., an export of cac-align rate"),
        ({"motion": "motion"}, "motion='motion' is not one of the columns motion_energy, edge_density"),
        ({"judge": "cac"}, "judge='cac' is not one of the rewards bright, red"),
        ({"rewards": ["nobody"]}, "reward 'nobody' is unknown"),
        ({"rows": []}, "rows must begin with one of kind 'base'"),
        (
            {"rows": [{"name": "base"}, {"name": "other"}]},
            "row 'other' is drawn as row 'base' is; give it num_inference",
        ),
        ({"rows": [{"name": "x", "kind": "flow_grpo", "rewards": ["red"]}]}, "rows must begin with one of kind 'base'"),
        (
            {"rows": [{"name": "base"}, {"name": "x", "kind": "sft"}]},
            "row 'x': kind='sft' must be one of 'base', 'best_of_n'",
        ),
        (
            {"rows": [{"name": "base"}, {"name": "x", "kind": "best_of_n"}]},
            "row 'x' of kind best_of_n must have rewards",
        ),
        (
            {"rows": [{"name": "base"}, {"name": "x", "kind": "best_of_n", "rewards": ["cac"]}]},
            "row 'x': reward 'cac' must be one of bright, red",
        ),
        (
            {
                "rows": [
                    {"name": "base"},
                    {"name": "x", "kind": "best_of_n", "rewards": [{"reward": "red", "weight": 0}]},
                ]
            },
            "no reward has a weight above 0",
        ),
        (
            {
                "rows": [
                    {"name": "base"},
                    {"name": "a+b", "kind": "best_of_n", "rewards": ["red"]},
                    {"name": "A + B", "kind": "best_of_n", "rewards": ["red"]},
                ]
            },
            "every name needs letters of its own",
        ),
        (
            {
                "rows": [
                    {"name": "base"},
                    {"name": "x", "kind": "best_of_n", "rewards": ["red"], "overrides": {"seed": 1}},
                ]
            },
            r"overrides=.* belongs to rows of kind flow_grpo only, not best_of_n",
        ),
    ],
)
def test_settings_are_refused(inputs, changes, said):
    with pytest.raises(ValueError, match=said):
        TableSettings(**settings(inputs, inputs / "out", **changes))


def test_prompts_are_refused(inputs):
    with pytest.raises(ValueError, match=r"num_eval_prompts=9, but .*eval\.txt holds 2"):
        _ = TableSettings(**settings(inputs, inputs, num_eval_prompts=9)).prompts
    (inputs / "eval.txt").write_text("A red  ball moves right\na blue ball moves left\n")
    with pytest.raises(ValueError, match="1 evaluation prompts are trained on, such as 'A red  ball"):
        _ = TableSettings(**settings(inputs, inputs)).prompts
    (inputs / "own.txt").write_text("a blue ball moves left\n")
    rows = settings(inputs, inputs)["rows"]
    rows[-1] |= {"overrides": {"prompts": str(inputs / "own.txt")}}
    with pytest.raises(ValueError, match=r"own\.txt: 1 evaluation prompts are trained on, such as 'a blue ball moves"):
        _ = TableSettings(**settings(inputs, inputs, rows=rows)).prompts


def test_an_unknown_setting_names_its_neighbour(inputs):
    path = inputs / "table.yaml"
    path.write_text(yaml.safe_dump({**settings(inputs, inputs), "colums": []}))
    with pytest.raises(ValueError, match="unknown setting 'colums'; did you mean columns"):
        read_settings(path)
    path.write_text("output_dir: x\n")
    with pytest.raises(ValueError, match="columns, eval_prompts, flow_grpo, rewards, rows must be set"):
        read_settings(path)


def test_a_missing_mini_names_the_command_that_builds_it():
    with pytest.raises(ValueError, match=r"build_minis\.py --only generator --output nowhere"):
        check_model("./nowhere/wan-mini", "model")
    with pytest.raises(ValueError, match="there is no folder '/no/such/judge'; fix the path"):
        check_model("/no/such/judge", "reward 'cac'")
    check_model("some-org/some-model", "a name of the hub")


def test_a_training_is_what_its_row_says(inputs):
    rows = [
        {"name": "base"},
        {
            "name": "GRPO",
            "kind": "flow_grpo",
            "rewards": ["bright", {"reward": "red", "weight": 3}],
            "combination": "advantages",
            "overrides": {"max_steps": 7, "localised_credit": True},
        },
    ]
    watch = [{"reward": f"{TOYS}:redness", "name": "red"}, {"reward": f"{TOYS}:redness", "name": "seen"}]
    found = TableSettings(
        **settings(inputs, inputs, rows=rows, watch=watch, train_seeds=[4, 5], overrides={"max_steps": 3})
    )
    made = trainings(found)
    assert [t.seed for t in made] == [4, 5] and made[0].folder != made[1].folder
    config = make_training(found, found.row("grpo"), 5).config
    assert (config.seed, config.max_steps, config.reward_combination) == (5, 7, "advantages")
    assert config.localised_credit and config.output_dir == str(inputs / "runs" / "grpo" / "seed-5")
    assert [(r["name"], r["weight"]) for r in config.rewards] == [("bright", 1.0), ("red", 3.0), ("seen", 0.0)]


@pytest.mark.parametrize("path", slow_but(CONFIGS, *(p for p in CONFIGS if p.stem == "mini")), ids=lambda p: p.stem)
def test_every_config_is_planned(path, recipe, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    code = recipe.main(["--config", str(path), "--dry-run", "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "Estimate" in said and "together" in said
    assert code == int("missing" in said)
    assert read_settings(path).table_rows[0].kind == "base"
    assert not (tmp_path / "out").exists()


def test_operations_of_wan_22_are_those_of_one_expert_with_attention(recipe, capsys, monkeypatch, tmp_path):
    """917 TFLOP a forward, as docs/how_to/align_a_generator.md states them, for 60 videos of 50 steps and two sides."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    recipe.main([
        "--config", str(ROOT / "recipes/configs/table2/full.yaml"), "--dry-run", "--output", str(tmp_path / "out"),
        "--set", "flow_grpo=recipes/configs/flow_grpo/wan22_a14b_480p.yaml", "overrides={}",
        "rows=[{name: base, kind: base}]", "columns=[anomaly_judge]", "motion=null",
    ])  # fmt: skip
    said = capsys.readouterr().out
    assert "60 videos" in said and f"transformer: {60 * 50 * 2 * 917e12:.2e} FLOP" in said


@pytest.mark.parametrize("name", ["mini", "full"])
def test_the_table_has_the_paper_s_rows(name):
    rows = read_settings(ROOT / f"recipes/configs/table2/{name}.yaml").table_rows
    paper = ["base", "Best-of-N UR", "Best-of-N UR+CaC", "Flow-GRPO UR", "Flow-GRPO UR+CaC"]
    assert [row.name for row in rows][:5] == paper


def test_full_is_the_paper():
    found = read_settings(ROOT / "recipes/configs/table2/full.yaml")
    assert [c.label for c in found.table_columns[:3]] == ["Dynamic Degree", "Subject Consistency", "Imaging Quality"]
    [training, _] = trainings(found)
    assert (training.config.max_steps, training.config.num_generations, training.config.lora_r) == (120, 16, 32)
    assert found.n == 5 and len(found.prompts) == 60 and found.video.num_frames == 81


def test_a_second_set_adds_to_the_first(recipe):
    args = recipe.parse(["--set", "n=2", "train_seeds=[3]", "--set", "overrides.max_steps=9"])
    found = read_settings(args.config, args.set)
    assert found.n == 2 and list(found.train_seeds) == [3] and found.overrides["max_steps"] == 9


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only-row", "Flow-GRPO XY"], "no row 'Flow-GRPO XY'; there are 'base'"),
        (["--seed", "9"], r"seed=9 is not one of train_seeds=\[0\]"),
        (["--set", "n"], "must be name=value"),
        (["--config", "none.yaml"], "is not a file; presets are full, mini"),
        (["--set", "overrides.kernel=sde"], "kernel='sde' must be one of"),
    ],
)
def test_a_wrong_command_line(recipe, arguments, said, tmp_path):
    rewards = f"rewards=[{{reward: '{TOYS}:redness', name: cac}}, {{reward: '{TOYS}:brightness', name: unified}}]"
    plain = ["--output", str(tmp_path), "--parts", "tables", "--set", rewards, "train_seeds=[0]", "watch=[]"]
    both = [*plain, *(a for a in arguments if a != "--set")] if "--set" in arguments else [*plain, *arguments]
    with pytest.raises(ValueError, match=said):
        recipe.main(both)


def test_a_training_counts_after_its_judge_has_moved(tmp_path):
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.table2.training import WEIGHTS, Training

    def training(judge, **changes):
        reward = {"reward": "cac", "options": {"model": str(judge)}}
        return Training(None, 0, tmp_path / "run", FlowGRPOConfig.from_dict({"rewards": [reward], **changes}))

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "weights").write_text("w")
    made = training(tmp_path / "here")
    made.lora.mkdir(parents=True)
    (made.lora / WEIGHTS).write_bytes(b"")
    (made.lora / "settings.yaml").write_text(yaml.safe_dump(made.config.to_dict()))
    write_json(made.folder / DONE, {"contents": contents_of(made.config)})
    (tmp_path / "here").rename(tmp_path / "there")
    moved = training(tmp_path / "there")
    assert moved.done()
    with pytest.raises(ValueError, match=r"other settings: kernel was 'flow', now 'dance'\. Use"):
        training(tmp_path / "there", kernel="dance").done()
    write_json(made.folder / DONE, {})  # as version 0.2 wrote it
    with pytest.raises(ValueError, match="other settings: rewards was"):
        moved.done()


def test_scores_count_after_their_judge_has_moved(tmp_path):
    from cac_align.flow_grpo.judging.reward_specs import RewardSpec
    from cac_align.table2.scores import reward_scorer
    from reward_model.digests import json_digest, model_fingerprint

    def scorer(folder, **options):
        return reward_scorer(RewardSpec("cac_align:CaCReward", "cac", options={"model": str(folder), **options}))

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "weights").write_text("w")
    entry = {"setting": scorer(tmp_path / "here").setting}
    asked = {"model": str(tmp_path / "here"), "all_readouts": True, "readout": None}
    mark = model_fingerprint(tmp_path / "here")[:16]
    of_version_0_2 = {"setting": json_digest(["reward", "cac_align:CaCReward", asked, mark])[:16]}
    assert scorer(tmp_path / "here").made(entry) and scorer(tmp_path / "here").made(of_version_0_2)
    (tmp_path / "here").rename(tmp_path / "there")
    assert scorer(tmp_path / "there").made(entry)
    assert not scorer(tmp_path / "there", scan_fps=2).made(entry) and not scorer(tmp_path / "there").made({})
    (tmp_path / "there" / "weights").write_text("other")
    assert not scorer(tmp_path / "there").made(entry)
