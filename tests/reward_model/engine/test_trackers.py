"""Trackers of a run: the real TensorBoard, the refusal of what is not installed, and the others where they are."""

from __future__ import annotations

import sqlite3
import sys
import time
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.run_log import RunLog
from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from reward_model.engine.trackers import Trackers, check_reporters
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.setup import open_trainer

FRAMES = np.zeros((5, 40, 30, 3), np.uint8)


def missing(monkeypatch, name):
    """Makes a package look as if it were not installed, also where it is."""
    monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorboard", r'pip install "cac-align\[train\]"'),
        ("wandb", "pip install wandb"),
        ("trackio", "install trackio"),
    ],
)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(monkeypatch, tmp_path, name, line):
    missing(monkeypatch, name)
    said = rf"report_to={name} needs .*{line}, or set report_to to none"
    with pytest.raises(ValueError, match=said):
        FlowGRPOTrainer(FlowGRPOConfig(model="nowhere", report_to=name))
    with pytest.raises(ValueError, match=said), open_trainer({"model": "nowhere", "data": {}, "report_to": name}):
        pass
    with pytest.raises(ValueError, match=said):
        RunLog(tmp_path / "run", report_to=["none", name])
    assert not (tmp_path / "run").exists()


def test_a_project_asks_for_wandb_unless_trackio_is_named(monkeypatch):
    missing(monkeypatch, "wandb")
    missing(monkeypatch, "trackio")
    with pytest.raises(ValueError, match="wandb_project='mine' needs Weights & Biases: pip install wandb"):
        check_reporters(["tensorboard"], "mine")
    with pytest.raises(ValueError, match="report_to=trackio needs trackio"):
        check_reporters(["trackio"], "mine")
    assert check_reporters(["tensorboard"]) == ["tensorboard"] and check_reporters(["none"]) == []


@pytest.mark.parametrize("config", [FlowGRPOConfig, GrpoConfig])
def test_both_trainings_take_the_same_names(config):
    assert config().report_to == ["tensorboard"]
    assert config(report_to="trackio").report_to == ["trackio"]
    assert config.from_dict({"report_to": ["wandb", "tensorboard"]}).report_to == ["wandb", "tensorboard"]
    for wrong, said in (
        ("mlflow", "must be a list of tensorboard, wandb, trackio, none"),
        ([], "must name at least one place"),
        (["none", "wandb"], "'none' stands alone"),
    ):
        with pytest.raises(ValueError, match=said):
            config(report_to=wrong)


def shown(folder, name):
    """A run that shows a number, a video and a table in a tracker."""
    from reward_model.video.writing import write_mp4

    path = folder / "videos" / "best.mp4"
    write_mp4(path, FRAMES, 16)
    project = None if name == "tensorboard" else "of-a-test"
    trackers = Trackers([name], folder, project=project, settings={"learning_rate": 0.25, "rewards": ["cac"]})
    trackers.numbers(1, {"reward/mean": 0.5})
    trackers.video(1, "videos/best", path, FRAMES, fps=16, text="a ball")
    trackers.table(1, "samples", ["truth", "reward"], [["normal", 1.0]], "| truth |\n|---|\n| normal |")
    trackers.numbers(2, {"reward/mean": 0.75})
    trackers.flush()
    trackers.close()


def test_tensorboard_shows_numbers_videos_and_tables(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.5), (2, 0.75)]
    assert events.Images("videos/best")[0].encoded_image_string.startswith(b"GIF8")
    [text] = events.Tensors("samples/text_summary")
    assert b"| normal |" in text.tensor_proto.string_val[0]
    assert [p.name for p in (tmp_path / "tensorboard").iterdir() if p.is_dir()] == [], (
        "settings are no run of their own"
    )


def test_what_a_stopped_run_showed_beyond_its_checkpoint_is_forgotten(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    for first, values in ((0, [0.1, 0.2, 0.3]), (1, [0.5])):
        # Files are read in the order of their names, which hold the second: no run goes on within it but this one.
        monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda at=first: 1_700_000_000 + at))
        log = RunLog(tmp_path, first_step=first)
        for step, value in enumerate(values, first + 1):
            log.numbers(step, {"reward/mean": value})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("reward/mean")] == [(1, 0.1), (2, 0.5)]


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_shows_numbers_videos_and_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    shown(tmp_path, "wandb")
    [run] = (tmp_path / "wandb").glob("offline-run-*")
    [record] = run.glob("*.wandb")
    words = (b"reward/mean", b"of-a-test", b"learning_rate", b"a ball")
    end = time.monotonic() + 20  # its own process may write a moment longer
    while time.monotonic() < end and not all(word in record.read_bytes() for word in words):
        time.sleep(0.1)
    assert [word for word in words if word not in record.read_bytes()] == []
    assert len(list(run.rglob("*.mp4"))) == 1 and len(list(run.rglob("*.table.json"))) == 1
    with pytest.raises(ValueError, match=r"report_to=wandb does not open project 'a/b': .*; log in, set WANDB_MODE"):
        Trackers(["wandb"], tmp_path, project="a/b")


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_shows_numbers_videos_and_tables(tmp_path):
    import trackio.utils

    place = trackio.utils.TRACKIO_DIR  # read from $TRACKIO_DIR when trackio is imported
    shown(tmp_path, "trackio")
    [database] = place.rglob("of-a-test.db")
    with sqlite3.connect(database) as connection:
        rows = [row for name in ("configs", "metrics") for row in connection.execute(f"SELECT * FROM {name}")]
    told = b"".join(value for row in rows for value in row if isinstance(value, bytes))
    assert all(word in told for word in (b"reward/mean", b"learning_rate", b"trackio.video", b"| normal |"))
