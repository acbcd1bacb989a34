"""Recording and replaying: what comes back is what was said, bit for bit, or a clear error."""

from __future__ import annotations

import json
import math
import pickle
import threading

import numpy as np
import pytest

from reward_model.backends.base import Backend, BackendError
from reward_model.backends.replay import RecordingBackend, ReplayBackend, request_key
from reward_model.conversation import Completion, Message, Sampling
from reward_model.schema import VerdictScore
from tests.campaigns import draws

GREEDY = Sampling(max_new_tokens=50)
ODD_FLOATS = (0.1 + 0.2, -5e-324, -math.pi * 1e-30, -math.inf, -0.0)


class Oracle:
    """Answers with a counter, so that two asks of the same question differ."""

    name = "oracle"

    def __init__(self) -> None:
        self.count = 0

    def generate(self, conversations, sampling):
        answers = []
        for conversation in conversations:
            self.count += 1
            text = f"{conversation[-1].content[-1]} → {self.count}\u2028\n\x00😀"
            answers.append(
                Completion(
                    text, seconds=0.1 + 0.2, num_tokens=self.count, extra={"finish_reason": "stop", "object": object()}
                )
            )
        return answers

    def score(self, conversations, prefixes):
        return [
            None
            if p == "unknown"
            else VerdictScore(ODD_FLOATS[k % 5], ODD_FLOATS[(k + 1) % 5], forced=bool(k % 2), bounded=k == 2)
            for k, p in enumerate(prefixes)
        ]

    def describe(self):
        return {"model": "oracle-1"}


def ask(text: str, pixel: int = 0):
    return (Message("user", ("Frame 0:", np.full((2, 3, 3), pixel, np.uint8), text)),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "exchanges.jsonl"


def same(a: Completion, b: Completion) -> bool:
    kept = {k: v for k, v in a.extra.items() if k != "object"}
    return (a.text, a.finished, a.num_tokens, a.seconds, a.error) == (
        b.text,
        b.finished,
        b.num_tokens,
        b.seconds,
        b.error,
    ) and ({k: v for k, v in b.extra.items() if k != "left_out"} == kept)


def test_round_trip_is_exact(path):
    recorder = RecordingBackend(Oracle(), path)
    conversations, prefixes = [ask(str(k), k) for k in range(6)], ["a", "b", "c", "d", "e", "unknown"]
    answers, scores = recorder.generate(conversations, GREEDY), recorder.score(conversations, prefixes)
    replay = ReplayBackend(path)
    assert all(same(a, b) for a, b in zip(answers, replay.generate(conversations, GREEDY), strict=True))
    again = replay.score(conversations, prefixes)
    assert again == scores
    assert [math.copysign(1, s.log_p_normal) for s in again[:-1]] == [
        math.copysign(1, s.log_p_normal) for s in scores[:-1]
    ]
    assert replay.generate(conversations[::-1], GREEDY)[0].text == answers[-1].text  # by request, not by position
    assert replay.describe() == {"model": "oracle-1", "replayed_from": str(path)}
    assert isinstance(recorder, Backend) and isinstance(replay, Backend)


def test_file_is_one_plain_json_object_per_line_and_holds_no_pixels(path):
    RecordingBackend(Oracle(), path).generate([ask("x"), ask("y")], GREEDY)
    lines = path.read_text(encoding="ascii").splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 2 and first["kind"] == "generate" and first["backend"] == {"model": "oracle-1"}
    assert first["request"]["messages"][0]["content"][1]["frame"] == [2, 3, 3]
    assert first["response"]["extra"]["left_out"] == ["object"]


def test_unknown_requests_name_file_and_remedy(path):
    RecordingBackend(Oracle(), path).generate([ask("x", 1)], GREEDY)
    replay = ReplayBackend(path)
    changed = [(ask("x", 2), GREEDY), (ask("y", 1), GREEDY), (ask("x", 1), Sampling(max_new_tokens=51))]
    for conversation, sampling in changed:
        with pytest.raises(BackendError, match=r"exchanges\.jsonl does not hold.*RecordingBackend"):
            replay.generate([conversation], sampling)
    with pytest.raises(BackendError, match="does not hold"):
        replay.score([ask("x", 1)], ["prefix"])


@pytest.mark.parametrize("tail", [b'{"kind": "generate", "key": "ab', b"\xff\xfe", b'{"kind": "generate"}', b"[]"])
def test_torn_last_line_costs_that_line_only_and_recording_goes_on(path, tail, caplog):
    RecordingBackend(Oracle(), path).generate([ask("x")], GREEDY)
    with path.open("ab") as file:
        file.write(tail)
    assert ReplayBackend(path).generate([ask("x")], GREEDY)[0].num_tokens == 1
    assert "skipped 1 unreadable" in caplog.text
    RecordingBackend(Oracle(), path).generate([ask("later")], GREEDY)
    replay = ReplayBackend(path)
    assert replay.generate([ask("x"), ask("later")], GREEDY)[1].text.startswith("later")


def test_every_cut_of_the_file_still_replays_what_is_whole(path):
    recorder = RecordingBackend(Oracle(), path)
    recorder.generate([ask("first")], GREEDY)
    whole = len(path.read_bytes())
    recorder.generate([ask("second")], GREEDY)
    data = path.read_bytes()
    for cut in range(whole, len(data) - 1, draws(7, 29)):
        path.write_bytes(data[:cut])
        replay = ReplayBackend(path)
        assert replay.generate([ask("first")], GREEDY)[0].num_tokens == 1
        with pytest.raises(BackendError):
            replay.generate([ask("second")], GREEDY)


def test_drawn_answers_are_replayed_one_after_the_other_greedy_ones_always_the_last(path):
    recorder, drawn = RecordingBackend(Oracle(), path), Sampling(temperature=0.7)
    first = recorder.generate([ask("x"), ask("x")], drawn) + recorder.generate([ask("x")], drawn)
    greedy = [recorder.generate([ask("x")], GREEDY)[0] for _ in range(2)][-1]
    replay = ReplayBackend(path)
    assert [a.text for a in replay.generate([ask("x")] * 3, drawn)] == [a.text for a in first]
    with pytest.raises(BackendError, match="3 sampled answers"):
        replay.generate([ask("x")], drawn)
    assert [a.text for a in replay.generate([ask("x")] * 3, GREEDY)] == [greedy.text] * 3


def test_threads_do_not_mix_their_lines(path):
    recorder = RecordingBackend(Oracle(), path)
    threads = [
        threading.Thread(target=lambda k=k: [recorder.generate([ask(f"{k}-{n}")], GREEDY) for n in range(20)])
        for k in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = ReplayBackend(path).generate([ask(f"{k}-{n}") for k in range(6) for n in range(20)], GREEDY)
    assert len(answers) == 120


def test_missing_and_empty_recordings_are_errors(tmp_path):
    with pytest.raises(BackendError, match=r"no recording at .*none\.jsonl"):
        ReplayBackend(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BackendError, match="holds no exchange"):
        ReplayBackend(tmp_path / "empty.jsonl")


def test_keys_tell_requests_apart_that_concatenate_alike():
    a = (Message("user", ("ab", "c")),)
    b = (Message("user", ("a", "bc")),)
    flat = (Message("user", (np.zeros((2, 3, 3), np.uint8),)),)
    tall = (Message("user", (np.zeros((3, 2, 3), np.uint8),)),)
    roles = (Message("system", ("ab", "c")),)
    keys = {request_key("generate", c, sampling=GREEDY) for c in (a, b, flat, tall, roles, a + b, b + a)}
    assert len(keys) == 7
    assert request_key("score", a, prefix="") != request_key("score", a)
    strided = np.zeros((4, 3, 3), np.uint8)[::2]
    assert request_key("score", (Message("user", (strided,)),), prefix="p") == request_key("score", flat, prefix="p")


def test_replay_survives_pickling(path):
    RecordingBackend(Oracle(), path).generate([ask("x")], GREEDY)
    replay = pickle.loads(pickle.dumps(ReplayBackend(path)))
    assert replay.generate([ask("x")], GREEDY)[0].num_tokens == 1
