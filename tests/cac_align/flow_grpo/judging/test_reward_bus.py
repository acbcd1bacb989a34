"""Rewards in the background: the same answers in the same order, deadlines, retries, and nothing that becomes zero."""

import threading
import time

import numpy as np
import pytest

from cac_align.flow_grpo.judging.reward_bus import RewardBus
from tests.cac_align.flow_grpo.toy_rewards import brightness, hanging


def video(level):
    return np.full((2, 4, 4, 3), level, np.uint8)


class Slow:
    """The later a job comes, the faster it is judged."""

    def __init__(self):
        self.left = 6

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        self.left -= 1
        time.sleep(0.02 * self.left)
        return brightness(videos, fps=fps)


def run(reward, count=6, **options):
    with RewardBus(reward, **options) as bus:
        for k in range(count):
            bus.submit(f"job {k}", [video(10 * k), video(10 * k + 5)], ["a", "b"], fps=16)
        return bus, bus.collect()


@pytest.mark.parametrize("options", [{"mode": "thread"}, {"mode": "thread", "workers": 3, "size": 1}])
def test_threads_answer_as_sync_does_and_in_order(options):
    _, expected = run(Slow(), mode="sync")
    _, found = run(Slow(), **options)
    assert list(found) == list(expected) == [f"job {k}" for k in range(6)]
    assert [a.scores for a in found.values()] == [a.scores for a in expected.values()]
    assert found["job 3"].scores == pytest.approx([30 / 255, 35 / 255])


@pytest.mark.slow
def test_processes_answer_as_sync_does():
    _, expected = run(brightness, mode="sync")
    _, found = run(brightness, mode="process", workers=2)
    assert {k: a.scores for k, a in found.items()} == {k: a.scores for k, a in expected.items()}


def test_judging_overlaps_with_what_comes_between():
    started = threading.Event()

    def reward(videos, prompts=None, *, fps, **kwargs):
        started.set()
        return [0.5] * len(videos)

    with RewardBus(reward, mode="thread") as bus:
        bus.submit(0, [video(1)], ["a"], fps=16)
        assert started.wait(5), "the judge waits until somebody asks for the answer"
        bus.collect()


def test_a_retry_may_help_and_otherwise_there_is_a_reason():
    calls = []

    def reward(videos, prompts=None, *, fps, **kwargs):
        calls.append(len(calls))
        if len(calls) % 2 or len(calls) > 4:
            raise ConnectionError("server is busy")
        return [0.7] * len(videos)

    bus, found = run(reward, count=3, mode="thread", retries=1)
    assert [a.scores for a in found.values()] == [[0.7, 0.7], [0.7, 0.7], [None, None]]
    assert found["job 2"].reasons == ["ConnectionError: server is busy"] * 2
    assert (bus.num_failed, len(calls)) == (1, 6)


def test_a_hanging_reward_costs_its_job_and_not_the_next():
    release = threading.Event()

    def reward(videos, prompts=None, *, fps, **kwargs):
        if videos[0].mean() == 10:
            release.wait(30)
        return [0.5] * len(videos)

    try:
        began = time.monotonic()
        bus, found = run(reward, count=4, mode="thread", deadline_s=0.3, size=1)
        assert time.monotonic() - began < 10
    finally:
        release.set()
    assert found["job 1"].scores == [None, None] and "within 0.3 s" in found["job 1"].reasons[0]
    assert [found[f"job {k}"].scores for k in (0, 2, 3)] == [[0.5, 0.5]] * 3 and bus.num_failed == 1


@pytest.mark.slow
def test_a_hanging_process_is_ended():
    bus, found = run(hanging, count=3, mode="process", deadline_s=1.0)
    assert [a.scores[0] for a in found.values()] == [0.5, None, 0.5] and bus.num_failed == 1


@pytest.mark.parametrize(
    ("answer", "said"), [([0.1], "returned 1 scores for 2 videos"), ([0.1, float("nan")], "returned nan for video 1")]
)
def test_a_broken_contract_is_no_score(answer, said):
    _, found = run(lambda videos, prompts=None, *, fps, **kw: answer, count=1, mode="sync", retries=0)
    assert found["job 0"].scores == [None, None] and said in found["job 0"].reasons[0]


def test_what_a_judge_cannot_judge_is_not_a_failed_job():
    bus, found = run(lambda videos, prompts=None, *, fps, **kw: [None, 0.5], count=1, mode="sync")
    assert found["job 0"].scores == [None, 0.5] and bus.num_failed == 0


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="reward_mode='fork'"):
        RewardBus(brightness, mode="fork")
    with pytest.raises(ValueError, match=r"cannot be sent to another process.*reward_mode='thread'"):
        RewardBus(lambda videos: [0.0], mode="process")
    with RewardBus(brightness, mode="sync") as bus:
        bus.submit(1, [video(0)], ["a"], fps=16)
        with pytest.raises(ValueError, match="reward job 1 was submitted already"):
            bus.submit(1, [video(0)], ["a"], fps=16)
