"""A small cache of VBench weights and the stand-in videos, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import vbench_standins


@pytest.fixture(autouse=True)
def _no_other_weights(monkeypatch, tmp_path):
    """Weights and environments of this machine's user do not count."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("VBENCH_CACHE_DIR", raising=False)
    monkeypatch.delenv("VBENCH_PYTHON", raising=False)


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every native dimension: two blocks and 64 channels in place of DINO's and MUSIQ's depth."""
    return vbench_standins.write_weights(tmp_path_factory.mktemp("vbench"), width=64, depth=2, musiq_depth=1)


@pytest.fixture(scope="session")
def standin_videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return vbench_standins.write_videos(tmp_path_factory.mktemp("videos"))
