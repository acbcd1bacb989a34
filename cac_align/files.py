"""Files that are either whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_model.files import atomic

__all__ = ["atomic", "write_json", "write_text"]


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
