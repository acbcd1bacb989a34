"""Runs all samples: concurrently against a server, in batches on a local model.

Each sample asks one thing after the other and knows nothing of the rest, so the result does not depend on which answer
comes first. Answers of a local batch depend on what else was in the batch, as sampling on a GPU does; with
``batch_size=1`` they do not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from itertools import islice

from reward_model.conversation import Completion, Conversation
from reward_model.data.records import Record
from reward_model.data.synthesis.asking import Asker
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.data.synthesis.rounds import Call, Course, Outcome, course
from reward_model.data.synthesis.tasks import Task, conversation
from reward_model.video.clip import Video, VideoError

LoadVideo = Callable[[Record], Video]
OnOutcome = Callable[[Outcome], None]


class Sample:
    """One sample under way; its frames are read when the first call really needs them and kept until it is done."""

    def __init__(self, task: Task, load: LoadVideo, ask: AskConfig, rules: RuleConfig) -> None:
        self.task, self._load, self._ask = task, load, ask
        self._course: Course = course(task, lambda: self._conversation, ask, rules)
        self.call: Call | None = None
        self.outcome: Outcome | None = None

    @cached_property
    def _conversation(self) -> Conversation:
        return conversation(self.task, self._load(self.task.record), self._ask)

    def advance(self, answer: Completion | None, asker: Asker) -> None:
        """Sends an answer (None at the start) and everything the ledger already knows; then ``call`` or ``outcome`` is
        set.
        """
        try:
            self.call = next(self._course) if answer is None else self._course.send(answer)
            while (known := asker.recorded(self.call)) is not None:
                self.call = self._course.send(known)
        except StopIteration as end:
            self.call, self.outcome = None, end.value

    def fail(self, why: str) -> None:
        """Leaves the sample open: its video cannot be shown."""
        self._course.close()
        self.call, self.outcome = None, Outcome(self.task, "open", reason=why)


def run_parallel(samples: Iterator[Sample], asker: Asker, workers: int, on_outcome: OnOutcome) -> None:
    """One call per sample at a time, at most ``workers`` of them at once; for servers.

    Raises:
        BackendError, ValueError: whatever stops one sample for good stops the run; calls in flight are waited for.
    """
    stop = threading.Event()

    def run(sample: Sample) -> Outcome | None:
        sample.advance(None, asker)
        while sample.call is not None and not stop.is_set():
            _answer([sample], asker)
        return sample.outcome

    with ThreadPoolExecutor(workers, thread_name_prefix="synthesis") as pool:
        running: set[Future[Outcome | None]] = {pool.submit(run, sample) for sample in islice(samples, workers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    if outcome is not None:
                        on_outcome(outcome)
                running |= {pool.submit(run, sample) for sample in islice(samples, len(done))}
        finally:
            stop.set()


def run_batched(samples: Iterator[Sample], asker: Asker, batch_size: int, on_outcome: OnOutcome) -> None:
    """Up to ``batch_size`` calls of one kind and one sampling at once; for models in this process.

    Twice as many samples are kept under way, so that batches stay full when samples drift apart in their rounds.
    """
    active: list[Sample] = []
    while True:
        for sample in islice(samples, 2 * batch_size - len(active)):
            sample.advance(None, asker)
            active.append(sample)
        if not active:
            return
        if waiting := [s for s in active if s.call is not None]:
            _answer(_largest_group(waiting)[:batch_size], asker)
        for sample in active:
            if sample.outcome is not None:
                on_outcome(sample.outcome)
        active = [s for s in active if s.outcome is None]


def _answer(group: Sequence[Sample], asker: Asker) -> None:
    """Asks the waiting calls of a group and sends the answers on; an unreadable video fails its own sample only."""
    ready, calls = [], []
    for sample in group:
        call = sample.call
        if call is None:
            continue
        try:
            call.build()
        except VideoError as error:
            sample.fail(f"the video cannot be shown: {error}")
        else:
            ready.append(sample)
            calls.append(call)
    for sample, answer in zip(ready, asker.ask(calls) if calls else [], strict=True):
        sample.advance(answer, asker)


def _largest_group(waiting: Sequence[Sample]) -> list[Sample]:
    groups: dict[object, list[Sample]] = {}
    for sample in waiting:
        if sample.call is not None:
            groups.setdefault((sample.call.id.kind, sample.call.sampling), []).append(sample)
    return max(groups.values(), key=len)
