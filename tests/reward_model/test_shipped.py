"""The revision of the code is that of its own checkout, and none where it was installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from reward_model import shipped


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_revision_is_the_commit_and_says_where_files_were_changed(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        name = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(["git", "-C", tmp_path, *name, *words], check=True, capture_output=True, text=True).stdout

    monkeypatch.setattr(shipped, "_ABOVE", tmp_path)
    assert shipped.code_revision.__wrapped__() is None
    git("init", "-q")
    assert shipped.code_revision.__wrapped__() is None, "nothing is committed yet"
    (tmp_path / "code.py").write_text("1\n")
    git("add", "code.py")
    git("commit", "-qm", "one")
    git("tag", "v9")
    commit = git("rev-parse", "HEAD").strip()[:12]
    assert shipped.code_revision.__wrapped__() == commit
    (tmp_path / "code.py").write_text("2\n")
    assert shipped.code_revision.__wrapped__() == f"{commit}-dirty"
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(shipped, "_ABOVE", tmp_path / "lib")
    assert shipped.code_revision.__wrapped__() is None, "packages within somebody else's checkout"
