"""Files that are either whole or absent, also after a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Of this machine: the number of a process means something on it alone, and folders can be shared.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})-(\d+)(?:\.[^.]*)?")
#: Folders whose leftovers this process has cleared.
_cleared: set[Path] = set()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends, and is removed when the block fails.

    The temporary name keeps the suffix, which encoders and plotters go by. What a killed process left in the folder
    goes with the first file that another one writes there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path.parent)
    temporary = path.with_name(f".{path.stem}.{_HOST}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        to_disk(temporary)
        temporary.replace(path)
        to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(path: str | Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk; where the system cannot tell, not at all."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _clear_leftovers(folder: Path) -> None:
    """Removes temporaries of processes of this machine that have ended."""
    if folder in _cleared:
        return
    _cleared.add(folder)
    for entry in list(os.scandir(folder)):
        found = _TEMPORARY.fullmatch(entry.name)
        if found and found[1] == _HOST and not _is_alive(int(found[2])):
            with contextlib.suppress(OSError):
                Path(entry.path).unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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
    """Writes UTF-8 text atomically and returns the path; lone surrogates, which file names can carry, become question
    marks.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return Path(path)


def write_json(path: str | Path, data: Any) -> Path:
    """Writes readable JSON atomically and returns the path.

    Raises:
        ValueError: the data holds NaN or infinity, which JSON has no word for.
    """
    return write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
