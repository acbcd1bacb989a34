"""The honest clients of ``server_load.py``: what they ask, what is right, and what they meet."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from server_watched import fingerprint

from cac_align.rewards.remote import RemoteReward
from reward_model.video.clip import read_file
from reward_model.video.writing import write_mp4
from reward_model.world import make_video
from reward_model.world.kinds import KINDS

#: Frames a second of all videos.
FPS = 8.0


class Job(NamedTuple):
    """A video of an honest client: as it is handed over, its prompt, and the one right answer."""

    video: Any
    prompt: str
    right: float


@dataclass
class Honest:
    """What the honest clients met.

    Attributes:
        seconds: of each request, its repetitions included.
        retries: by reason.
    """

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    unanswered: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    retries: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, jobs: Sequence[Job], scores: Sequence[float | None], reasons: Sequence[Any], took: float) -> None:
        """Counts the answer to a request."""
        with self.lock:
            self.seconds.append(took)
            for job, score, reason in zip(jobs, scores, reasons, strict=True):
                if score is None:
                    self.unanswered[str(reason)[:200]] += 1
                elif score == job.right:
                    self.right += 1
                else:
                    self.wrong.append(f"{score} in place of {job.right}")


class Retries(logging.Handler):
    """Counts what the client of the package says about each repetition."""

    def __init__(self, honest: Honest) -> None:
        super().__init__(logging.INFO)
        self._honest = honest

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "asked again" not in text:
            return
        found = re.search(
            r"HTTP \d+: [A-Za-z ]*[a-z]|connection failed: \w+|broke off", re.sub(r"\d+ videos", "videos", text)
        )
        with self._honest.lock:
            self._honest.retries["other" if found is None else found[0]] += 1


def own_videos(root: Path, client: int, num_frames: int) -> list[Job]:
    """The videos of a client: frames, a file beside the root and one in it, each with a prompt."""
    random = np.random.default_rng(client)
    jobs = []
    for k in range(6):
        frames = random.integers(0, 255, (num_frames, 32, 32, 3), dtype=np.uint8)
        prompt = f"video {k} of client {client}"
        if k < 4:
            jobs.append(Job(frames, prompt, fingerprint(frames, prompt, FPS)))
            continue
        path = (root if k == 4 else root.parent / "sent") / f"client-{client}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_mp4(path, frames, FPS)
        jobs.append(Job(path, prompt, fingerprint(read_file(path)[0], prompt, FPS)))
    return jobs


def judged_videos(root: Path, model: str, num: int) -> list[Job]:
    """World videos and what a judge in this process says to them; one in two is a file in the root."""
    from cac_align import CaCReward

    judge, kinds, jobs = CaCReward(model, device="cpu", batch_size=1), list(KINDS), []
    for k in range(num):
        frames, truth = make_video(870_000 + k, kinds[k % len(kinds)] if k % 2 else None, num_frames=33)
        video: Any = frames
        if k % 2:
            video = root / f"world-{k}.mp4"
            write_mp4(video, frames, FPS)
        score = judge([video], [truth.prompt], fps=FPS)[0]
        assert score is not None
        jobs.append(Job(video, truth.prompt, score))
    return jobs


def ask_all(url: str, token: str, root: Path, jobs: Sequence[Job], rounds: int, seed: int, honest: Honest) -> None:
    """One honest client: all its videos, several times, one to three in a request."""
    random = np.random.default_rng(seed)
    reward = RemoteReward(url, token=token, root=root, patience_s=600, evidence=False, videos_per_request=3)
    for _ in range(rounds):
        left = [jobs[k] for k in random.permutation(len(jobs))]
        while left:
            share = left[: random.integers(1, 4)]
            left = left[len(share) :]
            began = time.monotonic()
            try:
                found = reward.evaluate([job.video for job in share], [job.prompt for job in share], fps=FPS)
            except Exception as error:  # a refusal, which nobody who is honest should see
                with honest.lock:
                    honest.unanswered[f"{type(error).__name__}: {error}"[:300]] += len(share)
                continue
            honest.note(share, found.scores, found.reasons, time.monotonic() - began)
