"""Limits of a reward server, and who may ask it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from reward_model.backends.secret import Secret

#: Names and addresses of this machine for itself.
OWN_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
MIB = 2**20


@dataclass(frozen=True)
class ServeSettings:
    """Limits of one server.

    Args:
        root: folder whose videos may be named by path; None: no paths.
        token: whoever asks must bring it; None: nobody has to, and only this machine can ask.
        hosts: further names under which clients reach the server, checked against the Host header.
        urls: fetch videos from public addresses.
        max_body: bytes of a request, and of a video that is fetched.
        max_bytes: bytes of all requests that have arrived, in whole or in part, and have no answer; and of the frames
            of one video file, once decoded.
        max_videos: videos of one request.
        max_waiting: videos of all requests that wait or are being judged; more are refused with 503 and Retry-After.
        max_batch: videos judged in one call of the reward.
        timeout_s: seconds from the end of a request's body to its answer.
        body_timeout_s: seconds that a body may take to arrive.

    Raises:
        ValueError: if a limit is not above 0, or ``root`` is not a folder.
    """

    root: Path | None = None
    token: Secret | None = None
    hosts: frozenset[str] = frozenset()
    urls: bool = False
    max_body: int = 512 * MIB
    max_bytes: int = 2048 * MIB
    max_videos: int = 64
    max_waiting: int = 256
    max_batch: int = 8
    timeout_s: float = 600.0
    body_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("max_body", "max_bytes", "max_videos", "max_waiting", "max_batch", "timeout_s", "body_timeout_s"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value!r} must be above 0")
        if self.max_bytes < self.max_body:
            raise ValueError(
                f"max_bytes={self.max_bytes:,} is less than max_body={self.max_body:,}: the largest request would "
                "never be taken; raise max_bytes"
            )
        if self.root is not None and not self.root.is_dir():
            raise ValueError(f"root={str(self.root)!r} is not a folder; give the one whose videos may be judged")
        if self.token is not None and len(self.token.reveal()) < 16:
            raise ValueError(
                "the token is shorter than 16 characters, which can be guessed; make one: openssl rand -hex 32"
            )
