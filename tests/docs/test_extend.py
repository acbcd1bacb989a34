"""The page on extensions does what it says: its changes apply to the packages as they are, and its examples run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import DOCS, ROOT, blocks

BLOCKS = blocks(DOCS / "extend.md")


def changed(source: str, change: str) -> str:
    """A file after a change: parts with ``...`` between them, each of lines that stay, go (``-``) or come (``+``)."""
    for part in change.rstrip("\n").split("\n...\n"):
        lines = part.split("\n")
        old = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " -")
        new = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " +")
        assert source.count(old) == 1, f"docs/extend.md does not fit the code any more: no single place for\n{old}"
        source = source.replace(old, new)
    return source


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two packages with all changes of the page in them."""
    folder = tmp_path_factory.mktemp("extended")
    for package in ("reward_model", "cac_align"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    (folder / "assets").symlink_to(ROOT / "assets")
    for block in BLOCKS:
        path, _, text = block.code.removeprefix("# ").partition("\n")
        if block.language == "diff":
            file = folder / path
            file.write_text(changed(file.read_text(encoding="utf-8"), text), encoding="utf-8")
        elif block.reason == "a new file":
            (folder / path).write_text(text, encoding="utf-8")
    return folder


def test_the_changes_apply(extended):
    kernels = (extended / "cac_align/flow_grpo/maths/kernels.py").read_text()
    assert '"proportional"' in kernels and (extended / "reward_model/data/corruptions/negative.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason and "needs the change" in b.reason], ids=str)
def test_the_examples_of_changed_packages_run(extended, block):
    environment = {**os.environ, "PYTHONPATH": str(extended)}
    done = subprocess.run(
        [sys.executable, "-c", block.code], cwd=extended, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
