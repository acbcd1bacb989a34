"""The package's environment: made by one command, or pointed to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PYTHON_VARIABLE = "VBENCH_PYTHON"
#: Versions that resolve and run together. setuptools 82 took pkg_resources away, which its CLIP imports; transformers
#: 4.33 has tokenizers for Python 3.11 at the latest.
PINS = ("vbench==0.1.5", "torch==2.12.1", "torchvision==0.27.1", "setuptools<82")
PYTHON_VERSION = "3.11"
#: Imported after an installation: what breaks first when a pin is off.
_PROBE = "import vbench, vbench.imaging_quality, vbench.subject_consistency, vbench.dynamic_degree, clip"


def default_folder() -> Path:
    """Default folder of ``cac-align vbench install``: ``$XDG_CACHE_HOME/cac-align/vbench-0.1.5``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cac-align" / "vbench-0.1.5"


def interpreter(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_python(python: str | os.PathLike[str] | None = None) -> Path:
    """The interpreter to run the package with: the argument, else ``$VBENCH_PYTHON``, else the installed one.

    Raises:
        ValueError: if there is none.
    """
    chosen = python or os.environ.get(PYTHON_VARIABLE)
    path = Path(chosen) if chosen else interpreter(default_folder())
    if not path.is_file():
        raise ValueError(
            f"no interpreter with the vbench package at {path}; make one with: cac-align vbench install, or set "
            f"${PYTHON_VARIABLE} to the python of an environment that has it"
        )
    return path.absolute()


def install(folder: Path | None = None, *, quiet: bool = True) -> Path:
    """Makes the environment (about 6 GB with CUDA's libraries) and returns its interpreter.

    An environment that is there and works is left as it is.

    Args:
        folder: None: :func:`default_folder`.
        quiet: do not show the installer's lines.

    Raises:
        ValueError: if no installer fits, or the installation failed or does not import. The message ends with its
            words.
    """
    folder = Path(folder or default_folder()).absolute()
    python = interpreter(folder)
    if python.is_file() and not _run([str(python), "-c", _PROBE]).returncode:
        return python
    uv = _uv()
    if uv is None and sys.version_info[:2] > (3, 11):
        raise ValueError(
            f"the vbench package needs Python {PYTHON_VERSION}, this is {sys.version.split()[0]}: pip install uv, "
            "which fetches the right one"
        )
    if folder.exists():
        shutil.rmtree(folder)  # what a broken-off installation left
    make = (
        [*uv, "venv", "--quiet", "--python", PYTHON_VERSION, str(folder)]
        if uv
        else [sys.executable, "-m", "venv", str(folder)]
    )
    # --python, not $VIRTUAL_ENV: uv started as a module prefers the environment it lives in, and would fill ours.
    fill = [*uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    for command in (make, [*fill, *PINS], [str(python), "-c", _PROBE]):
        done = _run(command, quiet=quiet)
        if done.returncode:
            words = (done.stdout or "").strip().splitlines()[-5:]
            raise ValueError(f"{' '.join(command[:6])} ... failed: {' | '.join(words)}")
    return python


def _uv() -> list[str] | None:
    try:
        import uv

        return [uv.find_uv_bin()]
    except (ImportError, FileNotFoundError):
        program = shutil.which("uv")
    return [program] if program else None


def _run(command: list[str], *, quiet: bool = True) -> subprocess.CompletedProcess[str]:
    # VIRTUAL_ENV and PYTHONPATH of ours must not lead the other environment astray.
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    output = subprocess.PIPE if quiet else None
    return subprocess.run(
        command, stdout=output, stderr=subprocess.STDOUT if quiet else None, text=True, env=environment, check=False
    )
