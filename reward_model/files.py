"""Files and folders that are either whole or absent, also after a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

#: Of this machine: the number of a process means something on it alone, and folders can be shared.
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
#: Names that :func:`atomic` gives, and gave before it named the machine.
_TEMPORARY = re.compile(r"\..+\.(?:([0-9a-f]{6})-(\d+)(?:\.[^.]*)?|(\d+)\.\w+)")
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
    if path.parent not in _cleared:
        _cleared.add(path.parent)
        clear_leftovers(path.parent)
    temporary = path.with_name(f".{path.stem}.{_HOST}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        to_disk(temporary)
        temporary.replace(path)
        to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path, *, keep: Sequence[str] = ()) -> Iterator[Path]:
    """An empty folder beside ``folder`` that replaces it when the block ends, and is removed when the block fails.

    Args:
        folder: need not exist.
        keep: names of files that stay as they are unless the block writes them anew.
    """
    folder = Path(folder)
    fresh = empty_folder(folder.with_name(folder.name + ".new"))
    try:
        yield fresh
        for name in keep:
            if (folder / name).is_file() and not (fresh / name).exists():
                shutil.copy2(folder / name, fresh / name)
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def empty_folder(folder: Path) -> Path:
    """The folder, empty: what a stopped process left in it goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def replace_folder(fresh: Path, folder: Path) -> None:
    """Moves a complete folder to the place of an older one, which goes; all its files are on the disk by then."""
    for path in fresh.rglob("*"):
        to_disk(path)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def to_disk(path: str | Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk; where the system cannot tell, not at all."""
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def clear_leftovers(folder: str | Path, *, below: bool = False, older_than_s: float | None = None) -> int:
    """Removes what processes that were killed have left half-written; returns how many files. A whole file is never
    touched.

    Args:
        folder: with leftovers.
        below: in its folders, too.
        older_than_s: also those of other machines and of this very process (a killed one may have had its number), from
            that age on: for who writes into the folder alone, or knows how long a file takes. None: those of ended
            processes of this machine only.
    """
    count = 0
    for path in list(Path(folder).rglob(".*") if below else Path(folder).glob(".*")):
        name = _TEMPORARY.fullmatch(path.name)
        if name is None or not path.is_file():
            continue
        process = int(name[2] or name[3])
        if older_than_s is None:
            left = name[1] == _HOST and not _is_alive(process)
        else:
            left = process == os.getpid() or not _is_alive(process)
        with contextlib.suppress(OSError):
            if left and (not older_than_s or time.time() - path.stat().st_mtime >= older_than_s):
                path.unlink()
                count += 1
    return count


def _is_alive(process: int) -> bool:
    """True if a process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return process > 0


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


def write_json(path: str | Path, data: object) -> Path:
    """Writes readable JSON atomically and returns the path.

    Raises:
        ValueError: if the data holds NaN or infinity, which JSON has no word for.
    """
    return write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
