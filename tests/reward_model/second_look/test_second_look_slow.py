"""The command of docs/second_look.md, run: its whole path in minutes, and then what it is to show, in twenty."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reward_model.evaluation.running.row import Row
from reward_model.evaluation.running.store import read_rows
from reward_model.second_look.tables import flags, scan_right
from tests.launched import ROOT

pytestmark = pytest.mark.slow


def run(*words: object) -> str:
    command = [sys.executable, str(ROOT / "recipes" / "second_look.py"), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=7200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def judged(output: Path) -> dict[str, list[Row]]:
    """Rows of every judge by the name of its folder."""
    return {p.parent.name: read_rows(p).rows for p in sorted(output.glob("rows/*/second-look.jsonl"))}


def gain(rows: list[Row]) -> float:
    """Accuracy of two turns minus that of one."""
    return sum(row.correct - scan_right(row) for row in rows) / len(rows)


def test_the_whole_path_runs_and_resumes(tmp_path):
    words = ["--config", "smoke", "--output-dir", tmp_path]
    assert "batch_deviation, seed 0: 1 steps" in run(*words)
    tables = json.loads((tmp_path / "tables.json").read_text())
    assert [row["judge"] for row in tables[0]["groups"][0]] == ["judge as given", "stage 2", "batch_deviation"]
    settings = (tmp_path / "seed-0" / "stage2" / "settings.yaml").read_text()
    assert "supervision: people" in settings
    weights = (tmp_path / "seed-0" / "batch_deviation" / "judge" / "model.safetensors").read_bytes()
    again = run(*words)
    assert "steps, log in" not in again and "videos\n" not in again.partition("One turn")[0]
    assert (tmp_path / "seed-0" / "batch_deviation" / "judge" / "model.safetensors").read_bytes() == weights
    for rows in judged(tmp_path).values():
        pairs = list(zip(rows[::2], rows[1::2], strict=True))
        hard = [(a, b) for a, b in pairs if a.group == "zoom/fade"]
        assert hard and all(flags(a) == flags(b) for a, b in hard), "the scan of a pair is the same"


def test_two_turns_beat_one_after_stage_2_and_stage_3_does_not_lose_it(tmp_path):
    """About twenty minutes of one core: 400 of 700 steps, 30 of 60. The gain of two turns is 0.4 q (s + c - 1): 0.1 is
    reached where half the undecided scans are flagged and turn two decides three of four rightly.
    """
    changes = ["variants=[batch_deviation]", "stage2.max_steps=400", "stage3.max_steps=30"]
    run("--seeds", 0, "--output-dir", tmp_path, "--set", *changes)
    found = judged(tmp_path)
    second, third = found["stage_2_seed_0"], found["batch_deviation_seed_0"]
    for rows in (second, third):
        one = sum(map(scan_right, rows)) / len(rows)
        assert 0.5 < one < 0.63, "one turn decides what is easy, and no more: 0.6 at most, but for rounding"
    assert gain(second) >= 0.1
    assert gain(third) >= max(0.1, gain(second) - 0.05)
