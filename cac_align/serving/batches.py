"""Videos of all clients, judged one batch after the other by one thread, in the order in which they came.

What a client gets does not depend on its neighbours: a batch that the reward refuses as a whole is judged again video
by video, so that only the one at fault has no score. A client that has given up leaves the queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cac_align.rewards.base import Evaluation, Reward, RewardError, evaluate, reward_name
from cac_align.rewards.composite import CompositeReward
from cac_align.serving.counters import Counters
from cac_align.serving.sources import WaitingVideo
from reward_model.schema import Verdict
from reward_model.video.clip import Video

log = logging.getLogger(__name__)

#: Videos decoded at a time.
DECODERS = 4


@dataclass(frozen=True)
class Answered:
    """One video's answer: the score or the reason for its absence, sub-scores by name, the verdict of a judge."""

    score: float | None
    reason: str | None = None
    parts: dict[str, float | None] = field(default_factory=dict)
    verdict: Verdict | None = None


@dataclass
class _Waiting:
    source: WaitingVideo
    answer: Future[Answered]
    video: Video | None = None


class Batches:
    """The queue in front of a reward.

    Args:
        reward: any reward whose score of a video does not depend on the others of the call.
        max_batch: videos judged in one call.
        counters: told about every call.

    Raises:
        RewardError: a composite reward that compares the videos of a group; those of several clients would meet.
    """

    def __init__(self, reward: Reward, max_batch: int, counters: Counters | None = None) -> None:
        if isinstance(reward, CompositeReward) and reward.normalise != "affine":
            raise RewardError(
                f"normalise={reward.normalise!r} compares the videos of a group, and a server judges those of several "
                "clients together; serve the rewards with normalise='affine', and combine groups in the client"
            )
        self.reward, self.max_batch = reward, max_batch
        self._name, self._counters = reward_name(reward), counters or Counters()
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._since: float | None = None
        self._pool = ThreadPoolExecutor(DECODERS, "decode")
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)

    def start(self) -> None:
        """Begins to judge."""
        self._thread.start()

    def close(self) -> None:
        """Ends after the batch in work; what waits gets no answer."""
        with self._changed:
            self._closed = True
            left, self._queue = list(self._queue), deque()
            self._changed.notify_all()
        for entry in left:
            entry.answer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def busy_s(self) -> float:
        """Seconds that the batch in work has taken so far; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_working(self) -> bool:
        """True while the thread that judges is alive."""
        return self._thread.is_alive()

    def submit(self, sources: Sequence[WaitingVideo]) -> list[Future[Answered]]:
        """Puts videos into the queue, next to each other; their answers come in this order. One that is cancelled
        before its turn is not judged.
        """
        entries = [_Waiting(source, Future()) for source in sources]
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is stopping")
            self._queue.extend(entries)
            self._changed.notify_all()
        return [entry.answer for entry in entries]

    def _work(self) -> None:
        while batch := self._next():
            self._since = time.monotonic()
            try:
                self._judge(batch)
            except Exception as error:  # the thread must go on: it serves everybody
                log.exception("a batch failed")
                for entry in batch:
                    _settle(entry, Answered(None, f"the server failed: {type(error).__name__}"))
            finally:
                self._since = None

    def _next(self) -> list[_Waiting]:
        """The next videos that somebody still waits for; empty when the server is closed."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return []
                while self._queue and len(batch) < self.max_batch:
                    entry = self._queue.popleft()
                    if entry.answer.set_running_or_notify_cancel():
                        batch.append(entry)
        return batch

    def _judge(self, batch: list[_Waiting]) -> None:
        list(self._pool.map(_open, batch))
        groups: dict[tuple[float, bool], list[_Waiting]] = {}
        for entry in batch:
            if entry.video is not None:  # a reward is told one rate, and one text for each video or none at all
                groups.setdefault((entry.video.fps, entry.source.prompt is None), []).append(entry)
        for group in groups.values():
            self._answer(group)

    def _answer(self, group: list[_Waiting]) -> None:
        """Answers videos of one rate."""
        try:
            found = self._ask(group)
        except Exception as error:
            if len(group) > 1:
                for entry in group:
                    self._answer([entry])
                return
            log.warning("reward %r failed: %s", self._name, error, exc_info=not isinstance(error, ValueError))
            _settle(group[0], Answered(None, f"reward {self._name!r} failed: {type(error).__name__}: {error}"[:1000]))
            return
        for k, entry in enumerate(group):
            parts = {name: values[k] for name, values in found.parts.items()}
            _settle(entry, Answered(found.scores[k], found.reasons[k], parts, found.verdicts[k]))

    def _ask(self, group: list[_Waiting]) -> Evaluation:
        videos = [entry.video for entry in group if entry.video is not None]
        prompts: Any = None if group[0].source.prompt is None else [entry.source.prompt for entry in group]
        began = time.monotonic()
        try:
            return evaluate(self.reward, videos, prompts, fps=videos[0].fps)
        finally:
            self._counters.judged(time.monotonic() - began)


def _open(entry: _Waiting) -> None:
    """Decodes a video; one that cannot be decoded is answered with the reason."""
    try:
        entry.video = entry.source.open()
    except Exception as error:  # a decoder may raise anything at a hostile file
        known = isinstance(error, ValueError)
        if not known:
            log.warning("a video could not be opened", exc_info=True)
        _settle(entry, Answered(None, str(error) if known else f"it cannot be opened: {type(error).__name__}"))


def _settle(entry: _Waiting, answer: Answered) -> None:
    if not entry.answer.done():
        entry.answer.set_result(answer)
