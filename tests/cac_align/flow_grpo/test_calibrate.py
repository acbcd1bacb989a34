"""The bank of a training: drawn once, resumed, and refused where it is that of another generator or judge."""

import json
from statistics import median

import pytest

from cac_align.cli import main
from cac_align.flow_grpo import calibrate as module
from cac_align.flow_grpo.calibrate import calibrate_rewards
from cac_align.flow_grpo.needs import check_calibration, contents_of, needs_text
from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from cac_align.rewards.calibration import Calibration, CalibrationError
from tests.cac_align.flow_grpo.runs import PROMPTS, settings, shallow_pipe
from tests.cac_align.flow_grpo.toy_rewards import brightness

TOY = "tests.cac_align.flow_grpo.toy_rewards:brightness"
NUM_VIDEOS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pipeline on the disk and a file of prompts."""
    folder = tmp_path_factory.mktemp("calibration")
    shallow_pipe().save_pretrained(folder / "pipe")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folder


def config_of(place, folder, **changes):
    given = {"model": str(place / "pipe"), "prompts": str(place / "prompts.txt"), "batch": "2x2"}
    return settings(folder, **{**given, "calibration": str(place / "bank.json"), **changes})


@pytest.fixture(scope="module")
def made(place):
    return calibrate_rewards(config_of(place, place), num_videos=NUM_VIDEOS)


def test_the_bank_is_drawn_by_the_base_model_and_every_score_is_kept(place, made):
    assert Calibration.load(place / "bank.json") == made
    header, *rows = map(json.loads, (place / "bank.json.bank.jsonl").read_text().splitlines())
    assert [row["first"] for row in rows] == [0, module.BATCH]
    scores = [one["brightness"] for row in rows for one in row["scores"]]
    assert len(set(scores)) == NUM_VIDEOS, "every video has a seed of its own"
    assert made.scales["brightness"].median == median(scores)
    assert header["bank"]["height"] == made.bank["height"] == 16 and made.bank["num_inference_steps"] == 4
    assert made.bank["model"].startswith("folder ") and {"prompts", "seeds", "cac_align"} <= set(made.bank)


@pytest.mark.slow
def test_a_bank_that_was_stopped_goes_on_and_comes_to_the_same(place, made, tmp_path, monkeypatch):
    drawn, generate = [], module.generate

    def failing(pipe, prompt, seeds, arguments):
        if len(drawn) == 6:
            raise KeyboardInterrupt
        drawn.append(prompt)
        return generate(pipe, prompt, seeds, arguments)

    monkeypatch.setattr(module, "generate", failing)
    config = config_of(place, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        calibrate_rewards(config, tmp_path / "bank.json", num_videos=NUM_VIDEOS)
    assert not (tmp_path / "bank.json").exists()
    monkeypatch.setattr(module, "generate", lambda *call: drawn.append(call[1]) or generate(*call))
    assert calibrate_rewards(config, tmp_path / "bank.json", num_videos=NUM_VIDEOS) == made
    assert drawn == [*PROMPTS, *PROMPTS[:2], *PROMPTS], "a batch that was not judged is drawn again, no other"
    assert (tmp_path / "bank.json").read_bytes() == (place / "bank.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds another bank: .*num_inference_steps was 4 and is now 6.*; delete"):
        calibrate_rewards(
            config_of(place, tmp_path, num_inference_steps=6), tmp_path / "bank.json", num_videos=NUM_VIDEOS
        )
    (tmp_path / "other.json.bank.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match=r"other.json.bank.jsonl' is not the scores of a bank"):
        calibrate_rewards(config, tmp_path / "other.json", num_videos=NUM_VIDEOS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"calibration": "none.json"}, "there is no calibration 'none.json'"),
        ({"height": 32}, "another generator: height was 16 and is now 32"),
        ({"guidance_scale": 1.0}, "another generator: guidance_scale was 3.0 and is now 1.0"),
        ({"num_frames": 9, "fps": 8}, "num_frames was 5 and is now 9; fps was 16.0 and is now 8"),
        ({"model": "assets/wan-mini"}, "another generator: model was 'folder "),
        ({"rewards": [{"reward": TOY, "name": "mine"}]}, "no scale for reward 'mine', only for brightness"),
        ({"rewards": [{"reward": TOY.replace("brightness", "hanging"), "name": "brightness"}]}, "that of another one"),
    ],
)
def test_a_missing_or_foreign_calibration_is_refused_before_anything_is_loaded(place, made, tmp_path, changes, said):
    config = config_of(place, tmp_path, **changes)
    with pytest.raises(CalibrationError, match=said) as raised:
        FlowGRPOTrainer(config)
    line = str(raised.value)
    assert "cac-align calibrate --config SETTINGS.yaml --output" in line and "\n" not in line
    assert "cac-align calibrate --config mine.yaml" in needs_text(config, "cac-align calibrate --config mine.yaml")
    assert not list(tmp_path.glob("*.json*"))


def test_a_training_counts_by_the_fixed_scale(place, made, tmp_path):
    trainer = FlowGRPOTrainer(config_of(place, tmp_path, rewards=[TOY, {"reward": TOY, "name": "watch", "weight": 0}]))
    experience, numbers = trainer.run_step()
    scale = made.scales["brightness"]
    for row in experience.rows:
        assert row.score == scale.place(row.parts["brightness"]) == row.parts["brightness/calibrated"]
    assert numbers["part/brightness/clipped"] == 0.0 and numbers["part/watch"] == numbers["part/brightness"]
    assert "on the scale of" in needs_or_plan(trainer)
    with pytest.raises(ValueError, match=r"give your own reward one of its own \(CompositeReward\(calibration"):
        FlowGRPOTrainer(config_of(place, tmp_path), reward=brightness)


def needs_or_plan(trainer):
    from cac_align.flow_grpo.plan import describe_plan, make_run_plan

    plan = make_run_plan(trainer.config, trainer.transformer)
    return describe_plan(trainer.config, plan, world_size=1, num_prompts=4)


def test_a_calibration_is_part_of_a_run_by_its_content(place, made, tmp_path):
    config = config_of(place, tmp_path)
    moved = made.save(tmp_path / "moved.json")
    same, none = config_of(place, tmp_path, calibration=str(moved)), config_of(place, tmp_path, calibration=None)
    assert contents_of(same)["calibration"] == contents_of(config)["calibration"]
    assert "calibration" not in contents_of(none) and none.identity()["calibration"] is None
    assert check_calibration(same) == made and check_calibration(none) is None


def test_settings_that_leave_nothing_to_it_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not fit reward_combination='advantages'"):
        settings(tmp_path, calibration="c.json", reward_combination="advantages")
    with pytest.raises(ValueError, match="num_videos=4 must be at least 8"):
        calibrate_rewards(settings(tmp_path, calibration="c.json"), num_videos=4)
    with pytest.raises(ValueError, match="name the file to write"):
        calibrate_rewards(settings(tmp_path))


@pytest.mark.slow
def test_from_a_shell(place, made, tmp_path, capsys):
    config = tmp_path / "mine.yaml"
    chosen = config_of(place, tmp_path).to_dict()
    config.write_text(json.dumps(chosen))
    output = tmp_path / "out.json"
    argv = ["calibrate", "--config", str(config), "--output", str(output), "--num-videos", str(NUM_VIDEOS)]
    assert main(argv) == 0
    assert Calibration.load(output) == made
    said = capsys.readouterr().out
    assert f"brightness             {NUM_VIDEOS}" in said and f"written: {output} (digest {made.digest})" in said
    assert main(["calibrate", "--config", "nosuch"]) == 2
    assert "presets are" in capsys.readouterr().err
