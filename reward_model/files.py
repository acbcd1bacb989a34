"""Files that are either whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends, and is removed when the block fails.

    The temporary name keeps the suffix, which encoders and plotters go by.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output_folder(folder: str | Path, option: str = "--output") -> None:
    """Raises ValueError unless a folder is there or can be made: before any work is done for what is written there.

    Args:
        folder: need not exist yet.
        option: what the message calls it.
    """
    path = Path(folder)
    there = next((p for p in (path, *path.parents) if p.exists() or p.is_symlink()), Path())
    if not there.is_dir():
        what = "is a file" if there == path else f"lies below {str(there)!r}, which is a file"
        raise ValueError(f"{option} {str(path)!r} {what}; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {str(path)!r}: {str(there)!r} cannot be written to; choose another folder")


def write_text(path: str | Path, text: str) -> Path:
    """Writes UTF-8 text atomically and returns the path."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)
