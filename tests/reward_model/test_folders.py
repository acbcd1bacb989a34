"""Folders of other people's files: what can be read is listed, what cannot is told, and two runs never mix."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_model.folders import FolderInUseError, file_digest, hold, regular_files


def crowd(folder: Path) -> None:
    """A good file among everything a folder can hold."""
    (folder / "below").mkdir()
    (folder / "below" / "good.mp4").write_bytes(b"1")
    (folder / "GOOD.MP4").write_bytes(b"2")
    (folder / "named.mp4").mkdir()
    (folder / "notes.txt").write_bytes(b"3")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dead.mp4").symlink_to("nothing.mp4")
    (folder / "round").symlink_to(".")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4")).write_bytes(b"4")


def test_only_regular_files_are_listed_and_the_others_are_told(tmp_path):
    crowd(tmp_path)
    told: dict[str, str] = {}
    found = regular_files(tmp_path, {".mp4"}, utf8=True, leave_out=lambda p, why: told.update({p.name: why}))
    assert [p.name for p in found] == ["GOOD.MP4", "good.mp4"]
    assert told.keys() == {"pipe.mp4", "loop.mp4", "dead.mp4", "caf\udce9.mp4"}
    assert "pipe" in told["pipe.mp4"] and "links" in told["loop.mp4"] and "UTF-8" in told["caf\udce9.mp4"]
    assert len(regular_files(tmp_path)) == 4  # every suffix, every name
    assert regular_files(tmp_path / "nothing") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_told(tmp_path):
    (tmp_path / "mine.mp4").write_bytes(b"1")
    (tmp_path / "mine.mp4").chmod(0)
    told: list[str] = []
    assert regular_files(tmp_path, leave_out=lambda p, why: told.append(why)) == [] and "permission" in told[0]


def test_a_digest_follows_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = file_digest(path)
    assert file_digest(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert file_digest(path) != first
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        file_digest(tmp_path / "pipe")


def test_two_runs_do_not_hold_one_folder(tmp_path):
    code = f"from reward_model.folders import hold\nfrom pathlib import Path\nwith hold(Path({str(tmp_path)!r})): pass"
    with hold(tmp_path):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert other.returncode and "FolderInUseError" in other.stderr and "another output folder" in other.stderr
    with hold(tmp_path), pytest.raises(FolderInUseError), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass
