"""SHA-256 digests in hex of texts, JSON values, arrays and models; that of a file is ``folders.file_digest``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: Bytes read at both ends of a file too large to hash as a whole.
_EDGE = 1 << 20
_WHOLE = 64 << 20


def text_digest(text: str | bytes) -> str:
    """Digest of a text in UTF-8, or of bytes. Lone surrogates, which file names and answers of models may hold, count.

    Example:
        >>> text_digest("a dog")[:8]
        '7dbdf68a'
    """
    return sha256(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).hexdigest()


def json_digest(value: object) -> str:
    """Digest of a value as JSON, whatever the order of its keys; what JSON does not know counts as its text.

    Example:
        >>> json_digest({"a": 1, "b": (2, 3)}) == json_digest({"b": [2, 3], "a": 1})
        True
    """
    return text_digest(json.dumps(value, sort_keys=True, default=str))


def array_digest(array: np.ndarray) -> str:
    """Digest of an array's elements in C order; its shape and type do not count."""
    import numpy as np  # commands that hash a text only start without it

    return text_digest(np.ascontiguousarray(array).tobytes())


def model_fingerprint(
    model: str | Path, settings: Mapping[str, Any] | None = None, *, leave_out: Collection[str] = ()
) -> str:
    """Changes with the settings and, for a folder, with the content of its files but those named ``leave_out``; a name
    stands for itself.

    Files over 64 MiB count by size, both ends and time of change, so that a large checkpoint costs nothing.
    """
    folder = Path(model)
    files: list[Any] = [str(model)] if not folder.is_dir() else []
    for file in sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []:
        if file.name in leave_out:
            continue
        files.append((file.relative_to(folder).as_posix(), _file_mark(file)))
    return json_digest([files, dict(settings or {})])


def _file_mark(file: Path) -> str:
    size = file.stat().st_size
    digest = sha256(str(size).encode())
    with file.open("rb") as stream:
        if size <= _WHOLE:
            digest.update(stream.read())
        else:
            digest.update(stream.read(_EDGE) + str(file.stat().st_mtime_ns).encode())
            stream.seek(-_EDGE, 2)
            digest.update(stream.read())
    return digest.hexdigest()
