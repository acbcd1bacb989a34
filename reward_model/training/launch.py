"""Recipes in processes of their own, one or several that train together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Lines of a log that an error repeats.
_LAST_LINES = 3


def launch_recipe(script: Path, *arguments: object, processes: int = 1, log: Path | None = None) -> None:
    """Runs a training recipe to its end; the code is this one, wherever it is called from.

    Args:
        script: the recipe.
        arguments: its command line.
        processes: how many train together, on one machine.
        log: file that its output is added to; None: the terminal.

    Raises:
        ValueError: if it fails. The same call resumes.
    """
    # accelerate launch starts a single process on a CPU unless there is MPI.
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(together if processes > 1 else []), str(script), *map(str, arguments)]
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH")) if p)
    environment = {**os.environ, "PYTHONPATH": path}
    if log is None:
        code, said = subprocess.run(command, env=environment, check=False).returncode, "its output is above"
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            start = file.tell()
            code = subprocess.run(command, stdout=file, stderr=file, env=environment, check=False).returncode
        lines = [line for line in log.read_bytes()[start:].decode("utf-8", "replace").splitlines() if line.strip()]
        said = f"its last words: {' | '.join(lines[-_LAST_LINES:])[-600:]}; log: {log}"
    if code:
        raise ValueError(f"{script.name} ended with exit code {code}; {said}. The same command resumes")
