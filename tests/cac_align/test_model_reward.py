"""The base of rewards that load something: opened once, by whoever comes first, and never copied."""

import pickle
import threading
import time

import pytest

from cac_align.rewards.base import RewardError
from cac_align.rewards.model_reward import ModelReward


class Counted(ModelReward[list]):
    """Opens a list, slowly enough for others to come meanwhile; remembers how often."""

    name = "counted"
    opened_times = 0

    def _open(self) -> list:
        time.sleep(0.02)
        type(self).opened_times += 1
        return []

    def fail(self, *reasons):
        self._raise_for(reasons, "could not judge")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(Counted, "opened_times", 0)


def test_all_threads_get_the_one_that_is_opened_once():
    reward, found = Counted("none"), []
    threads = [threading.Thread(target=lambda: found.append(reward.opened)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(one is found[0] for one in found) and Counted.opened_times == 1


def test_a_copy_opens_its_own():
    reward = Counted("raise")
    reward.make_ready()
    copy = pickle.loads(pickle.dumps(reward))
    assert Counted.opened_times == 1 and copy.on_error == "raise"
    assert copy.opened is not reward.opened and Counted.opened_times == 2


def test_failures_are_raised_where_that_is_asked_for():
    with pytest.raises(ValueError, match="on_error='maybe'"):
        Counted("maybe")
    Counted("none").fail("torn", None)
    Counted("raise").fail(None, None)
    with pytest.raises(RewardError, match=r"^could not judge video 1: torn; video 2: NaN$"):
        Counted("raise").fail(None, "torn", "NaN")
