"""The environment of the real package: made beside ours, never into it. A one-module wheel stands for the package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cac_align.metrics import environment
from cac_align.metrics.environment import find_python, install, interpreter


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that installs without a network, in place of the pins."""
    path, record = tmp_path / "vbench_standin-1.0-py3-none-any.whl", "vbench_standin-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vbench_standin.py", "answer = 42\n")
        archive.writestr(f"{record}/METADATA", "Metadata-Version: 2.1\nName: vbench-standin\nVersion: 1.0\n")
        archive.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{record}/RECORD", "")
    monkeypatch.setattr(environment, "PINS", (str(path),))
    monkeypatch.setattr(environment, "PYTHON_VERSION", f"{sys.version_info[0]}.{sys.version_info[1]}")
    monkeypatch.setattr(environment, "_PROBE", "import vbench_standin")
    return path


def test_it_fills_its_own_folder_and_not_ours(wheel, tmp_path, monkeypatch):
    """Which bug: uv, started from a virtual environment, installs into that one whatever $VIRTUAL_ENV says."""
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    python = install(tmp_path / "env")
    assert python == interpreter(tmp_path / "env")
    assert subprocess.check_output([python, "-c", "import vbench_standin as v; print(v.answer)"]) == b"42\n"
    assert importlib.util.find_spec("vbench_standin") is None
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.check_output([sys.executable, "-c", "import vbench_standin"], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_working_one_is_left_alone_and_a_broken_one_made_anew(wheel, tmp_path):
    python = install(tmp_path / "env")
    marker = tmp_path / "env" / "marker"
    marker.touch()
    install(tmp_path / "env")
    assert marker.exists()
    next((tmp_path / "env").rglob("vbench_standin.py")).unlink()
    assert install(tmp_path / "env") == python
    assert not marker.exists()


@pytest.mark.slow
def test_a_pin_that_cannot_be_had_is_named(wheel, tmp_path):
    wheel.unlink()
    with pytest.raises(ValueError, match=r"pip install --python .* failed: .*vbench_standin-1\.0"):
        install(tmp_path / "env")


def test_an_interpreter_can_be_pointed_to(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="cac-align vbench install"):
        find_python()
    monkeypatch.setenv("VBENCH_PYTHON", sys.executable)
    assert find_python() == Path(sys.executable)
    with pytest.raises(ValueError, match=r"nowhere/python"):
        find_python(tmp_path / "nowhere" / "python")
