"""The command itself, killed and resumed, and in two processes at once: the table is always the same one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.cac_align.table2 import tables

pytestmark = pytest.mark.slow


def start(config: Path, count: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(tables.ROOT), "TABLE_TEST_COUNT": str(count)}
    command = [sys.executable, "recipes/table2.py", "--config", str(config), *arguments]
    return subprocess.Popen(command, env=environment, cwd=tables.ROOT, stdout=subprocess.DEVNULL)


def write(inputs: Path, folder: Path) -> Path:
    folder.mkdir()
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump(tables.settings(inputs, folder / "out", train_seeds=[0, 1])))
    return path


def result(folder: Path) -> dict:
    data = json.loads((folder / "out" / "table2.json").read_text())
    return {**data, "settings": None}


@pytest.fixture(scope="module")
def reference(table_inputs, tmp_path_factory):
    """One process, undisturbed."""
    folder = tmp_path_factory.mktemp("one") / "run"
    config = write(table_inputs, folder)
    assert start(config, folder / "count").wait(1800) == 0
    return folder


def test_two_processes_make_the_same_table_and_do_nothing_twice(reference, table_inputs, tmp_path):
    folder = tmp_path / "run"
    config = write(table_inputs, folder)
    both = [start(config, folder / "count"), start(config, folder / "count")]
    assert [p.wait(1800) for p in both] == [0, 0]
    assert result(folder) == result(reference)
    assert scored(folder) == scored(reference)


def test_a_killed_run_continues_to_the_same_table(reference, table_inputs, tmp_path):
    """Killed in a training, among the draws and among the scores; what was done then is not done again."""
    folder = tmp_path / "run"
    config = write(table_inputs, folder)
    for pattern in ("runs/*/*/checkpoint-1", "videos/base/0001-0/candidates/*.npz", "scores/base/0001-0.json"):
        running = start(config, folder / "count")
        wait_for(folder / "out", pattern, running)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    before = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("candidates/*.npz")}
    assert start(config, folder / "count").wait(1800) == 0
    assert before and all(p.stat().st_mtime_ns == t for p, t in before.items())
    assert result(folder) == result(reference)
    # The kill in a training loses at most a step of two videos, that among the scores one call about three candidates.
    assert len(scored(folder)) - len(scored(reference)) <= 2 + 3


def scored(folder: Path) -> list[str]:
    """A line for each question about a video; trainings ask too, equally often."""
    return sorted((folder / "count").read_text().split())


def wait_for(folder: Path, pattern: str, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 900
    while not list(folder.glob(pattern)):
        assert running.poll() is None and time.monotonic() < deadline, f"no {pattern}"
        time.sleep(0.005)
