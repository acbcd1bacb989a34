"""Paths of the files that ship with the project: mini checkpoints, prompts, recipes and their presets.

In a checkout they lie in ``assets`` and ``recipes``; a wheel holds the same folders inside its packages.
"""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
#: A checkout, or the folder of installed packages.
_ABOVE = _PACKAGE.parent


def located(path: str | Path) -> str:
    """A path as it stands, or that of the shipped file of this name where only that exists: ``assets/cac-mini`` and
    ``recipes/configs/stage1/full.yaml`` are found from any folder, in a checkout and in an installed package.
    """
    text = str(path)
    if not text or Path(text).is_absolute() or Path(text).exists():
        return text
    for home in (_ABOVE, _PACKAGE, _ABOVE / "cac_align"):
        if (home / text).exists() and text.replace("\\", "/").partition("/")[0] in ("assets", "recipes"):
            return str(home / text)
    return text


def shipped_folder(name: str) -> Path | None:
    """The folder ``assets/<name>``; None if it is not shipped."""
    return next((f for f in (_PACKAGE / "assets" / name, _ABOVE / "assets" / name) if f.is_dir()), None)


def recipes_folder() -> Path:
    """Folder of the recipes.

    Raises:
        ValueError: nowhere.
    """
    for folder in (_ABOVE / "recipes", _ABOVE / "cac_align" / "recipes"):
        if (folder / "configs").is_dir():
            return folder
    raise ValueError("this installation holds no recipes; install the wheel of cac-align, or use a checkout")


@cache
def package_version() -> str:
    """The version of this software, read once per process; ``unknown`` where it runs without having been installed."""
    try:
        return version("cac-align")
    except PackageNotFoundError:
        return "unknown"


@cache
def code_revision() -> str | None:
    """The commit of the checkout that this software runs from, with ``-dirty`` where files in it were changed; None in
    an installed package, or without git.
    """
    if not (_ABOVE / ".git").exists():
        return None
    command = ["git", "-C", str(_ABOVE), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
