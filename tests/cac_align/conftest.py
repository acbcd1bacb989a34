"""The shipped minis do not change while tests run."""

from __future__ import annotations

import functools
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
