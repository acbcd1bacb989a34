"""Scripts in several processes that train together, on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def launch(script: Path, count: int, *arguments: object) -> None:
    """Runs ``count`` processes of a script with the environment ``accelerate launch`` gives them; all must succeed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    quiet = {"OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    given = {k: str(v) for k, v in {**world, **quiet}.items()}
    command = [sys.executable, str(script), *map(str, arguments)]
    children = [
        subprocess.Popen(command, env={**os.environ, **given, "RANK": str(k), "LOCAL_RANK": str(k)}, cwd=ROOT)
        for k in range(count)
    ]
    try:
        assert [child.wait(timeout=900) for child in children] == [0] * count
    finally:
        for child in children:
            child.kill()
