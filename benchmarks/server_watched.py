"""The server's side of ``server_load.py``: a reward whose answers are known, and a process that tells what it opens.

    python benchmarks/server_watched.py LOG serve --rewards '[server_watched:Fingerprint]'

runs ``cac-align`` with the words after LOG, and writes a line into LOG for each file that Python opens and each
connection that it makes. What the decoders of FFmpeg open is not seen here; ``server_load.py`` watches the files
themselves for that.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

#: Events of Python that are written down (https://docs.python.org/3/library/audit_events.html).
EVENTS = {"open": "open", "socket.connect": "connect"}


class Fingerprint:
    """A number in [0, 1) of pixels, prompt and rate: another video, prompt or rate has another one.

    Args:
        seconds: what a video takes, in place of a judge's work.
    """

    name = "fingerprint"

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(
        self, videos: Sequence[Any], prompts: Sequence[str] | None = None, *, fps: float, **_: object
    ) -> list[float]:
        time.sleep(self.seconds * len(videos))
        texts = [None] * len(videos) if prompts is None else prompts
        return [fingerprint(np.asarray(video), text, fps) for video, text in zip(videos, texts, strict=True)]


def fingerprint(frames: np.ndarray, prompt: str | None, fps: float) -> float:
    """What :class:`Fingerprint` answers; ``frames`` are (T, H, W, 3) uint8."""
    found = hashlib.sha256(repr((frames.shape, prompt, float(fps))).encode())
    found.update(np.ascontiguousarray(frames).data)
    return int.from_bytes(found.digest()[:6], "big") / 2**48


def watch(log: int) -> None:
    """Writes what this process opens and connects to into an open file, from now on."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        kind = EVENTS.get(event)
        if kind == "open" and isinstance(args[0], str | bytes | os.PathLike):
            os.write(log, f"open\t{os.fsdecode(args[0])!r}\n".encode())
        elif kind == "connect":
            os.write(log, f"connect\t{args[1]!r}\n".encode())

    sys.addaudithook(hook)


def main(words: Sequence[str]) -> int:
    """``cac-align`` with the given words, watched."""
    from cac_align.cli import main as run_cli

    watch(os.open(words[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    return run_cli(list(words[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
