"""Files that are whole or absent, and what a killed process leaves."""

import os
import subprocess
import sys

import pytest

from reward_model import files
from reward_model.files import atomic, write_text


def test_a_failed_block_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_what_a_killed_process_left_goes_with_the_next_ones_first_file(tmp_path):
    """Only what was left by a process of this machine that has ended."""
    code = (
        "import os, sys; from reward_model.files import atomic\n"
        "with atomic(sys.argv[1]) as t: t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "01.npz")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".01.") and left.suffix == ".npz"
    host = files._HOST
    others = [f".02.{host}-{os.getppid()}.npz", ".03.0123ab-999999.npz", ".hidden", f".04.{host}-x.npz"]
    for name in others:
        (tmp_path / name).write_text("kept")
    write_text(tmp_path / "b.txt", "new")
    assert {p.name for p in tmp_path.iterdir()} == {*others, "b.txt"}


def test_a_file_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    order, replace = [], files.Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda number: order.append("fsync"))
    monkeypatch.setattr(files.Path, "replace", lambda self, to: (order.append("replace"), replace(self, to))[1])
    write_text(tmp_path / "a.txt", "new")
    assert order == ["fsync", "replace", "fsync"]
