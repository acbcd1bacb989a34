"""Settings of a recipe: the file, and what the command line puts over it."""

import argparse

import pytest

from reward_model.training.settings_file import add_set_option, changed, read_yaml


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
