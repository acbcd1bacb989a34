"""What a checkpoint knows of its training videos, and its mark of a demonstration, from one checkpoint to the next."""

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from reward_model.backends import source
from reward_model.backends.local import LocalBackend
from reward_model.config import load_judge_config
from reward_model.conversation import Message
from reward_model.domain import DOMAIN_FILE, Domain
from reward_model.schema import VideoAnnotation
from reward_model.training import domain_file
from reward_model.training.grpo.setup import judge_file
from reward_model.video.clip import Video


@pytest.fixture
def folder(tmp_path, judge_folder):
    shutil.copytree(judge_folder, tmp_path, dirs_exist_ok=True)
    settings = {"prompts": "compact", "frame_size": 32, "demo_scale": True, "trained_on": {"seconds": [9, 9]}}
    (tmp_path / "judge.json").write_text(json.dumps(settings))
    return tmp_path


def clips(count, num_frames=5, side=32):
    rng = np.random.default_rng(0)
    for k in range(count):
        yield Video(rng.integers(0, 255, (num_frames + k % 4, side, side + 8, 3)).astype(np.uint8), 8.0)


def test_a_folder_of_videos_becomes_a_domain_and_a_statement(folder):
    weights = (folder / "model.safetensors").read_bytes()
    domain_file.write_domain(folder, clips(domain_file.LEAST_VIDEOS), footage="noise")
    domain = Domain.load(folder)
    # Quantiles come from videos that were not fitted: two of seven.
    assert len(domain.appearance_bank) == 75 and len(domain.state_reference) == 30
    stated = load_judge_config(folder).trained_on
    assert stated.seconds == (0.62, 1.0) and stated.fps == (8, 8) and stated.side == (32, 40)
    assert stated.footage == "noise" and load_judge_config(folder).demo_scale
    assert (folder / "model.safetensors").read_bytes() == weights
    assert LocalBackend(folder, device="cpu").watch


def test_too_few_videos_leave_everything_as_it_was(folder):
    before = (folder / "judge.json").read_bytes()
    with pytest.raises(ValueError, match="4 videos are too few to know a domain by; give at least 105"):
        domain_file.write_domain(folder, clips(4))
    assert (folder / "judge.json").read_bytes() == before and not (folder / DOMAIN_FILE).exists()


SCANS = [{"task": "scan" if k % 2 else "zoom", "length": 3 + k % 5} for k in range(300)]


RANDOM = np.random.default_rng(1)


def load_scan(row):
    frames = RANDOM.integers(0, 255, (row["length"], 32, 32, 3)).astype(np.uint8)
    return SimpleNamespace(conversation=(Message("user", ("look", *frames)),))


@pytest.mark.slow
def test_stage_two_looks_at_its_own_scans(folder):
    assert domain_file.domain_of_scans(folder, SCANS, load_scan, 150) == folder / DOMAIN_FILE
    assert load_judge_config(folder).trained_on.seconds == (0.5, 1.75)


def test_stage_two_never_breaks_the_judge(folder, caplog):
    rows, load = SCANS, load_scan
    assert domain_file.domain_of_scans(folder, rows[:40], load, 120) is None
    assert domain_file.domain_of_scans(folder, rows, lambda row: 1 / 0, 120) is None
    assert "no domain file: division by zero" in caplog.text and not (folder / DOMAIN_FILE).exists()


@pytest.mark.slow
def test_stage_three_looks_at_its_own_videos_through_the_frames_a_turn_can_show(folder):
    rng = np.random.default_rng(2)
    rows = Dataset.from_list([{"number": k, "story": "shifted"} for k in range(130)])
    passed_over = next(k for k in range(130) if k not in {n * 130 // 110 for n in range(110)})

    def load(row):
        truth = VideoAnnotation("v", 17, 16.0, 96 if row["number"] == passed_over else 32, 24)
        kept = {0: 0, 4: 1, 8: 2, 12: 3, 16: 4}  # as the cache of decoded videos keeps them
        pixels = rng.integers(0, 255, (5, 24, 32, 3)).astype(np.uint8)
        return SimpleNamespace(truth=truth, frames=lambda indices: pixels[[kept[n] for n in indices]])

    assert domain_file.domain_of_samples(folder, rows, load, 110) == folder / DOMAIN_FILE
    assert load_judge_config(folder).trained_on.aspect == (1.33, 4.0)  # of the one that was not looked at, too
    assert "trained_on" not in json.loads(judge_file(str(folder), load_judge_config(folder)))
    assert json.loads(judge_file(str(folder), load_judge_config(folder)))["demo_scale"] is True


def test_a_demonstration_is_told_once_wherever_it_was_copied_to(folder):
    source._warn_of_demo_scale.cache_clear()
    with pytest.warns(UserWarning, match=r"is demo-scale: its judge.json says demo_scale"):
        source.announce_demo_scale(str(folder), True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.announce_demo_scale(str(folder), True)
        source.announce_demo_scale("elsewhere", False)
        source.announce_demo_scale(str(source.shipped_folder("cac-mini")), True)  # it has a warning of its own


@pytest.mark.parametrize("opened", ["reward", "evaluation", "stage 2", "stage 3"])
def test_every_way_to_open_a_copy_tells_that_it_is_a_demonstration(folder, opened):
    source._warn_of_demo_scale.cache_clear()
    with pytest.warns(UserWarning, match="is demo-scale"):
        if opened == "reward":
            from cac_align import CaCReward

            reward = CaCReward(folder, device="cpu")
            assert reward.judge_model and "is a demonstration" in reward.demo_note
        elif opened == "evaluation":
            from reward_model.evaluation.running.contestants import ModelSource, judge_contestant

            judge_contestant("copy", ModelSource(str(folder), "local", {"device": "cpu"})).open()
        elif opened == "stage 2":
            from reward_model.training.sft.config import parse_stage
            from reward_model.training.sft.model import load_model

            stage, config, model = parse_stage(
                ["--model_name_or_path", str(folder), "--data", "world", "--use_cpu", "true", "--bf16", "false"]
            )
            assert load_model(model, stage, config.seed)[2].demo_scale
        else:
            from reward_model.training.grpo.setup import open_trainer

            data = {"source": "world", "rows": 2, "size": 32}
            told = open_trainer({"model": str(folder), "data": data, "judge": {"max_scan_tokens": 1}})
            with pytest.raises(ValueError, match="max_scan_tokens"), told:  # refused only after it was told
                pass
