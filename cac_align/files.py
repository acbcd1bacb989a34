"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends, and is removed when the block fails.

    The temporary name keeps the suffix, which encoders go by.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically; lone surrogates, which file names can carry, become question marks."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def write_json(path: Path, data: Any) -> None:
    """Writes readable JSON atomically.

    Raises:
        ValueError: the data holds NaN or infinity, which JSON has no word for.
    """
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
