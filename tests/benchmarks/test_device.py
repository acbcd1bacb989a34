"""The device benchmark at tiny sizes: the code that a GPU will run, on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def device() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("device")
    sys.path.remove(str(FOLDER))


def test_a_part_that_outlives_its_limit_is_stopped_and_says_so(device: ModuleType) -> None:
    found = device.run_part("vae", "tiny", 0.2)
    assert found["status"] == "stopped at its limit of 0.2 s"
    assert found["rows"] == []


def test_rows_are_on_the_disk_as_soon_as_they_are_known(device: ModuleType, tmp_path: Path) -> None:
    seen: list[int] = []

    def job(size: object) -> Iterator[dict[str, object]]:
        yield {"what": "first", "seconds": 1.0}
        seen.append(len((tmp_path / "rows").read_text().splitlines()))
        yield {"what": "second", "seconds": 2.0}

    device.PARTS["odd"] = (job, 1)
    try:
        device.measure("odd", "tiny", tmp_path / "rows")
    finally:
        del device.PARTS["odd"]
    assert seen == [1]
    assert [json.loads(line)["what"] for line in (tmp_path / "rows").read_text().splitlines()] == ["first", "second"]


def test_the_page_shows_partial_parts_and_says_that_tiny_figures_mean_nothing(device: ModuleType) -> None:
    parts = {"judge": {"status": "stopped at its limit of 170 s", "seconds": 170.0, "rows": [{"what": "a", "GiB": 1}]}}
    text = device.page({"command": "c", "date": "d", "size": "tiny", **device.facts(), "parts": parts})
    assert "stopped at its limit of 170 s, 170 s" in text
    assert "| a | 1 |" in text
    assert "The figures mean nothing" in text


@pytest.mark.slow
def test_the_judge_of_fixed_answers_goes_through_both_turns(device: ModuleType) -> None:
    parts = importlib.import_module("device_parts")
    rows = parts.measure_judge(device.TINY)  # measured as they are asked for: the rest is left to the slow test
    two = next(row for row in rows if row["what"].startswith("two turns, one batch"))
    assert two["answer tokens"] == device.TINY.num_videos * 2 * device.TINY.answer_tokens


@pytest.mark.slow
def test_every_part_runs_at_tiny_sizes(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "device.py"), "--size", "tiny", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "device.json").read_text())
    assert {part["status"] for part in found["parts"].values()} == {"done"}
    floor = found["parts"]["step"]["rows"][0]
    assert floor["floor"] == 0  # float32 on a CPU replays exactly
    assert (tmp_path / "device.md").read_text().count("\n## ") == 4
