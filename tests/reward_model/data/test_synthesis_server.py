"""The synthesis against a real server on 127.0.0.1 that speaks the OpenAI protocol, fails, and goes away."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reward_model.backends.base import BackendError
from reward_model.backends.openai import OpenAIBackend
from reward_model.conversation import Message, Sampling
from reward_model.data.annotations import read_annotations, video_path
from reward_model.data.records import Record
from reward_model.data.synthesis import plan, synthesize
from reward_model.data.synthesis.asking import Asker
from reward_model.data.synthesis.config import AskConfig
from reward_model.data.synthesis.ledger import CallId, Ledger
from reward_model.data.synthesis.ledger_header import LedgerHeader
from reward_model.data.synthesis.narrator_teacher import NarratorJudge, NarratorTeacher
from reward_model.data.synthesis.noise import Noise
from reward_model.data.synthesis.rounds import Call
from reward_model.data.synthesis.world_records import write_world_records
from reward_model.video.clip import Video, load_video
from reward_model.world import KINDS, make_video

ASK = AskConfig(max_crops=1)  # a crop is enlarged to hundreds of pixels, and PNG takes its time over each
ROOT = Path(__file__).resolve().parents[3]


class TeacherServer(ThreadingHTTPServer):
    """Serves a narrator and its reviewer. One request in ``fail_every`` is refused the first time; from ``down_after``
    answers on, all are.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, teacher, judge) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.teacher, self.judge = teacher, judge
        self.lock = threading.Lock()
        self.answered: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.fail_every, self.down_after, self.delay_s = 0, None, 0.0
        self.at_once = self.most_at_once = 0
        self.clients: dict[str, OpenAIBackend] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address) -> None:
        pass  # clients that are killed are part of the tests

    def start(self) -> TeacherServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self


class Handler(BaseHTTPRequestHandler):
    server: TeacherServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together

    def log_message(self, *args) -> None:
        pass

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body, key = json.loads(raw), hashlib.sha256(raw).hexdigest()
        server = self.server
        with server.lock:
            down = server.down_after is not None and sum(server.answered.values()) >= server.down_after
            first = server.fail_every and int(key, 16) % server.fail_every == 0 and key not in server.refused
            server.refused |= {key} if first else set()
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(server.delay_s)
        refuse = down or first
        data = b'{"error": {"message": "overloaded"}}' if refuse else self.reply(body)
        with server.lock:  # before the answer leaves: its client may ask again at once
            server.at_once -= 1
            server.answered[key] += not refuse
        self.send(data, 503 if refuse else 200)

    def reply(self, body: dict) -> bytes:
        asked = tuple(Message(m["role"], _content(m["content"])) for m in body["messages"])
        backend = self.server.judge if body["model"] == "judge" else self.server.teacher
        [answer] = backend.generate([asked], Sampling(body["max_tokens"], body["temperature"], seed=body.get("seed")))
        message = {"role": "assistant", "content": answer.text or None}
        choice = {"index": 0, "finish_reason": "stop" if answer.finished else "length", "message": message}
        usage = {"prompt_tokens": answer.extra.get("prompt_tokens", 0), "completion_tokens": answer.num_tokens}
        return json.dumps({"id": "x", "model": body["model"], "choices": [choice], "usage": usage}).encode()

    def send(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()


def _content(content) -> tuple:
    """Wire -> conversation; PNG gives every pixel back, so the narrator recognises the frames."""
    if isinstance(content, str):
        return (content,)
    return tuple(p["text"] if p["type"] == "text" else _pixels(p["image_url"]["url"]) for p in content)


def _pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


@pytest.fixture(scope="module")
def world():
    videos, records = {}, []
    for k in range(4):
        frames, truth = make_video(44_000 + k, list(KINDS)[k] if k % 2 else None, num_frames=49)
        truth = replace(truth, video_id=f"v{k}")
        videos[truth.video_id] = Video(frames, truth.fps)
        records.append(Record(f"{truth.video_id}.mkv", truth))
    return records, lambda record: videos[record.truth.video_id]


@pytest.fixture
def server(world):
    records, load = world
    tasks = plan(records, ASK)
    noise = Noise.even(0.5)
    with TeacherServer(NarratorTeacher(tasks, load, ASK, noise), NarratorJudge(tasks)).start() as fake:
        yield fake
        fake.shutdown()


def ask(server, world, folder, **options):
    if not server.clients:  # opening one reads all certificates
        for name in ("teacher", "judge"):
            server.clients[name] = OpenAIBackend(name, base_url=server.url, api_key="k", backoff_s=0.001, max_retries=2)
    teacher, judge = server.clients.values()
    records, load = world
    return synthesize(records, teacher, folder, load=load, judge=judge, ask=ASK, **{"workers": 4, **options})


def facts(done):
    return [(o.task.key, o.decision, o.answer, o.rounds) for o in done.outcomes]


@pytest.mark.slow
def test_a_busy_server_changes_nothing_but_the_count_of_retries(server, world, tmp_path):
    calm = ask(server, world, tmp_path / "calm", workers=1)
    assert server.most_at_once == 1
    assert calm.tallies["teacher"].retries == 0
    server.answered.clear()
    server.fail_every, server.delay_s = 2, 0.02
    busy = ask(server, world, tmp_path / "busy")
    assert facts(busy) == facts(calm)
    assert 2 <= server.most_at_once <= 4
    retries = sum(t.retries for t in busy.tallies.values())
    assert retries == len(server.refused) > 5
    assert busy.tallies["teacher"].failed == 0
    assert {n for n in server.answered.values() if n} == {1}
    assert busy.tallies["teacher"].tokens_in == calm.tallies["teacher"].tokens_in > 1000
    # The narrator over the wire decides as it does in this process.
    local = synthesize(world[0], server.teacher, tmp_path / "local", load=world[1], judge=server.judge, ask=ASK)
    assert facts(local) == facts(calm)


def test_a_server_that_goes_away_stops_the_run_and_nothing_is_paid_twice(server, world, tmp_path):
    whole = facts(ask(server, world, tmp_path / "whole"))
    needed = Counter(server.answered)
    server.answered.clear()
    for stop_after in (4, 9):
        server.down_after = stop_after
        with pytest.raises(BackendError, match=r"6 calls in a row gave no answer.*503.*run again to continue"):
            ask(server, world, tmp_path / "broken", give_up_after=6)
        with (tmp_path / "broken" / "ledger.jsonl").open("ab") as ledger:
            ledger.write(b'{"call": ["v0|scan')  # and the machine lost power while it wrote
    server.down_after = None
    done = ask(server, world, tmp_path / "broken", give_up_after=6)
    assert facts(done) == whole
    assert +server.answered == +needed
    assert done.tallies["teacher"].failed > 0


def test_calls_that_fail_after_the_limit_do_not_move_it(tmp_path):
    """Those of other workers, which were asked before the run stopped."""
    silent = NarratorTeacher([], None, ASK)  # knows no question
    call = Call(CallId("a|scan|0|x", "teacher", 1, 0), Sampling(), lambda: ())
    with Ledger(tmp_path / "ledger.jsonl", LedgerHeader({}, {})) as ledger:
        asker = Asker({"teacher": silent}, ledger, give_up_after=2)
        assert asker.ask([call])[0].error
        for _ in range(2):
            with pytest.raises(BackendError, match=r"^2 calls in a row gave no answer"):
                asker.ask([call])


@pytest.mark.slow
def test_a_killed_process_loses_the_calls_in_flight_only(tmp_path):
    annotations = write_world_records(tmp_path / "world", 8, seed=45_000)
    records = read_annotations(annotations)
    tasks = plan(records, ASK)
    teacher = NarratorTeacher(tasks, lambda r: load_video(video_path(r, annotations)), ASK, Noise.even(0.4))
    with TeacherServer(teacher, NarratorJudge(tasks)).start() as server:

        def command(folder: str) -> subprocess.Popen:
            recipe = [sys.executable, str(ROOT / "recipes" / "synthesize_cot.py"), "--annotations", str(annotations)]
            options = ["--teacher", "teacher", "--judge", "judge", "--base-url", server.url, "--workers", "3"]
            environment = {**os.environ, "OPENAI_API_KEY": "k", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            return subprocess.Popen([*recipe, *options, "--output", str(tmp_path / folder)], env=environment)

        assert command("whole").wait(120) == 0
        needed = Counter(server.answered)
        server.answered.clear()
        server.delay_s = 0.05
        for killed in (10, 20):
            run = command("killed")
            while sum(server.answered.values()) < killed:
                assert run.poll() is None
                time.sleep(0.005)
            run.send_signal(signal.SIGKILL)
            run.wait(10)
        time.sleep(0.2)
        assert command("killed").wait(120) == 0
        server.shutdown()
    assert set(+server.answered) == set(+needed)
    # Two kills, three workers, each at one call; a call whose answers are cut takes several requests.
    assert (
        sum(server.answered.values())
        <= sum(needed.values()) + 2 * 3 * ASK.call_attempts
        < 10 + 20 + sum(needed.values())
    )
    for name in ("cot.jsonl", "discarded.jsonl", "annotations_with_saliency.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
