"""Pieces that most tests of the plugin need, made once and small."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reward_model import digests

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.fixture(scope="session", autouse=True)
def shipped_minis_hashed_once() -> Iterator[None]:
    """A training's checkpoint names its model by content: a tenth of a second for ten megabytes, in every run."""
    mark = digests._file_mark
    known = functools.cache(mark)

    def once(file: Path) -> str:
        place = file.resolve()
        return known(place) if place.is_relative_to(ASSETS) else mark(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "_file_mark", once)
        yield


@pytest.fixture(scope="session")
def judge_folder(judge_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny judge with pictures of 24 pixels a side in place of 48: it answers garbage either way, and sooner."""
    folder = Path(shutil.copytree(judge_folder, tmp_path_factory.mktemp("small") / "tiny-judge"))
    changed = 0
    for file in folder.glob("*processor*.json"):
        text = file.read_text(encoding="utf-8")
        changed += text.count(str(48**2))
        file.write_text(text.replace(str(48**2), str(24**2)), encoding="utf-8")
    assert changed, "the processor names its size in pixels"
    return folder
