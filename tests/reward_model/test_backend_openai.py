"""The openai backend against a real server on 127.0.0.1 that misbehaves on command."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import math
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from reward_model.backends.base import Backend, BackendError
from reward_model.backends.logprobs import generated_verdict, next_tokens, word_log_prob
from reward_model.backends.openai import OpenAIBackend
from reward_model.backends.retrying import Backoff
from reward_model.conversation import Message, Sampling
from reward_model.turns import WORDS, VerdictPrefix, verdict_prefix

KEY = "sk-test-THIS-MUST-NEVER-BE-SEEN-0123456789"
PREFIX = '{"COT": "fine", "status": "'
ANSWER = ['{"COT": "', "fine", '", "', "status", '": "', "ab", "normal", '"', ', "anomalies": []}']

# What the served model thinks: likeliest next tokens after an answer that ends so.
AFTER_PREFIX = {"normal": 0.30, "ab": 0.60, "a": 0.01, " normal": 0.05, "un": 0.02}
AFTER_AB = {"normal": 0.90, "sent": 0.08}
AFTER_A = {"bnormal": 0.5, "b": 0.25}
P_ABNORMAL = 0.60 * 0.90 + 0.01 * (0.5 + 0.25 * 0.90)


class FakeServer(ThreadingHTTPServer):
    """Speaks chat completions. ``script`` holds one behaviour per coming request; afterwards ``default`` applies."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = []
        self.default = "ok"
        self.requests: list[dict] = []
        self.keys_seen: list[str] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        self.next = {"": AFTER_PREFIX, "ab": AFTER_AB, "a": AFTER_A}
        self.counts = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address) -> None:
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    server: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.keys_seen.append(self.headers.get("Authorization", ""))
            behaviour = self.server.script.pop(0) if self.server.script else self.server.default
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            self.behave(behaviour, body)
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def behave(self, behaviour: str, body: dict) -> None:
        name, _, value = behaviour.partition(" ")
        if name == "status":
            code, _, wait = value.partition(" ")
            secret = self.headers.get("Authorization", "")
            self.send(json.dumps({"error": {"message": f"refused for {secret}"}}).encode(), int(code), wait)
        elif name == "refuse" and any(word in body for word in value.split("|")):
            self.send(json.dumps({"error": {"message": f"unknown argument {value}"}}).encode(), 400)
        elif name == "refuse":
            self.send(self.answer(body))
        elif name == "lists":
            self.lists(int(value.split()[0]), value, body)
        elif name == "quota":
            self.send(b'{"error": {"message": "no money", "code": "insufficient_quota"}}', 429)
        elif name == "garbage":
            self.send(b"<html>gateway page</html>")
        elif name == "error200":
            self.send(b'{"error": {"message": "worker died"}}')
        elif name == "cut":
            self.send(self.answer(body), cut=True)
        elif name == "reset":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif name == "trickle":
            self.send(self.answer(body), trickle=float(value))
        else:
            if name == "slow":
                time.sleep(float(value))
            self.send(self.answer(body, **{name: True}))

    def send(
        self, data: bytes, status: int = 200, retry_after: str = "", cut: bool = False, trickle: float = 0
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        if trickle:
            for k in range(len(data)):
                self.wfile.write(data[k : k + 1])
                time.sleep(trickle)
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def lists(self, most: int, complaint: str, body: dict) -> None:
        """Refuses to list more log-probabilities than ``most``, in the words of the complaint, without its first."""
        if (body.get("top_logprobs") or 0) > most:
            self.send(json.dumps({"error": {"message": complaint.partition(" ")[2]}}).encode(), 400)
        else:
            self.send(self.answer(body))

    def answer(self, body: dict, **how: bool) -> bytes:
        last = body["messages"][-1]
        begun = last["role"] == "assistant"
        restarts = how.get("restarts") or how.get("restarts_uncounted")
        prompt_tokens = 10 + (len(last["content"]) + (5 if restarts else 0) if begun else 0)
        if body["max_tokens"] == 1:
            covered = last["content"].removeprefix(PREFIX) if begun else ""
            after = {"{": 0.9, "normal": 0.05, "ab": 0.01} if restarts else self.server.next.get(covered, {"?": 0.9})
            content = [_entry(max(after, key=after.get), after)]
        else:
            content = [_entry(token, {token: 0.98}) for token in ANSWER]
            content[5], content[6] = _entry("ab", AFTER_PREFIX), _entry("normal", AFTER_AB)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _text(content)}}
        if body.get("logprobs") and not how.get("silent"):
            choice["logprobs"] = {"content": content}
        if how.get("echo"):
            choice["message"]["content"] = body["messages"][0]["content"]
        if how.get("empty"):
            choice["message"]["content"], choice["finish_reason"] = None, "content_filter"
        for field in ("reasoning_content", "reasoning"):
            if how.get(field):
                choice["message"] |= {field: choice["message"]["content"], "content": None}
        if how.get("parts"):
            text = choice["message"]["content"]
            choice["message"]["content"] = [{"type": "text", "text": text[:9]}, None, {"text": text[9:]}, {"type": "x"}]
        if how.get("truncated"):
            choice["finish_reason"] = "length"
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(content)}
        counted = {} if how.get("restarts_uncounted") or not self.server.counts else {"usage": usage}
        return json.dumps({"id": "x", "model": "served-name", "choices": [choice], **counted}).encode()


def _entry(token: str, listed: dict[str, float]) -> dict:
    top = [{"token": t, "logprob": math.log(p), "bytes": list(t.encode())} for t, p in listed.items()]
    return {"token": token, "logprob": math.log(listed[token]), "bytes": list(token.encode()), "top_logprobs": top}


def _text(content: list[dict]) -> str:
    return "".join(entry["token"] for entry in content)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield fake
        fake.shutdown()


def connect(server: FakeServer, **options) -> OpenAIBackend:
    defaults = {"api_key": KEY, "backoff_s": 0.002, "timeout_s": 60.0, "max_retries": 3, "concurrency": 4}
    return OpenAIBackend("judge", base_url=server.url, **{**defaults, **options})


def question(text: str = "Is it normal?", frames: int = 1):
    pixels = np.arange(frames * 4 * 6 * 3, dtype=np.uint8).reshape(frames, 4, 6, 3)
    content = [part for k, frame in enumerate(pixels) for part in (f"Frame {k}:", frame)]
    return (Message("system", ("You judge.",)), Message("user", (*content, text)))


# --- a score and then an answer ---------------------------------------------------------------------------------------


def test_the_answer_is_asked_for_right_after_the_score_and_only_where_it_is_wanted(server):
    conversations = [question(text) for text in ("a", "b", "c")]
    backend = connect(server, concurrency=1)
    found = backend.look_then_answer(conversations, [PREFIX] * 3, Sampling(64), lambda k, score: k != 1)
    assert [score.log_p_normal for score, _ in found] == pytest.approx([math.log(0.30)] * 3)
    assert [answer and answer.text for _, answer in found] == ["".join(ANSWER), None, "".join(ANSWER)]
    asked = [body for body in server.requests if body["messages"][0]["role"] == "system"]
    order = [(body["messages"][1]["content"][-1]["text"], body["max_tokens"] > 1) for body in asked]
    assert [text for text, _ in order] == sorted(text for text, _ in order), (
        "the frames are fresh in the server's cache"
    )
    assert [text for text, answers in order if answers] == ["a", "c"]


def test_a_score_that_failed_is_answered_all_the_same(server):
    server.script = ["ok", "ok", "status 400"]
    found = connect(server, concurrency=1).look_then_answer(
        [question()], [PREFIX], Sampling(64), lambda _, score: score is None
    )
    assert found[0][0] is None and found[0][1].text == "".join(ANSWER)
    with pytest.raises(BackendError, match="1 of 1 verdicts have no probability"):
        server.script = ["status 400"]
        connect(server, on_missing_logprobs="raise").look_then_answer(
            [question()], [PREFIX], Sampling(64), lambda *_: True
        )


# --- what goes out ---------------------------------------------------------------------------------------------------


def test_request_carries_exact_pixels_in_order_and_an_explicit_temperature(server):
    conversation = question(frames=2)
    [answer] = connect(server).generate([conversation], Sampling(max_new_tokens=77, seed=5))
    assert (answer.text, answer.finished, answer.error, answer.num_tokens) == ("".join(ANSWER), True, None, len(ANSWER))
    [body] = server.requests
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (
        "judge",
        0.0,
        1.0,
        77,
        5,
    )
    assert body["messages"][0] == {"role": "system", "content": "You judge."}
    parts = body["messages"][1]["content"]
    assert [p["type"] for p in parts] == ["text", "image_url", "text", "image_url", "text"]
    for k, part in enumerate(parts[1::2]):
        head, data = part["image_url"]["url"].split(",")
        assert head == "data:image/png;base64"
        sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        np.testing.assert_array_equal(sent, conversation[1].content[2 * k + 1])


def test_jpeg_and_extra_fields_are_sent(server):
    backend = connect(server, image_format="jpeg", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    backend.generate([question()], Sampling())
    url = server.requests[0]["messages"][1]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,") and server.requests[0]["chat_template_kwargs"] == {
        "enable_thinking": False
    }


def test_order_is_kept_and_concurrency_is_bounded(server):
    server.script = ["echo"] * 12
    conversations = [(Message("user", (f"item {k}",)),) for k in range(12)]
    answers = connect(server, concurrency=3).generate(conversations, Sampling())
    assert [a.text for a in answers] == [f"item {k}" for k in range(12)]
    assert server.most_at_once <= 3


def test_requests_really_run_side_by_side(server):
    server.default = "slow 0.2"
    connect(server, concurrency=8).generate([question(str(k)) for k in range(8)], Sampling())
    assert server.most_at_once > 1


def test_empty_batch_asks_nothing(server):
    backend = connect(server)
    assert backend.generate([], Sampling()) == [] and server.requests == []
    assert isinstance(backend, Backend)


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_wrong_frames_are_an_error_before_anything_is_sent(server, frame):
    with pytest.raises(ValueError, match="uint8"):
        connect(server).generate([question(), (Message("user", (frame,)),)], Sampling())
    assert server.requests == []


# --- failures and retries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble", ["status 500", "status 503", "status 429", "status 408", "cut", "reset", "garbage", "error200"]
)
def test_passing_trouble_is_asked_again(server, trouble):
    server.script = [trouble, trouble]
    [answer] = connect(server).generate([question()], Sampling())
    assert answer.error is None and answer.text == "".join(ANSWER)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "trouble", ["status 400", "status 401", "status 403", "status 404", "status 422", "status 501", "quota"]
)
def test_what_cannot_pass_is_asked_once(server, trouble):
    server.default = trouble
    [answer] = connect(server).generate([question()], Sampling())
    assert answer.error and not answer.finished and answer.text == ""
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", ["status 500", "cut", "garbage"])
def test_retries_are_bounded_and_the_reason_is_told(server, trouble):
    server.default = trouble
    [answer] = connect(server, max_retries=2).generate([question()], Sampling())
    assert len(server.requests) == 3
    assert "gave up after 3 attempts" in answer.error


def test_retry_after_is_waited_for(server):
    server.script = ["status 429 0.4"]
    start = time.monotonic()
    [answer] = connect(server).generate([question()], Sampling())
    assert answer.error is None and time.monotonic() - start >= 0.4


def test_retry_after_beyond_the_deadline_gives_up_at_once(server):
    server.default = "status 429 3600"
    start = time.monotonic()
    [answer] = connect(server, deadline_s=100).generate([question()], Sampling())
    assert "deadline" in answer.error and "HTTP 429" in answer.error
    assert time.monotonic() - start < 60 and len(server.requests) == 1


def test_slow_server_times_out_within_the_limit(server):
    server.default = "slow 1.5"
    [answer] = connect(server, timeout_s=0.15, max_retries=1).generate([question()], Sampling())
    assert "no answer within" in answer.error
    assert len(server.requests) == 2


def test_answer_that_trickles_in_counts_as_one_request_not_as_many_reads(server):
    server.default = "trickle 0.02"  # every read is quick, the whole would take a minute
    start = time.monotonic()
    [answer] = connect(server, timeout_s=0.3, max_retries=0).generate([question()], Sampling())
    assert "not complete within" in answer.error and time.monotonic() - start < 30


def test_deadline_covers_the_whole_call(server):
    server.default = "slow 0.3"
    start = time.monotonic()
    answers = connect(server, deadline_s=2, concurrency=1).generate([question(str(k)) for k in range(30)], Sampling())
    assert time.monotonic() - start < 8  # one after the other they would take nine
    assert answers[0].error is None and "deadline" in answers[-1].error and len(answers) == 30


def test_server_down_is_an_error_per_item_and_quick():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    backend = OpenAIBackend(
        "judge", base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, backoff_s=0.002, max_retries=2
    )
    start = time.monotonic()
    answers = backend.generate([question(), question()], Sampling())
    assert all("connection failed" in a.error and f"127.0.0.1:{port}" in a.error for a in answers)
    [score] = backend.score([question()], [PREFIX])
    assert "connection failed" in score.fault  # not None, which would make 1 or 0 of the verdict word
    assert time.monotonic() - start < 60


def test_one_failure_spoils_no_other(server):
    server.script = ["status 400"]
    answers = connect(server, concurrency=1).generate([question(str(k)) for k in range(4)], Sampling())
    assert [a.error is None for a in answers] == [False, True, True, True]


def test_length_and_refusal_are_told_apart(server):
    server.script = ["truncated", "empty"]
    cut, refused = connect(server, concurrency=1).generate([question("a"), question("b")], Sampling())
    assert cut.error is None and not cut.finished and cut.text
    assert "content_filter" in refused.error


@pytest.mark.parametrize("where", ["reasoning_content", "reasoning", "parts"])
def test_answers_stand_in_other_fields_too(server, where):
    """A server with a reasoning parser takes an answer without a thought for the thought."""
    server.default = where
    [answer] = connect(server).generate([question()], Sampling())
    assert (answer.text, answer.error, answer.finished) == ("".join(ANSWER), None, True)
    assert answer.extra.get("text_from") == (None if where == "parts" else where)


def test_time_limits_follow_the_tokens_asked_for(server):
    backend = connect(server, timeout_s=None)
    assert backend.server.timeout(1) == pytest.approx(120.1)
    assert backend.server.timeout(6144) == pytest.approx(734.4)
    assert backend._seconds(8, 6144) == pytest.approx(780 + 2 * 2 * 734.4)  # two rounds of four
    assert (
        connect(server, deadline_s=7)._seconds(8, 6144) == 7 and connect(server, deadline_s=None)._seconds(8, 9) is None
    )
    assert connect(server, timeout_s=300).server.timeout(6144) == 300


def test_no_server_makes_its_clients_wait_for_hours():
    backoff = Backoff(base_s=0.0)
    assert backoff.wait_s(0, retry_after_s=30) == 30 and backoff.wait_s(0, retry_after_s=1e9) == 600


# --- the verdict's probability ---------------------------------------------------------------------------------------


def test_both_words_are_scored_whole_over_all_their_tokenisations(server):
    [score] = connect(server).score([question()], [PREFIX])
    assert score.log_p_normal == pytest.approx(math.log(0.30), abs=1e-9)  # not the tail of "abnormal", not " normal"
    assert score.log_p_abnormal == pytest.approx(math.log(P_ABNORMAL), abs=1e-9)
    assert not score.bounded and not score.forced
    walked = [b["messages"][-1]["content"] for b in server.requests[2:]]
    assert walked == [PREFIX, PREFIX + "ab", PREFIX + "a"]
    assert all(b["continue_final_message"] and b["add_generation_prompt"] is False for b in server.requests[2:])
    assert all((b["max_tokens"], b["logprobs"], b["top_logprobs"]) == (1, True, 20) for b in server.requests[2:])


def test_unlikely_spellings_are_not_asked_for(server):
    server.next[""] = {"ab": 0.9, "normal": 0.09, "a": 1e-6, "abn": 1e-7}
    [score] = connect(server).score([question()], [PREFIX])
    assert len(server.requests) == 2 + 2  # the probe, then "" and "ab"
    assert score.log_p_abnormal == pytest.approx(math.log(0.9 * 0.9), abs=1e-3)


def test_whole_word_tokens_and_merged_closing_quotes_count(server):
    server.next[""] = {'normal"': 0.25, "normal": 0.25, "abnormal": 0.4, "normally": 0.1}
    [score] = connect(server).score([question()], [PREFIX])
    assert (math.exp(score.log_p_normal), math.exp(score.log_p_abnormal)) == pytest.approx((0.5, 0.4))


@pytest.mark.parametrize(
    ("complaint", "then"),
    [
        ("lists 5 Requested sample logprobs of 20, which is greater than max allowed: 5", 5),
        ("lists 8 Invalid value for 'top_logprobs': must be between 0 and 8, got 20", 8),
        ("lists 5 too many logprobs", 5),
    ],
)
def test_a_server_that_lists_fewer_is_asked_for_as_many_as_it_lists(server, complaint, then, caplog):
    server.default = complaint
    backend = connect(server)
    [score] = backend.score([question()], [PREFIX])
    assert score.log_p_normal == pytest.approx(math.log(0.30))
    assert [b["top_logprobs"] for b in server.requests] == [20] + [then] * (len(server.requests) - 1)
    assert backend.generate([question()], Sampling())[0].error is None and server.requests[-1]["top_logprobs"] == then
    assert [r.message for r in caplog.records if "lists at most" in r.message] == [
        f"{server.url} lists at most {then} log-probabilities; the probability of a word beyond them is an upper bound"
    ]


def test_a_server_that_lists_none_is_asked_without(server):
    server.default = "lists 0 logprobs: at most 0 are allowed"
    backend = connect(server)
    assert backend.generate([question()], Sampling())[0].error is None
    assert ["logprobs" in b for b in server.requests] == [True, False]


def test_words_are_scored_in_the_spelling_of_the_prefix(server):
    server.next = {"": {"NORMAL": 0.3, " NORMAL": 0.1, "AB": 0.5, "normal": 0.01}, "AB": {"NORMAL": 0.9, "x": 0.1}}
    upper, spaced, lower = connect(server).score(
        [question()] * 3,
        [VerdictPrefix(PREFIX, ("NORMAL", "ABNORMAL")), VerdictPrefix(PREFIX, (" NORMAL", " ABNORMAL")), PREFIX],
    )
    assert (math.exp(upper.log_p_normal), math.exp(upper.log_p_abnormal)) == pytest.approx((0.3, 0.45))
    assert math.exp(spaced.log_p_normal) == pytest.approx(0.1) and spaced.bounded
    assert math.exp(lower.log_p_normal) == pytest.approx(0.01)


def test_two_upper_bounds_say_nothing_of_their_ratio(server, caplog):
    """``ab`` is all but certain, and neither ``normal`` nor its end is among the listed tokens."""
    server.next = {"": {"ab": 0.98, "x": 0.01}, "ab": {"sent": 0.9, "out": 0.1}}
    assert connect(server).score([question()], [PREFIX]) == [None]
    assert "nothing is known of their ratio" in caplog.text


@pytest.mark.parametrize(
    ("tokens", "word", "words"),
    [
        (['{"COT": "x", "STATUS": "', "AB", "NORMAL", '"', ', "anomalies": [1]}'], 1, ("NORMAL", "ABNORMAL")),
        (['{"COT": "x", "status":"', "normal", '", "anomalies": [], "meta": {"status": "abnormal"}}'], 1, WORDS),
        (["<think>hm</think>", '{"COT": "\u4e2d", "status" : "', " Normal", '", "anomalies": []}', "<|im_end|>"], 2,
         (" Normal", " Abnormal")),
        (["{\u201cCOT\u201d: \u201cx\u201d, \u201cstatus\u201d: \u201c", "normal", "\u201d}"], 1, WORDS),
    ],
)  # fmt: skip
def test_the_verdict_a_server_wrote_is_read_at_the_answers_own_status(tokens, word, words):
    text = "".join(tokens).removeprefix("<think>hm</think>").removesuffix("<|im_end|>")
    listed = {tokens[word]: 0.7, "zz": 0.01, words[0]: 0.7}
    content = [{**_entry(t, {t: 0.9}), "bytes": t.encode()} for t in tokens]
    content[word]["top_logprobs"] = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in listed.items()]
    prefix, score = generated_verdict(content, text)
    assert prefix == verdict_prefix(text) and prefix.words == words
    assert score.log_p_normal == pytest.approx(math.log(0.7))
    assert generated_verdict(content, text.replace("COT", "cot")) is None  # tokens of another answer


def test_word_outside_the_list_is_a_flagged_upper_bound(server):
    server.next[""] = {"normal": 0.999, "x": 1e-5, "y": 1e-6}
    [score] = connect(server).score([question()], [PREFIX])
    assert score.bounded and score.log_p_abnormal == pytest.approx(math.log(1e-6))
    assert score.log_p_normal == pytest.approx(math.log(0.999))


def test_no_word_in_the_list_is_none(server):
    server.next[""] = {"maybe": 0.9, "fine": 0.1}
    assert connect(server).score([question()], [PREFIX]) == [None]


@pytest.mark.parametrize("how", ["restarts", "restarts_uncounted"])
def test_server_that_begins_a_new_answer_gives_none_and_one_warning(server, how, caplog):
    server.default = how
    backend = connect(server)
    with caplog.at_level(logging.WARNING):
        assert backend.score([question(), question("b")], [PREFIX, PREFIX]) == [None, None]
        assert backend.score([question()], [PREFIX]) == [None]
    assert len([r for r in caplog.records if r.name.startswith("reward_model")]) == 1


def test_server_that_does_not_count_is_judged_by_its_answer(server):
    server.counts = False
    [score] = connect(server).score([question()], [PREFIX])
    assert score.log_p_normal == pytest.approx(math.log(0.30))


def test_server_that_refuses_to_continue_gives_none(server):
    server.default = "refuse continue_final_message"
    assert connect(server).score([question()], [PREFIX]) == [None]
    assert len(server.requests) == 1


def test_without_continuation_the_verdict_the_server_wrote_is_used(server):
    server.default = "restarts"
    backend, conversation = connect(server), question()
    [answer] = backend.generate([conversation], Sampling())
    written = {"log_p_normal": math.log(0.30), "log_p_abnormal": math.log(P_ABNORMAL - 0.01 * (0.5 + 0.225) + 0.01)}
    for name, value in written.items():  # P(... | "a") was never drawn: bounded by one
        assert answer.extra["verdict"][name] == pytest.approx(value)
    [score] = backend.score([conversation], ['{"COT": "fine", "status": "'])
    assert score.bounded and score.log_p_normal == answer.extra["verdict"]["log_p_normal"]
    assert backend.score([conversation], ['{"COT": "other", "status": "']) == [None]  # never another prefix's number
    assert backend.score([question("other")], ['{"COT": "fine", "status": "']) == [None]


def test_no_logprobs_is_none_or_raises_as_chosen(server):
    server.default = "silent"
    assert connect(server).score([question()], [PREFIX]) == [None]
    with pytest.raises(BackendError, match="no probability"):
        connect(server, on_missing_logprobs="raise").score([question()], [PREFIX])


def test_refused_fields_are_left_out_or_renamed_and_remembered(server):
    server.default = "refuse logprobs"
    backend = connect(server)
    assert backend.generate([question()], Sampling())[0].error is None
    assert backend.generate([question()], Sampling())[0].error is None
    assert ["logprobs" in b for b in server.requests] == [True, False, False]


def test_one_failed_score_spoils_no_other(server):
    server.script = ["ok", "ok", "status 400"]
    first, second = connect(server, concurrency=1).score([question("a"), question("b")], [PREFIX, PREFIX])
    assert first is None and second.log_p_normal == pytest.approx(math.log(0.30))


def test_score_needs_one_prefix_per_conversation(server):
    with pytest.raises(ValueError, match="one prefix per conversation"):
        connect(server).score([question()], [])


def test_rounded_and_impossible_log_probabilities():
    entry = {
        "token": "normal",
        "logprob": 1e-7,
        "top_logprobs": [
            {"token": "normal", "logprob": -0.5},
            {"token": "\ufffd", "logprob": -1.0, "bytes": [240]},  # half a character
            {"token": "ab", "logprob": -9999.0},
            {"token": "zz", "logprob": -3.0},
        ],
    }
    assert next_tokens(entry) == {
        "normal": -0.5,
        "zz": -3.0,
    }  # the drawn token is listed once, whatever its own rounding
    assert word_log_prob("normal", {"": next_tokens(entry)}.get) == (-0.5, False)
    assert word_log_prob("normal", {}.get) is None


# --- the key ---------------------------------------------------------------------------------------------------------


def test_key_is_sent_and_never_shown(server, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    backend = connect(server, max_retries=1)
    shown = []
    for trouble in ("ok", "status 401", "status 500", "cut", "garbage", "slow 0.0", "reset"):
        server.script = [trouble] * 2
        shown += [repr(a) for a in backend.generate([question()], Sampling())]
    server.default = "status 401"
    shown.append(repr(backend.score([question()], [PREFIX])))
    try:
        connect(server, on_missing_logprobs="raise").score([question()], [PREFIX])
    except BackendError as error:
        shown += ["".join(traceback.format_exception(error)), repr(error.__dict__)]
    assert server.keys_seen[0] == f"Bearer {KEY}"
    shown += [repr(backend), str(backend.describe()), caplog.text, *capfd.readouterr()]
    shown += [str(r.__dict__) for r in caplog.records]
    shown.append(repr(vars(backend)) + repr(vars(backend.server)))
    for text in shown:
        assert KEY not in text
    assert any("[key]" in text for text in shown)  # the server did quote it


def test_errors_do_not_chain_to_requests(server):
    server.default = "status 401"
    backend = connect(server)
    with pytest.raises(BackendError) as caught:
        backend._ask([{"role": "user", "content": "x"}], _forever(), max_tokens=3)
    chained = caught.value.__cause__ or caught.value.__context__
    while chained is not None:
        assert not hasattr(chained, "request")
        chained = chained.__cause__ or chained.__context__


def test_no_frame_of_a_traceback_holds_the_key(server):
    """Debuggers, pytest and error reporters print the locals of every frame."""
    with pytest.raises(ValueError, match="timeout_s") as caught:
        connect(server, timeout_s=-1)
    with pytest.raises(BackendError) as refused:
        server.default = "status 401"
        connect(server)._ask([{"role": "user", "content": "x"}], _forever(), max_tokens=3)
    for error in (caught, refused):
        inside = [f for f in error.traceback if "reward_model/backends" in str(f.path)]
        assert inside and not any(KEY in repr(value) for frame in inside for value in frame.frame.f_locals.values())


def test_short_keys_are_words_and_stay_in_the_answer(server):
    server.default = "echo"
    [answer] = connect(server, api_key="EMPTY").generate([(Message("user", ("the sign is EMPTY",)),)], Sampling())
    assert answer.text == "the sign is EMPTY"


def test_pickle_and_copy_leave_the_key_behind(server, monkeypatch):
    backend = connect(server)
    backend.generate([question()], Sampling())
    data = pickle.dumps(backend)
    assert KEY.encode() not in data
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-other-process")
    twin = pickle.loads(data)
    assert twin.generate([question()], Sampling())[0].error is None
    assert server.keys_seen[-1] == "Bearer sk-of-the-other-process"
    assert copy.copy(backend).generate([question()], Sampling())[0].error is None


def test_key_comes_from_the_environment_and_loses_its_line_break(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    connect(server, api_key=None).generate([question()], Sampling())
    assert server.keys_seen[0] == f"Bearer {KEY}"


def test_broken_keys_and_addresses_are_refused_without_showing_them(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="characters no key has") as caught:
        OpenAIBackend("judge", base_url="http://127.0.0.1:1/v1", api_key=KEY + "\nX: y")
    assert KEY not in str(caught.value)
    with pytest.raises(ValueError, match="login") as caught:
        OpenAIBackend("judge", base_url=f"http://user:{KEY}@127.0.0.1:1/v1")
    assert KEY not in str(caught.value)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAIBackend("gpt-judge")
    with pytest.raises(ValueError, match="http://host"):
        OpenAIBackend("judge", base_url="judge:8000/v1")
    with pytest.raises(ValueError, match="must end before /chat/completions, as in 'http://judge:8000/v1'"):
        OpenAIBackend("judge", base_url="http://judge:8000/v1/chat/completions/")


def test_the_proxy_that_stands_in_the_way_is_named(monkeypatch):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://me:{KEY}@127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    [answer] = OpenAIBackend("m", base_url="http://judge.test:8000/v1", max_retries=0).generate(
        [question()], Sampling()
    )
    assert f"through the proxy http://127.0.0.1:{port} of $HTTP_PROXY (add judge.test to $NO_PROXY" in answer.error
    assert KEY not in answer.error


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"deadline_s": -1},
        {"concurrency": 0},
        {"top_logprobs": 21},
        {"image_format": "webp"},
        {"max_retries": -1},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError):
        OpenAIBackend("judge", base_url="http://127.0.0.1:1/v1", **options)


def test_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r'pip install "cac-align\[openai\]"'):
        OpenAIBackend("judge", base_url="http://127.0.0.1:1/v1")


def test_provenance_names_the_server_and_its_model(server):
    backend = connect(server)
    backend.generate([question()], Sampling())
    told = backend.describe()
    assert (told["backend"], told["model"], told["base_url"]) == ("openai", "served-name", server.url)
    json.dumps(told)


def _forever():
    from reward_model.backends.retrying import Deadline

    return Deadline(None)
