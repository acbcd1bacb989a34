"""Folders of other people's files: which of them can be read, what they hold, and who is writing there."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any


def regular_files(
    folder: str | Path,
    suffixes: Collection[str] = (),
    *,
    utf8: bool = False,
    leave_out: Callable[[Path, str], object] = lambda path, reason: None,
) -> list[Path]:
    """The regular files of a folder and of those below it, sorted; links to folders are not followed.

    Pipes, sockets and devices, which would stop a reader for ever, are left out, as are folders that are named like
    files, loops of links, and what this user may not read.

    Args:
        folder: where to look; a folder that cannot be read counts as empty.
        suffixes: suffixes of the wanted files, in lower case; none wants all.
        utf8: also leave out names that are not UTF-8, which annotation files cannot hold.
        leave_out: told of each wanted file that is left out, and why.
    """
    paths = []
    for place, folders, names in os.walk(folder, onerror=lambda e: leave_out(Path(e.filename), e.strerror or str(e))):
        folders.sort()
        for name in names:
            path = Path(place, name)
            if suffixes and path.suffix.lower() not in suffixes:
                continue
            reason = unreadable(path) or (not_utf8(path) if utf8 else None)
            if reason is None:
                paths.append(path)
            else:
                leave_out(path, reason)
    return sorted(paths)


def unreadable(path: Path) -> str | None:
    """Reason why a path is not a file that can be read; None if it is."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        return f"it cannot be reached: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if not stat.S_ISREG(mode):
        return "it is a pipe" if stat.S_ISFIFO(mode) else "it is not a regular file"
    return None if os.access(path, os.R_OK) else "it may not be read: permission denied"


def not_utf8(path: Path) -> str | None:
    """Reason why the name of a file cannot be written down; None if it can."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8; rename it"
    return None


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes; read once in a process as long as size and time of change stay the same.

    Raises:
        OSError: if it cannot be read, or is not a regular file.
    """
    path = Path(path)
    if (reason := unreadable(path)) is not None:
        raise OSError(f"{str(path)!r}: {reason}")
    now = path.stat()
    return _digest(path, now.st_size, now.st_mtime_ns)


@lru_cache(maxsize=65_536)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderInUseError(ValueError):
    """Another run is writing in the folder. The message names it and the remedy."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps a folder for this run; the claim goes with the process, also when it is killed. Where the system has no
    file locks, nothing is claimed.

    Raises:
        FolderInUseError: if another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not lock(handle):
            raise FolderInUseError(
                f"{str(folder)!r} is in use by another run; wait for it, or name another output folder"
            )
        yield
    finally:
        os.close(handle)


def lock(file: int | IO[Any], *, wait: bool = False) -> bool:
    """Claims an open file for this process; the claim goes when the file is closed or the process ends, however it
    ends. Where the system has no file locks, as on some network folders, nothing is claimed.

    Args:
        file: its descriptor, or an object that has one.
        wait: until another process lets go.

    Returns:
        False if another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
