"""Units of work: done once, shared between processes, and free again when a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cac_align.table2.work import NothingToWaitFor, Unit, claim, held_claims, work_through

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import os, sys, time
from pathlib import Path
from cac_align.table2.work import Unit, work_through
folder = Path(sys.argv[1])
def unit(k):
    path = folder / f"unit-{k}"
    def run():
        with (folder / "log").open("a") as log:
            log.write(f"{k}\\n")
        time.sleep(float(sys.argv[2]))
        path.write_text(str(os.getpid()))
    return Unit(f"unit {k}", path.exists, run, lambda: k % 2 == 0 or (folder / f"unit-{k - 1}").exists())
work_through([unit(k) for k in range(8)], folder / "locks", poll_s=0.02)
"""


def unit(folder: Path, name: str, log: list[str], needs: str | None = None) -> Unit:
    def run() -> None:
        log.append(name)
        (folder / name).touch()

    return Unit(name, (folder / name).exists, run, lambda: needs is None or (folder / needs).exists())


def test_units_wait_for_what_they_need(tmp_path):
    log: list[str] = []
    work_through([unit(tmp_path, "b", log, "a"), unit(tmp_path, "a", log)], tmp_path / "locks", poll_s=0)
    assert log == ["a", "b"]
    work_through([unit(tmp_path, "a", log)], tmp_path / "locks")
    assert log == ["a", "b"], "nothing is done twice"


def test_waiting_for_nobody_ends(tmp_path):
    with pytest.raises(NothingToWaitFor, match=r"1 units wait .* such as 'b'; run the earlier parts"):
        work_through([unit(tmp_path, "b", [], "a")], tmp_path / "locks", poll_s=0)


def test_a_claim_excludes_others_and_is_let_go(tmp_path):
    with claim(tmp_path, "x") as first, claim(tmp_path, "x") as second, claim(tmp_path, "y") as other:
        assert first and other and not second
    with claim(tmp_path, "x") as again:
        assert again


def test_a_child_that_outlives_its_parent_keeps_the_claim(tmp_path):
    with claim(tmp_path, "x"):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held_claims())
    with claim(tmp_path, "x") as mine:
        assert not mine, "the child still runs"
    child.communicate(b"\n", timeout=60)
    with claim(tmp_path, "x") as mine:
        assert mine
    assert held_claims() == ()


def worker(folder: Path, seconds: float) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seconds)], env=environment)


def test_two_processes_share_and_do_nothing_twice(tmp_path):
    both = [worker(tmp_path, 0.05) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == [str(k) for k in range(8)]


def test_a_killed_process_leaves_its_unit_to_others(tmp_path):
    first = worker(tmp_path, 60)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert worker(tmp_path, 0).wait(60) == 0
    assert sorted((tmp_path / "log").read_text().split()) == ["0", *[str(k) for k in range(8)]]
