"""Decoding ahead of the judge, and asking a server about several videos at a time."""

import threading
import time

import numpy as np
import pytest

from cac_align.corpus.judging import Asked, ScanAhead, ahead_of, as_finished, judge_clips
from cac_align.corpus.sources import CorpusVideo


def test_results_come_in_order_and_no_more_are_held_than_said():
    lock, alive, most = threading.Lock(), 0, 0

    def work(k):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        time.sleep(0.002 * (k % 3))
        return k

    got = []
    for k in ahead_of(work, range(40), workers=3, ahead=4):
        got.append(k)
        time.sleep(0.004)
        with lock:
            alive -= 1
    assert got == list(range(40)) and most <= 5, "four wait or are made, one is with the caller"


def test_threads_end_when_the_caller_stops():
    began = []
    results = ahead_of(lambda k: began.append(k) or k, range(1000), workers=2, ahead=3)
    assert next(results) == 0
    results.close()
    assert len(began) <= 5 and not any(t.name.startswith("corpus") for t in threading.enumerate())


def test_what_is_finished_comes_first_and_all_come():
    slow = threading.Event()

    def work(k):
        if k == 0:
            assert slow.wait(30)
        return k

    got = []
    for k in as_finished(work, range(20), workers=3):
        got.append(k)
        if len(got) == 10:
            slow.set()
    assert sorted(got) == list(range(20)) and got.index(0) >= 10, "one slow answer keeps nobody waiting"


class Served:
    """A backend behind a server that takes a while, as far as the judge can tell: eight may ask at a time."""

    name, concurrency = "openai", 8

    def __init__(self, inner):
        self._inner, self._lock, self.now, self.most = inner, threading.Lock(), 0, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def score(self, conversations, prefixes):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self._lock:
            self.now -= 1
            return self._inner.score(conversations, prefixes)


@pytest.mark.filterwarnings("ignore:readout='direct' was never trained:UserWarning")
def test_a_served_judge_is_asked_about_several_at_a_time_with_the_same_result(corpus, judge_folder):
    from cac_align.rewards.cac import CaCReward
    from reward_model.backends.local import LocalBackend

    backend = LocalBackend(judge_folder, device="cpu")
    clips = [CorpusVideo(str(p), "a red ball") for p in sorted((corpus.parent / "clips").glob("*.mp4"))]
    blocks = [[Asked(str(k), clip)] for k, clip in enumerate(clips)]

    def rows(reward):
        found = {e.key: {**e.row, "seconds": 0} for part in judge_clips(reward, blocks, "j") for e in part}
        return [found[str(k)] for k in range(len(clips))]

    options = {"reasoning": False, "readout": "direct"}
    served = Served(backend)
    assert rows(CaCReward(backend=served, **options)) == rows(CaCReward(backend=backend, **options))
    assert 2 <= served.most <= 8


def test_on_a_cpu_even_the_parts_of_a_long_video_are_asked_about_one_by_one(corpus, judge_folder, monkeypatch):
    from cac_align.rewards.cac import CaCReward

    reward = CaCReward(judge_folder, device="cpu", reasoning=False, scan_fps=16, max_scan_frames=3, batch_size=8)
    backend, sizes = reward.judge_model.backend, []
    original = backend.score
    monkeypatch.setattr(backend, "score", lambda asked, prefixes: sizes.append(len(asked)) or original(asked, prefixes))
    block = [Asked(str(k), CorpusVideo(str(corpus.parent / "clips" / f"{k}.mp4"))) for k in range(2)]
    entries = [e for part in judge_clips(reward, [block], "j") for e in part]
    assert [e.row["error"] for e in entries] == [None, None] and len(sizes) > 4 and set(sizes) == {1}
    assert reward.judge_model.config.batch_size == 8, "the reward itself stays as it was"


def test_a_video_on_which_the_judge_itself_fails_is_a_row_too(corpus, judge_folder, monkeypatch):
    from cac_align.rewards.cac import CaCReward
    from reward_model.judge import TwoTurnJudge

    reward = CaCReward(judge_folder, device="cpu", reasoning=False)
    original = TwoTurnJudge.judge

    def fails_on_one(self, videos, prompts=None, **more):
        if "bad" in prompts:
            raise ZeroDivisionError("of no kind that is expected")
        return original(self, videos, prompts, **more)

    monkeypatch.setattr(TwoTurnJudge, "judge", fails_on_one)
    monkeypatch.setattr("cac_align.corpus.judging._is_single", lambda judge: False)
    path = str(corpus.parent / "clips" / "0.mp4")
    block = [Asked(str(k), CorpusVideo(path, prompt)) for k, prompt in enumerate(("good", "bad", "good"))]
    ((*entries,),) = judge_clips(reward, [block], "j")
    assert [e.row["score"] is None for e in entries] == [False, True, False]
    assert "ZeroDivisionError: of no kind" in entries[1].row["error"]


def test_the_frames_of_turn_one_of_a_large_file_are_decoded_once_and_are_the_same(corpus, monkeypatch):
    from cac_align.corpus.judging import _with_scan
    from reward_model.chunks import scan_grids
    from reward_model.config import JudgeConfig
    from reward_model.video.clip import load_video

    monkeypatch.setattr("reward_model.video.reading.KEEP_BYTES", 0)
    path, config = corpus.parent / "clips" / "1.mp4", JudgeConfig(frame_size=16)
    plain = load_video(path)
    grid = scan_grids(9, 16, config)[0]
    ahead = _with_scan(load_video(path), config)
    assert isinstance(ahead.frames, ScanAhead) and ahead.size == plain.size and ahead.num_frames == 9
    taken = []
    original = type(plain.frames).take
    monkeypatch.setattr(type(plain.frames), "take", lambda self, *a: taken.append(1) or original(self, *a))
    assert np.array_equal(ahead.take(grid, (16, 16)), plain.take(grid, (16, 16))) and len(taken) == 1
    assert np.array_equal(ahead.take([1, 2]), plain.take([1, 2])) and len(taken) == 3
    with pytest.raises(IndexError):
        ahead.take([99])
