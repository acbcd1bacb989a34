"""Work in units that any number of processes share: each unit is done once, by whoever claims it first.

A claim is a lock the operating system keeps and lets go when its process ends, however it ends: a killed process leaves
nothing to clean up. A program started within a claim can be made to share it (:func:`held_claims`), so that one that
outlives its killed parent is waited for and never started a second time beside itself. On a file system without locks,
start one process only: several would do the same work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.digests import text_digest
from reward_model.folders import lock

#: How often nobody may be seen at work before waiting is given up.
QUIET_ROUNDS = 3
#: File descriptors of the claims of this process.
_HELD: list[int] = []


class NothingToWaitFor(ValueError):
    """Units wait for results that nobody is making. The message names some and the remedy."""


@dataclass(frozen=True)
class Unit:
    """One piece of work.

    Attributes:
        name: unique; the claim goes by it.
        done: whether its result is there.
        run: makes the result.
        ready: whether what it needs is there.
    """

    name: str
    done: Callable[[], bool]
    run: Callable[[], None]
    ready: Callable[[], bool] = lambda: True


@contextmanager
def claim(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """The lock of a name: True if this process got it, which it then keeps to the end of the block.

    Args:
        folder: folder of the lock files.
        name: any text.
        wait: until another process lets go.
    """
    path = _lock_path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        mine = lock(file, wait=wait)
        if mine:
            _HELD.append(file.fileno())
        try:
            yield mine
        finally:
            if mine:
                _HELD.remove(file.fileno())


def held_claims() -> tuple[int, ...]:
    """File descriptors for ``pass_fds`` of ``subprocess``: a child that gets them keeps the claims until it ends."""
    return tuple(_HELD)


def work_through(
    units: Sequence[Unit], folder: Path, *, poll_s: float = 1.0, say: Callable[[str], Any] = lambda text: None
) -> None:
    """Runs all units in order, skipping those another process holds, and returns once every unit is done.

    Args:
        units: earlier ones first; units that are not ready are revisited.
        folder: folder of the lock files, shared by all processes.
        poll_s: seconds between two checks of the other processes.
        say: called once when there is nothing to do but wait.

    Raises:
        NothingToWaitFor: if the remaining units need results that no process is computing.
    """
    pending, quiet, told = [unit for unit in units if not unit.done()], 0, False
    while pending:
        before = len(pending)
        pending = [unit for unit in pending if not _attempt(unit, folder)]
        if len(pending) < before:
            quiet = 0
            continue
        quiet = 0 if anyone_working(folder) else quiet + 1
        if quiet >= QUIET_ROUNDS:
            raise NothingToWaitFor(
                f"{len(pending)} units wait for results that nobody is computing, such as "
                f"{pending[0].name!r}; run the earlier parts (train, draw) first, or all parts"
            )
        if not quiet and not told:
            say(f"waiting for other processes, {len(pending)} units are left, such as {pending[0].name!r}")
            told = True
        time.sleep(poll_s)


def anyone_working(folder: Path) -> bool:
    """True if some process holds a claim."""
    for path in folder.glob("*.lock"):
        with path.open("a") as file:
            if not lock(file):
                return True
    return False


def _attempt(unit: Unit, folder: Path) -> bool:
    """Runs a unit if it can be claimed; returns whether it is done."""
    if unit.done():
        return True
    if not unit.ready():
        return False
    with claim(folder, unit.name) as mine:
        if not mine:
            return False
        if not unit.done():  # another process may have finished it since
            unit.run()
    return True


def _lock_path(folder: Path, name: str) -> Path:
    return folder / f"{text_digest(name)[:20]}.lock"
