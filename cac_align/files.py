"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from reward_model.files import atomic

__all__ = ["atomic", "prompt_name", "write_json", "write_text"]


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


def prompt_name(prompt: str, *, longest: int = 40) -> str:
    """A folder name for a prompt: its first words, and a digest that tells it from every other prompt.

    Example:
        >>> prompt_name("A red ball, bouncing!")
        'a-red-ball-bouncing-f2306ca6'
    """
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    if len(words) > longest:
        words = words[: longest + 1].rpartition("-")[0] or words[:longest]
    digest = hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{words}-{digest}" if words else digest
