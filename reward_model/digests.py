"""SHA-256 digests in hex of texts, JSON values and arrays; that of a file is ``folders.file_digest``."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import numpy as np


def text_digest(text: str | bytes) -> str:
    """Digest of a text in UTF-8, or of bytes. Lone surrogates, which file names and answers of models may hold, count.

    Example:
        >>> text_digest("a dog")[:8]
        '7dbdf68a'
    """
    return sha256(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).hexdigest()


def json_digest(value: Any) -> str:
    """Digest of a value as JSON, whatever the order of its keys; what JSON does not know counts as its text.

    Example:
        >>> json_digest({"a": 1, "b": (2, 3)}) == json_digest({"b": [2, 3], "a": 1})
        True
    """
    return text_digest(json.dumps(value, sort_keys=True, default=str))


def array_digest(array: Any) -> str:
    """Digest of an array's elements in C order; its shape and type do not count."""
    return text_digest(np.ascontiguousarray(array).tobytes())
