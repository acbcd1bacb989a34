"""Files that are whole or absent, and what a killed process leaves."""

import os
import subprocess
import sys

import pytest

from reward_model import files
from reward_model.files import atomic, atomic_folder, write_text


def test_a_failed_block_leaves_the_old_file_and_no_other(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "judge"
    with atomic_folder(folder) as fresh:
        assert not folder.exists()
        write_text(fresh / "README.md", "written by hand")
        write_text(fresh / "old.txt", "old")
    (tmp_path / "judge.new").mkdir()
    write_text(tmp_path / "judge.new" / "half.txt", "of a killed process")
    with pytest.raises(RuntimeError), atomic_folder(folder) as fresh:
        assert not list(fresh.iterdir())
        write_text(fresh / "new.txt", "half")
        raise RuntimeError
    assert {p.name for p in folder.iterdir()} == {"README.md", "old.txt"}
    for name, keep, expected in (("new.txt", ["README.md"], "written by hand"), ("README.md", ["README.md"], "new")):
        with atomic_folder(folder, keep=keep) as fresh:
            write_text(fresh / name, "new")
        assert {p.name for p in folder.iterdir()} == {name, "README.md"}
        assert (folder / "README.md").read_text() == expected
    assert [p.name for p in tmp_path.iterdir()] == ["judge"], "nothing is left beside it"


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
