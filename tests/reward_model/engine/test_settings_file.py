"""Settings of a recipe: the file, and what the command line puts over it."""

import argparse

import pytest

from reward_model.engine.settings import add_set_option, changed, read_yaml


def test_assignments_win_and_reach_inside_without_touching_the_original():
    settings = {"max_steps": 5, "data": {"rows": 3, "seed": 1}, "plan": None}
    found = changed(settings, ["max_steps=7", "data.rows=9", "beta=0.0", "plan.num_gpus=2"])
    assert found == {"max_steps": 7, "data": {"rows": 9, "seed": 1}, "beta": 0.0, "plan": {"num_gpus": 2}}
    assert settings == {"max_steps": 5, "data": {"rows": 3, "seed": 1}, "plan": None}


@pytest.mark.parametrize("text", ["max_steps", "=3"])
def test_an_assignment_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(ValueError, match="name=value"):
        changed({}, [text])


def test_reaching_inside_a_plain_value_is_refused():
    with pytest.raises(ValueError, match=r"reaches inside 'seed', which is 3"):
        changed({"seed": 3}, ["seed.first=1"])


def test_several_uses_of_the_option_add_up():
    parser = argparse.ArgumentParser()
    add_set_option(parser)
    assert parser.parse_args(["--set", "a=1", "b=2", "--set", "c=3"]).set == ["a=1", "b=2", "c=3"]
    assert parser.parse_args([]).set == []


@pytest.mark.parametrize("text", [None, "- a list", "a: [unclosed"])
def test_a_file_that_holds_no_settings_is_named(tmp_path, text):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        read_yaml(path)


# --- the grammar of all recipes ---------------------------------------------------------------------------------------


def parsed(arguments, presets=None):
    from reward_model.engine.settings import parse_settings, settings_parser

    return parse_settings(settings_parser("", default=None, dry_run="plan"), arguments, presets=presets)


def test_every_setting_is_an_option_and_the_order_decides():
    words = "--max-steps 3 --dry-run --lora_targets to_q to_k --data.rows=8 --no-early-stop --beta -1 --set beta=0.5"
    args = parsed(words.split())
    assert args.dry_run and changed({"data": {"seed": 1}}, args.set) == {
        "data": {"seed": 1, "rows": 8},
        "beta": -1,
        "max_steps": 3,
        "lora_targets": ["to_q", "to_k"],
        "early_stop": False,
    }


@pytest.mark.parametrize("words", [["max_steps"], ["3", "--max-steps"]])
def test_a_word_without_an_option_is_refused(words):
    with pytest.raises(ValueError, match="belongs to no option"):
        parsed(words)


def test_a_preset_is_named_without_path_and_ending(tmp_path):
    (tmp_path / "full.yaml").write_text("a: 1")
    assert parsed(["--config", "full"], tmp_path).config == tmp_path / "full.yaml"
    with pytest.raises(ValueError, match="'fulll' is not a file; did you mean full"):
        parsed(["--config", "fulll"], tmp_path)


@pytest.mark.parametrize(
    ("recipe", "words", "found"),
    [
        ("flow_grpo", "--num-generations 4 --bf16 false", {"batch": "2x4", "mixed_precision": "no"}),
        ("flow_grpo", "--batch 3x8 --save_steps 7", {"batch": "3x8", "save_every": 7}),
        ("stage3_grpo", "--num_generations 4 --use_peft", {"num_generations": 4, "use_lora": True}),
        ("stage3_grpo", "--set max_steps=7 data.rows=3", {"max_steps": 7}),
    ],
)
def test_recipes_understand_the_names_of_trl(load_recipe, recipe, words, found):
    module = load_recipe(recipe)
    settings = module.settings(module.parse(words.split()))
    assert {name: settings[name] for name in found} == found


def test_settings_of_the_trainings_reach_them_through_the_table(load_recipe):
    table = load_recipe("table2")
    found = table.settings(table.parse(["--max-steps", "5", "--n", "2"]))
    assert found.overrides["max_steps"] == 5 and found.n == 2


def test_a_wrong_name_is_answered_with_the_nearest(load_recipe):
    pytest.importorskip("trl")
    from reward_model.training.sft.config import parse_stage

    for wrong in (["--max_stepz", "3"], ["--set", "max_stepz=3"]):
        with pytest.raises(ValueError, match="did you mean max_steps"):
            parse_stage(["--model_name_or_path", "tiny", "--use_cpu", "true", "--bf16", "false", *wrong])
        stage3 = load_recipe("stage3_grpo")
        with pytest.raises(ValueError, match="did you mean max_steps"):
            stage3.settings(stage3.parse(wrong))


def test_stages_take_their_settings_by_set_too(tmp_path):
    pytest.importorskip("trl")
    from reward_model.training.sft.config import parse_stage

    (tmp_path / "a.yaml").write_text("model_name_or_path: tiny\nuse_cpu: true\nbf16: false\nmax_steps: 3\nsamples: 9\n")
    words = ["--config", str(tmp_path / "a.yaml"), "--set", "max_steps=4", "samples=null", "--learning-rate", "0.5"]
    stage, config, model = parse_stage(words)
    assert (config.max_steps, stage.samples, config.learning_rate) == (4, None, 0.5)
    assert model.model_name_or_path == "tiny"


def test_a_file_is_read_as_it_is_now_and_each_reader_has_its_own_data(tmp_path):
    """Texts that are known are not parsed again: neither a changed file nor a changed mapping may show in the next."""
    path = tmp_path / "mine.yaml"
    path.write_text("data: {rows: 3}\n")
    read_yaml(path)["data"]["rows"] = 9
    assert read_yaml(path) == {"data": {"rows": 3}}
    path.write_text("data: {rows: 4}\n")
    assert read_yaml(path) == {"data": {"rows": 4}}
