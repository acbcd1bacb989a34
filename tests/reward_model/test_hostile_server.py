"""A chat server that answers one question of a batch in every wrong way: that item has an error, or an answer made of
checked parts; the other has its answer; and nothing is taken that was not asked for.
"""

from __future__ import annotations

import copy
import functools
import gzip
import json
import math
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from reward_model.backends.logprobs import generated_verdict, next_tokens
from reward_model.backends.openai import OpenAIBackend
from reward_model.backends.reply import read_reply
from reward_model.backends.retrying import AttemptFailed
from reward_model.conversation import Message, Sampling

KEY = "sk-test-THIS-MUST-NEVER-BE-SEEN-0123456789"
PREFIX = '{"COT": "x", "status": "'
BAD, GOOD = (Message("user", ("bad",)),), (Message("user", ("good",)),)


def entry(token: str, listed: dict[str, float]) -> dict[str, Any]:
    top = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in listed.items()]
    return {"token": token, "logprob": -0.1, "bytes": list(token.encode()), "top_logprobs": top}


def honest(body: dict[str, Any]) -> dict[str, Any]:
    words = {"normal": -0.2, "ab": -1.8}
    if body["messages"][-1]["role"] == "assistant":
        content = [entry("normal", words)]
    else:
        content = [entry(PREFIX, {PREFIX: 0.0}), entry("normal", words), entry('", "anomalies": []}', {})]
    text = "".join(e["token"] for e in content)
    message = {"role": "assistant", "content": text, "reasoning_content": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"content": content}}
    usage = {"prompt_tokens": 20 + len(body["messages"]) % 2, "completion_tokens": len(content)}
    return {"id": "x", "model": "served", "system_fingerprint": "f", "choices": [choice], "usage": usage}


class HostileServer(ThreadingHTTPServer):
    """Answers what is asked about ``bad`` with ``behave``, and all else honestly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave: Behaviour = lambda handler, body: handler.send(json.dumps(honest(body)).encode())
        self.asked = 0
        self.stop = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that hang up are what is asked of them


class Handler(BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked += 1
        if body["messages"][0]["content"] == "bad":
            self.server.behave(self, body)
        else:
            self.send(json.dumps(honest(body)).encode())

    def send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def endless(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        while not self.server.stop.is_set():
            self.wfile.write(data)


Behaviour = Callable[[Handler, dict[str, Any]], None]


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as fake:
        threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield fake
        fake.stop.set()
        fake.shutdown()


@pytest.fixture(scope="module")
def backend(server: HostileServer) -> OpenAIBackend:
    return OpenAIBackend(
        "judge", base_url=server.url, api_key=KEY, timeout_s=5.0, deadline_s=20.0, max_retries=1, backoff_s=0.001
    )


def reply(**fields: Any) -> Behaviour:
    return lambda handler, body: handler.send(json.dumps({**honest(body), **fields}).encode())


def said(text: str) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        answer = honest(body)
        answer["choices"][0]["message"]["content"] = text
        handler.send(json.dumps(answer).encode())

    return behave


def raw(data: bytes, status: int = 200, **headers: str) -> Behaviour:
    return lambda handler, body: handler.send(data, status, **headers)


def line(data: bytes) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        handler.close_connection = True
        handler.wfile.write(data)

    return behave


def packed(handler: Handler, body: dict[str, Any]) -> None:
    handler.send(gzip.compress(json.dumps(honest(body)).encode()), Content_Encoding="gzip")


@functools.cache
def two_hundred_megabytes() -> bytes:
    """A gzip file of 200 times the same packed megabyte: packing each of them would take half a second."""
    packer, megabyte = zlib.compressobj(1, wbits=-15), b" " * 10**6
    packed = packer.compress(megabyte) + packer.flush(zlib.Z_FULL_FLUSH)
    total = functools.reduce(lambda checksum, _: zlib.crc32(megabyte, checksum), range(200), 0)
    return gzip.compress(b"")[:10] + packed * 200 + b"\x03\x00" + struct.pack("<II", total, 200 * 10**6)


def bomb(status: int) -> Behaviour:
    return raw(two_hundred_megabytes(), status, Content_Encoding="gzip")


#: What is answered -> what the error of that item must say; "" where an answer may come of it.
TRANSPORT: dict[str, tuple[Behaviour, str]] = {
    "gzip, which was asked for": (packed, ""),
    "not gzip": (raw(b"{}", Content_Encoding="gzip"), "not the gzip it says"),
    "a bomb": (bomb(200), "longer than"),
    "an error page that is a bomb": (bomb(400), "HTTP 400"),
    "another packing": (raw(b"{}", Content_Encoding="br"), "packed as 'br'"),
    "an endless answer": (lambda h, b: h.endless(b" " * 65536), "longer than"),
    "an endless error": (lambda h, b: h.endless(b"x" * 65536, 403), "HTTP 403"),
    "an endless header": (lambda h, b: h.endless(b"X-A: b\r\n" * 1000, X="y"), "longer than"),
    "too much text": (said("x" * 500_000), "characters where"),
    "no body": (raw(b""), "an empty body"),
    "no content": (raw(b"", 204), "an empty body"),
    "a web page": (raw(b"<html><title>Sign in</title></html>"), "a web page: Sign in"),
    "an event stream": (raw(b'data: {"choices": []}\n\ndata: [DONE]\n\n'), "not a chat completion"),
    "no JSON": (raw(b"\xff\xfe\x00"), "not a chat completion"),
    "deep JSON": (raw(b"[" * 100_000), "not a chat completion"),
    "a number too long": (raw(b'{"choices": ' + b"9" * 100_000 + b"}"), "not a chat completion"),
    "an error with status 200": (raw(b'{"error": {"message": "worker died"}}'), "worker died"),
    "less than it says": (raw(b"{}", Content_Length="100"), "connection failed"),
    "no HTTP": (line(b"SSH-2.0-OpenSSH_9\r\n"), "connection failed"),
    "nothing": (line(b""), "connection failed"),
    "control characters": (raw(b'{"error": {"message": "a\\u001b[31m\\u0007b\\nc"}}', 400), "a [31m b c"),
    "an error of a megabyte": (raw(b'{"error": "' + b"y" * 10**6 + b'"}', 400), "HTTP 400"),
    "an error in nested lists": (raw(b'{"detail": [{"loc": ["body", 3], "msg": "odd"}]}', 422), "body.3: odd"),
    "wait for ever": (raw(b"{}", 429, Retry_After="1e308"), "HTTP 429"),
    "wait for NaN": (raw(b"{}", 429, Retry_After="nan"), "HTTP 429"),
    "wait less than nothing": (raw(b"{}", 503, Retry_After="-5"), "HTTP 503"),
    "the key refused": (raw(b'{"error": {"message": "bad key"}}', 401), "OPENAI_API_KEY"),
    "too large": (raw(b"<title>413 Request Entity Too Large</title>", 413), "image_format"),
    "unknown model": (raw(b'{"message": "The model `judge` does not exist."}', 404), "/models lists"),
    "no such page": (raw(b'{"detail": "Not Found"}', 404), "is the address right"),
    "half a surrogate pair": (said("\ud800 normal"), ""),
    "the key in the answer": (said(f"your key is {KEY}!"), ""),
    "the key as a name": (reply(model=KEY, system_fingerprint=f"f-{KEY}"), ""),
    "the key in an error": (raw(json.dumps({"error": f"{'x' * 380} {KEY}"}).encode(), 400), "HTTP 400"),
    "the key on a web page": (raw(f"<p>{KEY}</p>".encode(), 500), "[key]"),
    "the key escaped": (raw(b'{"error": "\\u0073' + KEY[1:].encode() + b'"}', 400), "[key]"),
    **{
        f"redirect {status}": (raw(b"", status, Location=f"https://u:{KEY}@example.org/v1/chat/completions?k=v"), text)
        for status in (301, 302, 303, 307, 308)
        for text in (f"HTTP {status}: an empty body (it redirects to https://example.org/v1, and redirects are not",)
    },
}
FAST = (
    "a bomb",
    "an endless answer",
    "an endless error",
    "a web page",
    "half a surrogate pair",
    "the key in the answer",
    "the key in an error",
    "redirect 307",
)
PATHS = (
    "choices",
    "choices 0",
    "choices 0 message",
    "choices 0 message content",
    "choices 0 message reasoning_content",
    "choices 0 finish_reason",
    "choices 0 logprobs",
    "choices 0 logprobs content",
    "choices 0 logprobs content 0",
    "choices 0 logprobs content 0 token",
    "choices 0 logprobs content 0 logprob",
    "choices 0 logprobs content 0 bytes",
    "choices 0 logprobs content 0 top_logprobs",
    "choices 0 logprobs content 0 top_logprobs 0",
    "choices 0 logprobs content 0 top_logprobs 0 token",
    "choices 0 logprobs content 0 top_logprobs 0 logprob",
    "choices 0 logprobs content 0 top_logprobs 0 bytes",
    "usage",
    "usage prompt_tokens",
    "model",
    "system_fingerprint",
)
VALUES = (None, True, -1, 10**9, 1e400, math.nan, "", "x", "\ud800", [], {}, [[]], [None], {"a": {}}, [-1, 256], [0.5])


def replaced(answer: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    answer = copy.deepcopy(answer)
    *way, last = [int(step) if step.isdigit() else step for step in path.split()]
    place: Any = answer
    for step in way:
        place = place[step]
    place[last] = value
    return answer


def check_fields(path: str, value: Any, body: dict[str, Any]) -> None:
    """Reads the answer as the backend does, and holds every part to its type."""
    try:
        read = read_reply(json.dumps(replaced(honest(body), path, value)).encode())
    except AttemptFailed as failed:
        assert path in ("choices", "choices 0", "choices 0 message") and "not a chat completion" in failed.reason
        return
    read.text.encode()
    assert type(read.prompt_tokens) is int and read.prompt_tokens >= 0
    assert all(type(v) is str and len(v) <= 200 and v.encode() for v in read.served_by.values())
    for token in read.tokens:
        assert all(math.isfinite(v) and v <= 0 for v in next_tokens(token).values())
    verdict = generated_verdict(read.tokens, read.text)
    if verdict is not None:
        assert verdict[1].fault is None and verdict[0].endswith('"status": "')


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_an_answer_may_hold_anything(path):
    for value in VALUES:
        for last in ("user", "assistant"):
            check_fields(path, value, {"messages": [{"role": last}]})


def check_case(server: HostileServer, backend: OpenAIBackend, behave: Behaviour, message: str) -> None:
    server.behave = behave
    tracemalloc.start()
    started = time.monotonic()
    bad, good = backend.generate([BAD, GOOD], Sampling(max_new_tokens=64))
    failed, scored = backend.score([BAD, GOOD], [PREFIX, PREFIX])
    spent, peak = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (good.error, good.finished) == (None, True) and good.text.startswith(PREFIX)
    assert scored is not None and scored.fault is None and scored.log_p_normal == pytest.approx(-0.2)
    assert (message in (bad.error or "")) if message else (bad.error is None and bad.text.encode())
    assert len(bad.error or "") < 1000 and "\n" not in (bad.error or "")
    assert spent < 25 and peak < 150e6
    assert KEY not in "".join(map(repr, (bad, good, failed, scored, backend.describe())))
    assert KEY[:20] not in repr(bad)  # nor the half of it that a cut would leave


@pytest.mark.parametrize("name", FAST)
def test_one_hostile_answer_costs_no_other(server, backend, name):
    check_case(server, backend, *TRANSPORT[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(TRANSPORT) - set(FAST)))
def test_no_hostile_answer_costs_another(server, backend, name):
    check_case(server, backend, *TRANSPORT[name])


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_every_field_may_hold_anything_over_the_wire(server, backend, path):
    for value in VALUES:

        def behave(handler: Handler, body: dict[str, Any], value: Any = value) -> None:
            handler.send(json.dumps(replaced(honest(body), path, value)).encode())

        server.behave = behave
        bad, good = backend.generate([BAD, GOOD], Sampling(max_new_tokens=64))
        failed, scored = backend.score([BAD, GOOD], [PREFIX, PREFIX])
        assert good.error is None and scored is not None and scored.fault is None, (path, value)
        json.dumps([bad.text, bad.error, repr(failed)]).encode()


def test_whatever_fails_in_one_item_is_its_error(server, backend, monkeypatch):
    """Also what nobody thought of: an exception of any kind while one answer is read."""
    original = backend._completion

    def fails(conversation, *rest):
        if conversation is BAD:
            raise ZeroDivisionError(f"inside, with {KEY}")
        return original(conversation, *rest)

    server.behave = lambda handler, body: handler.send(json.dumps(honest(body)).encode())
    monkeypatch.setattr(backend, "_completion", fails)
    bad, good = backend.generate([BAD, GOOD], Sampling(max_new_tokens=64))
    assert bad.error == "unexpected ZeroDivisionError: inside, with [key]" and good.error is None
