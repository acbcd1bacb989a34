"""The folder of a run: one process at a time, no leftovers of a killed one, a sentence where it cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reward_model import files
from reward_model.folders import lock

LOCK = ".run.lock"
_ROOM = (
    "free some space there, or set output_dir to another disk; the same command then resumes from the last checkpoint"
)
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EIO: "the disk reports a fault; set output_dir to another one",
    errno.EROFS: "set output_dir to a place that can be written to",
    errno.EACCES: "change its permissions, or set output_dir to a place that can be written to",
    errno.EPERM: "change its permissions, or set output_dir to a place that can be written to",
    errno.ENOTDIR: "a part of this path is a file; set output_dir to another place",
    errno.EEXIST: "there is a file of that name; set output_dir to another place",
    errno.ENAMETOOLONG: "set output_dir to a shorter path",
}


class OutputError(RuntimeError):
    """The folder of a run cannot be written, or another process is at work in it. Names the file and the remedy."""


@contextmanager
def explained(folder: str | Path) -> Iterator[None]:
    """A block in which a full disk, a path that is not a folder and the like become an :class:`OutputError`.

    Args:
        folder: named where the system names no file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        names = [str(n) for n in (error.filename2, error.filename) if n is not None]
        raise OutputError(_sentence(names[0] if names else str(folder), error.errno)) from error
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None or int(found[1]) not in _REMEDIES:
            raise
        raise OutputError(_sentence(str(folder), int(found[1]))) from error


def check_writable(folder: str | Path) -> None:
    """Makes the folder and writes a file into it, before anything is loaded.

    Raises:
        OutputError: if that does not work.
    """
    folder = Path(folder)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".trial.{os.getpid()}"
        try:
            trial.write_bytes(b"\0" * 4096)
        finally:
            with contextlib.suppress(OSError):
                trial.unlink(missing_ok=True)


@contextmanager
def sole_use(folder: str | Path) -> Iterator[None]:
    """A block in which no other process trains into the folder. What a killed one left half-written is removed first.

    The operating system lets go of the lock when its process ends, however it ends. On a file system without locks
    nothing is locked.

    Raises:
        OutputError: if another process is at work in it.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context((folder / LOCK).open("a+", encoding="utf-8"))
        if not lock(file):
            file.seek(0)
            who = file.read(200).strip()
            raise OutputError(
                f"another process{f' ({who})' if who else ''} is training into {str(folder)!r}; wait for it, stop it, "
                "or set output_dir to another place"
            )
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        clear_run_leftovers(folder)
        yield


def clear_run_leftovers(folder: str | Path, *, older_than_s: float = 0.0) -> int:
    """Removes what killed processes left half-written; returns how much that was. A whole file is never touched.

    Args:
        folder: with everything below it.
        older_than_s: only files of that age; for a folder that processes of other machines write into, too.
    """
    partial = list(Path(folder).glob("checkpoint-*.partial"))
    for path in partial:
        shutil.rmtree(path, ignore_errors=True)
    return len(partial) + files.clear_leftovers(folder, below=True, older_than_s=older_than_s)


def _sentence(name: str, number: int) -> str:
    return f"cannot write {name!r}: {os.strerror(number).lower()}; {_REMEDIES[number]}"
