"""Rewards while the next videos are drawn: submitted with an id, answered in order, never lost and never zero.

A try that raises is repeated, a try that outlives its deadline is given up, and then every video of the job has no
score and a reason. ``sync`` judges on the spot; ``thread`` in threads of this process; ``process`` in child processes,
which a deadline can really end. All three call the same function on the same videos, so their answers are the same.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import queue
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.rewards.base import Evaluation, Reward, check_num_frames, evaluate, reward_name

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

MODES = ("sync", "thread", "process")


@dataclass
class Job:
    """One call of the reward. ``seconds`` is what the successful try took."""

    id: Any
    videos: Sequence[np.ndarray]
    prompts: Sequence[str]
    fps: float
    answer: Evaluation | None = None
    seconds: float = 0.0
    started: float | None = None
    failed: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def finish(self, answer: Evaluation, *, failed: bool = False) -> None:
        """The first answer counts: one that comes after the deadline is dropped."""
        if not self.done.is_set():
            self.answer, self.failed = answer, failed
            self.done.set()

    def fail(self, reason: str) -> None:
        """No score for any video, and why."""
        count = len(self.videos)
        self.finish(Evaluation([None] * count, [None] * count, [reason] * count), failed=True)


class RewardBus:
    """Judges videos in the background.

    Args:
        reward: see :class:`cac_align.rewards.base.Reward`; picklable for ``process``.
        mode: see the module.
        workers: threads or processes.
        deadline_s: seconds of one try.
        retries: more tries after an exception.
        size: jobs that may wait; :meth:`submit` then blocks, so that frames do not pile up.

    After :meth:`collect`, ``waiting_s`` is how long it waited, ``judging_s`` the seconds of judging in all workers, and
    ``num_failed`` the jobs that ended without an answer of the reward.

    Raises:
        ValueError: an unknown mode, or a reward that cannot travel to another process.

    Example:
        >>> bright = lambda videos, prompts=None, *, fps, **kwargs: [v.mean() / 255 for v in videos]
        >>> with RewardBus(bright, mode="thread") as bus:
        ...     bus.submit("a", [np.full((2, 4, 4, 3), 51, np.uint8)], ["dark"], fps=16)
        ...     bus.collect()["a"].scores
        [0.2]
    """

    def __init__(
        self,
        reward: Reward,
        *,
        mode: str = "thread",
        workers: int = 1,
        deadline_s: float = 600.0,
        retries: int = 1,
        size: int = 8,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"reward_mode={mode!r} must be one of {', '.join(MODES)}")
        self.reward, self.mode, self.deadline_s, self.retries = reward, mode, deadline_s, retries
        self.waiting_s = self.judging_s = 0.0
        self.num_failed = 0
        self._payload = _pickled(reward) if mode == "process" else b""
        self._queue: queue.Queue[Job | None] = queue.Queue(maxsize=size)
        self._jobs: dict[Any, Job] = {}
        self._workers = [self._worker() for _ in range(workers)] if mode != "sync" else []

    # --- use ----------------------------------------------------------------------------------------------------------

    def submit(self, id: Hashable, videos: Sequence[np.ndarray], prompts: Sequence[str], *, fps: float) -> None:
        """Hands videos over to be judged; blocks while the queue is full.

        Raises:
            ValueError: if the id is in use.
        """
        if id in self._jobs:
            raise ValueError(f"reward job {id!r} was submitted already; ids are used once between two collects")
        job = self._jobs[id] = Job(id, videos, prompts, fps)
        if self.mode == "sync":
            job.started = time.monotonic()
            self._run(job, None)
            return
        while True:
            try:
                self._queue.put(job, timeout=0.2)
                return
            except queue.Full:
                self._give_up_late_ones()

    def collect(self) -> dict[Any, Evaluation]:
        """The answers of all jobs, in the order they were submitted; waits for them."""
        began = time.monotonic()
        for job in self._jobs.values():
            while not job.done.wait(0.05):
                self._give_up_late_ones()
        self.waiting_s = time.monotonic() - began
        jobs, self._jobs = self._jobs, {}
        self.judging_s = sum(job.seconds for job in jobs.values())
        self.num_failed = sum(job.failed for job in jobs.values())
        return {id: _answer(job) for id, job in jobs.items()}

    def close(self) -> None:
        """Ends the workers; hung ones are left behind (threads) or killed (processes)."""
        for worker in self._workers:
            worker.stop()
        for _ in self._workers:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                break
        self._workers = []

    def __enter__(self) -> RewardBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _worker(self) -> _Worker:
        worker = _Worker(self)
        worker.start()
        return worker

    def _give_up_late_ones(self) -> None:
        """Fails jobs past their deadline and replaces the workers that hang in them."""
        limit = self.deadline_s * (self.retries + 1) + (60.0 if self.mode == "process" else 0.0)
        for place, worker in enumerate(self._workers):
            job = worker.job
            if job is None or job.started is None or job.done.is_set():
                continue
            if time.monotonic() - job.started > (self.deadline_s if self.mode == "thread" else limit):
                job.fail(f"no answer from {reward_name(self.reward)!r} within {self.deadline_s:g} s")
                worker.stop()
                self._workers[place] = self._worker()

    def _run(self, job: Job, child: _Child | None) -> None:
        """All tries of a job."""
        for number in range(self.retries + 1):
            if job.done.is_set():
                return
            job.started = began = time.monotonic()
            try:
                answer = (
                    evaluate(self.reward, job.videos, job.prompts, fps=job.fps)
                    if child is None
                    else child.ask(job, self.deadline_s)
                )
            except TimeoutError:
                job.fail(f"no answer from {reward_name(self.reward)!r} within {self.deadline_s:g} s")
                return
            except Exception as error:
                # Whatever a reward raises, a run of days must not end for one video; the reason is kept and counted.
                reason = f"{type(error).__name__}: {error}"
                log.warning("reward job %s, try %d of %d: %s", job.id, number + 1, self.retries + 1, reason)
                if number == self.retries:
                    job.fail(reason)
                continue
            job.seconds = time.monotonic() - began
            job.finish(answer)
            return


class _Worker:
    """A daemon thread that takes jobs; in process mode it speaks for one child process."""

    def __init__(self, bus: RewardBus) -> None:
        self.bus, self.stopped = bus, False
        self.job: Job | None = None
        self.device = _current_gpu()
        self.child = _Child(bus._payload, self.device) if bus.mode == "process" else None
        self.thread = threading.Thread(target=self._loop, name="reward", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Takes no further job; a child process ends at once."""
        self.stopped = True
        if self.child is not None:
            self.child.kill()

    def _loop(self) -> None:
        _use_gpu(self.device)
        while not self.stopped:
            job = self.bus._queue.get()
            if job is None:
                return
            if self.stopped:  # replaced while it waited: the job is for the one that took over
                self.bus._queue.put(job)
                return
            self.job, job.started = job, time.monotonic()
            self.bus._run(job, self.child)
            self.job = None


class _Child:
    """A process that holds a copy of the reward; made when first asked, and again after it was killed."""

    def __init__(self, payload: bytes, device: int | None) -> None:
        self.payload, self.device = payload, device
        self.process: Any = None
        self.pipe: Any = None

    def ask(self, job: Job, deadline_s: float) -> Evaluation:
        """Its answer.

        Raises:
            TimeoutError: none came in time, or the process died; it is gone.
            RuntimeError: the reward raised there.
        """
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(theirs, self.payload, self.device), daemon=True)
            self.process.start()
            theirs.close()
            self.pipe.recv()  # the reward is unpickled; its imports do not count against the deadline
        self.pipe.send((list(job.videos), list(job.prompts), job.fps))
        if not self.pipe.poll(deadline_s):
            self.kill()
            raise TimeoutError
        try:
            good, answer = self.pipe.recv()
        except EOFError:
            self.kill()
            raise RuntimeError("the reward's process ended without an answer") from None
        if not good:
            raise RuntimeError(answer)
        return answer

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join(5)
            self.process = None


def _current_gpu() -> int | None:
    """This process's GPU. A new thread or process starts with the first one, whatever its parent uses."""
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else None


def _use_gpu(device: int | None) -> None:
    if device is not None:
        import torch

        torch.cuda.set_device(device)


def _serve(pipe: Connection, payload: bytes, device: int | None) -> None:
    """The child's loop."""
    _use_gpu(device)
    reward = pickle.loads(payload)
    pipe.send("ready")
    while True:
        try:
            videos, prompts, fps = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, evaluate(reward, videos, prompts, fps=fps)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))


def _answer(job: Job) -> Evaluation:
    assert job.answer is not None
    return job.answer


def _pickled(reward: Reward) -> bytes:
    try:
        return pickle.dumps(reward)
    except Exception as error:
        raise ValueError(
            f"reward {reward_name(reward)!r} cannot be sent to another process ({error}); use reward_mode='thread'"
        ) from error


def try_reward(bus: RewardBus, prompt: str, shape: tuple[int, int, int, int], fps: float) -> None:
    """Has one video of noise judged, of the size that will be drawn: (T, H, W, 3).

    Raises:
        ValueError: the reward raised, hung or broke its contract. That it could not judge noise is only logged.
        RewardError: videos of this length are too short for it.
    """
    check_num_frames(bus.reward, shape[0])
    video = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    bus.submit("check", [video], [prompt], fps=fps)
    answer = bus.collect()["check"]
    if bus.num_failed:
        raise ValueError(f"the reward does not work on a video of {shape}: {answer.reasons[0]}")
    if answer.scores[0] is None:
        log.warning("the reward could not judge a video of noise: %s", answer.reasons[0])
