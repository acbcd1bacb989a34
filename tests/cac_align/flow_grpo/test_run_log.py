"""The log: numbers, animated pictures, and what a resumed run keeps of it."""

import json
import math
import sys

import numpy as np
import pytest

from cac_align.flow_grpo.run_log import RunLog


def frames(count=60, height=40, width=30):
    video = np.zeros((count, height, width, 3), np.uint8)
    video[:, :, :, 0] = np.linspace(0, 255, count).astype(np.uint8)[:, None, None]
    return video


def test_videos_go_to_files_and_to_tensorboard(tmp_path):
    log = RunLog(tmp_path)
    log.video(7, "group-0-best", frames(9), 16, text="a ball")
    log.numbers(7, {"reward/mean": 0.5, "nothing": math.nan})
    log.close()
    folder = tmp_path / "videos" / "step-00007"
    assert (folder / "group-0-best.mp4").stat().st_size > 500 and (
        folder / "group-0-best.txt"
    ).read_text() == "a ball\n"
    events = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b"GIF89a" in events and b"videos/group-0-best" in events
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, "reward/mean": 0.5}


def test_tensorboard_reads_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path)
    log.numbers(1, {"reward/mean": 0.25})
    log.video(1, "v", frames(5), 16)
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("reward/mean")[0].value == 0.25
    assert events.Images("videos/v")[0].encoded_image_string.startswith(b"GIF8")


def test_other_processes_write_nothing(tmp_path):
    log = RunLog(tmp_path / "x", active=False)
    log.numbers(1, {"a": 1.0})
    log.video(1, "v", frames(5), 16)
    log.close()
    assert not (tmp_path / "x").exists()


def test_without_tensorboard_numbers_and_videos_are_files(tmp_path, monkeypatch):
    """A plain install has no tensorboard: the message has the pip line, and report_to none goes on without it."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r'pip install "cac-align\[train\]", or set report_to to none'):
        RunLog(tmp_path)
    log = RunLog(tmp_path, report_to=["none"])
    log.numbers(1, {"a": 1.0})
    log.video(1, "v", frames(5), 16)
    log.flush()
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "videos"]
