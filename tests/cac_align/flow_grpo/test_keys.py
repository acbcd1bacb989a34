"""Keys among the options of rewards: they reach the rewards, and no file or message of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import read_specs
from cac_align.flow_grpo.learner.checkpoint import TrainingCheckpointError
from cac_align.flow_grpo.older_runs import as_meant
from cac_align.table2.settings import TableSettings
from cac_align.table2.training import TrainingError
from tests.cac_align.flow_grpo.runs import EVAL_PROMPTS, build
from tests.cac_align.table2 import tables

GUARDED = "tests.cac_align.flow_grpo.toy_rewards:Guarded"
KEYS = ("sk-first-key-of-all", "hf_second_key_of_all")


def guarded(first: str = KEYS[0], second: str = KEYS[1], **more: object) -> dict[str, object]:
    return {"reward": GUARDED, "name": "toy", "options": {"api_key": first, "server": {"hf_token": second}}, **more}


def told(folder: Path, *keys: str) -> list[Path]:
    """The files of a folder that hold a key, in their names or bytes."""
    found = [p for p in folder.rglob("*") if any(k in str(p) for k in keys)]
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return found + [p for p in files if any(k.encode() in p.read_bytes() for k in keys)]


def test_no_file_of_a_run_holds_a_key_and_it_goes_on_with_another(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TOY_KEYS", " ".join(KEYS))
    run = {"eval_prompts": EVAL_PROMPTS[:1], "batch": "1x4"}
    first = build(tmp_path, rewards=[guarded()], max_steps=1, save_every=1, **run)
    first.train()
    first.export(tmp_path / "lora")
    new = ("sk-new-key-of-today", "hf_new_key_of_today")
    monkeypatch.setenv("TOY_KEYS", " ".join(new))
    monkeypatch.setenv("JUDGE_KEY", new[0])
    again = build(tmp_path, rewards=[guarded("$JUDGE_KEY", new[1])], max_steps=2, **run)
    again.train()
    assert again.step == 2 and len(again.history) == 3, "it went on from the first step"
    again.export(tmp_path / "lora")
    assert told(tmp_path, *KEYS, *new) == [] and not any(k in caplog.text + repr(again.config) for k in KEYS + new)
    settings = yaml.safe_load((tmp_path / "lora" / "settings.yaml").read_text())
    assert settings["rewards"][0]["options"] == {"api_key": "$JUDGE_KEY", "server": {}}
    with pytest.raises(TrainingCheckpointError, match="rewards was") as caught:
        build(tmp_path, rewards=[guarded("$JUDGE_KEY", new[1], weight=2.0)], max_steps=3, **run).train()
    assert not any(k in str(caught.value) for k in new)


@pytest.mark.slow
def test_a_checkpoint_of_before_with_a_key_in_it_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_KEYS", " ".join(KEYS))
    build(tmp_path, rewards=[guarded()], batch="1x4", max_steps=1, save_every=1).train()
    file = tmp_path / "checkpoint-1" / "grpo_state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "rewards": [guarded("sk-an-older-key")]}))
    again = build(tmp_path, rewards=[guarded()], batch="1x4", max_steps=2)
    again.train()
    assert again.step == 2


def test_a_key_in_the_settings_of_before_is_taken_out():
    written = as_meant({"nft_sigmas": "schedule", "rewards": [guarded()]})
    assert written["rewards"][0]["options"] == {"server": {}}


@pytest.mark.slow
def test_no_file_of_a_table_holds_a_key_and_its_trainings_get_theirs(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_KEYS", " ".join(KEYS))
    toys = [guarded(), {"reward": f"{tables.TOYS}:brightness", "name": "bright"}]
    rows = [{"name": "base"}, {"name": "GRPO", "kind": "flow_grpo", "rewards": ["toy"]}]
    tables.write_inputs(tmp_path)
    job = tables.make_job(tmp_path, tmp_path / "out", rewards=toys, rows=rows, watch=[guarded(name="more")])
    script = tmp_path / "train.py"  # what the recipe does with its settings before it trains
    script.write_text(
        "import sys, yaml\nfrom cac_align.flow_grpo.judging.reward_specs import build_reward, read_specs\n"
        "rewards = yaml.safe_load(open(sys.argv[2]))['rewards']\nprint(read_specs(rewards), build_reward(rewards))\n"
    )
    [training] = job.trainings.values()
    with pytest.raises(TrainingError, match="wrote no"):
        training.run(script, [sys.executable])
    assert "RewardSpec(" in (training.folder / "train.log").read_text()
    assert not any(k in repr(FlowGRPOConfig.from_yaml(training.folder / "settings.yaml")) for k in KEYS)
    assert told(tmp_path / "out", *KEYS) == []
    assert not any(k in json.dumps(job.settings.to_dict()) + repr(job.settings) for k in KEYS)


@pytest.mark.parametrize(
    "wrong",
    [
        guarded(wieght=1),
        {**guarded(), "weight": -1},
        {"reward": GUARDED, "options": [{"api_key": KEYS[0]}]},
        {"reward": GUARDED, "options": f"api_key={KEYS[0]}"},
    ],
)
def test_a_wrong_entry_is_refused_without_its_key(wrong):
    entries = (wrong, [wrong])  # the first is what a forgotten dash makes of the list
    for rewards in entries:
        with pytest.raises(ValueError) as caught:
            read_specs(rewards)
        with pytest.raises(ValueError) as config:
            FlowGRPOConfig(rewards=rewards)
        assert not any(k in f"{caught.value} {config.value}" for k in KEYS)
    with pytest.raises(ValueError, match="no weight above 0") as caught:
        FlowGRPOConfig(rewards=[guarded(weight=0)])
    assert not any(k in str(caught.value) for k in KEYS)
    with pytest.raises(ValueError) as caught:
        TableSettings("o", "f", [{**guarded(), "kind": "flow_grpo"}], ["cac"], ["motion_energy"], "e")
    assert not any(k in str(caught.value) for k in KEYS)


def test_a_variable_that_is_not_set_is_named(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    [spec] = read_specs([guarded("$JUDGE_KEY")])
    with pytest.raises(
        ValueError, match=r"reward 'toy': api_key: \$JUDGE_KEY names a variable that is not set; export"
    ):
        spec.build()
    served = {"model": "m", "backend": "openai", "base_url": "http://localhost:1/v1", "api_key": KEYS[0]}
    [spec] = read_specs([{"reward": "cac", "options": served}])
    reward = spec.build()
    assert reward._source._api_key.reveal() == KEYS[0] and KEYS[0] not in repr(spec)
