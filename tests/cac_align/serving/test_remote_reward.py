"""A reward asked over a real socket: as in this process, across restarts of the server, and never a wrong number."""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from cac_align.cli import main
from cac_align.flow_grpo.judging.reward_specs import build_reward
from cac_align.rewards import remote
from cac_align.rewards.base import RewardError, describe_reward, evaluate
from cac_align.rewards.composite import CompositeReward
from cac_align.rewards.remote import RemoteReward
from cac_align.serving import listening
from reward_model.backends.secret import Secret
from reward_model.video.clip import load_video
from tests.cac_align.serving.conftest import brightness, grey, served
from tests.campaigns import slow_but

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(remote, "_LONGEST_PAUSE_S", 0.05)


def test_scores_parts_and_reasons_are_those_of_the_reward(folder):
    def picky(videos, prompts=None, *, fps, **_):
        return [None if v.mean() == 13 else 1.0 for v in videos]

    both = CompositeReward({"bright": brightness, "picky": picky})
    videos = [grey(51), grey(13), grey(255)]
    here = evaluate(both, videos, ["a", "b", "c"], fps=8)
    with served(both, root=folder) as port:
        for number in (1, 3):
            reward = RemoteReward(f"http://127.0.0.1:{port}/", videos_per_request=number)
            there = reward.evaluate(videos, ["a", "b", "c"], fps=8)
            assert (there.scores, there.parts, there.reasons) == (here.scores, here.parts, here.reasons)
        shared = RemoteReward(f"http://127.0.0.1:{port}", root=folder)
        assert shared([folder / "sub/a.mp4"]) == reward([folder / "sub/a.mp4"])
        assert reward([], fps=8) == []
        assert describe_reward(reward)["serves"] == describe_reward(both)
        assert build_reward([{"reward": "remote", "options": {"url": reward.url}}])([grey(51)], fps=8) == [0.6]


def test_how_large_a_video_was_drawn_arrives_in_every_form(folder):
    class Drawn:
        """Height before the file's writer enlarged it for players."""

        takes_videos = True

        def __call__(self, videos, prompts=None, *, fps, **_):
            return [video.drawn_size[0] / 1000 for video in videos]

    path = folder / "sub/a.mp4"
    assert load_video(path).size[0] > 16
    both = CompositeReward({"drawn": Drawn(), "bright": brightness})
    assert both.evaluate([path]).parts["drawn"] == [0.016]
    with served(both, root=folder) as port:
        url = f"http://127.0.0.1:{port}"
        asked = (RemoteReward(url), path), (RemoteReward(url, root=folder), path), (RemoteReward(url), load_video(path))
        for reward, video in asked:
            assert reward.evaluate([video]).parts["drawn"] == [0.016]


def test_the_token_is_asked_for_and_kept_from_sight(monkeypatch, impatient):
    monkeypatch.delenv("CAC_SERVE_TOKEN", raising=False)
    with served(token=Secret.of(TOKEN)) as port:
        url = f"http://127.0.0.1:{port}"
        for wrong in (None, TOKEN + "x"):
            with pytest.raises(RewardError, match=r"401.*CAC_SERVE_TOKEN"):
                RemoteReward(url, token=wrong).check_ready()
        reward = RemoteReward(url, token=TOKEN)
        reward.check_ready()
        assert reward([grey(51)], fps=8) == [0.2]
        assert TOKEN not in repr(reward) + str(describe_reward(reward)) + repr(vars(reward))
        data = pickle.dumps(reward)
        assert TOKEN.encode() not in data
        with pytest.raises(RewardError, match="401"):
            pickle.loads(data)([grey(51)], fps=8)
        monkeypatch.setenv("CAC_SERVE_TOKEN", TOKEN)
        assert pickle.loads(data)([grey(51)], fps=8) == [0.2]


def test_a_server_that_is_away_is_waited_for_and_then_there_is_no_score(impatient):
    with served() as port:
        reward = RemoteReward(f"http://127.0.0.1:{port}", patience_s=20)
        assert reward([grey(51)], fps=8) == [0.2]
    with ExitStack() as stack:
        later = threading.Timer(0.3, lambda: stack.enter_context(served(port=port)))
        later.start()
        assert reward([grey(51), grey(255)], fps=8) == [0.2, 1.0]
        later.join()
    gone = RemoteReward("http://127.0.0.1:9", patience_s=0.2)
    found = gone.evaluate([grey(1)] * 6, fps=8)
    assert found.scores == [None] * 6 and "no answer of http://127.0.0.1:9" in found.reasons[5]
    with pytest.raises(RewardError, match="could not judge"):
        RemoteReward("http://127.0.0.1:9", patience_s=0.1, on_error="raise")([grey(1)], fps=8)
    with pytest.raises(RewardError, match="cac-align serve"):
        gone.check_ready()


def test_another_reward_on_the_same_address_is_an_error(impatient):
    def darkness(videos, prompts=None, *, fps, **_):
        return [1 - s for s in brightness(videos, fps=fps)]

    with served() as port:
        reward = RemoteReward(f"http://127.0.0.1:{port}")
        assert reward([grey(51)], fps=8) == [0.2]
    with served(darkness, port), pytest.raises(RewardError, match="another reward than at the beginning"):
        reward([grey(51)], fps=8)


def test_a_request_above_the_servers_limit_is_told_before_it_is_sent():
    with served(max_body=2000) as port, pytest.raises(RewardError, match=r"accepts 2,000.*--max-body"):
        RemoteReward(f"http://127.0.0.1:{port}")([grey(1)], fps=8)


@pytest.mark.parametrize(
    "results",
    [
        [],
        [{"score": 2, "reason": None, "parts": {}}] * 2,
        [{"score": "1", "reason": None, "parts": {}}],
        [{"score": True, "reason": None, "parts": {}}],
        [{"score": 0.5}],
        ["a"],
    ],
)
def test_answers_of_another_form_are_errors_and_no_scores(results):
    with pytest.raises(RewardError, match=r"did not answer with 1 results|cannot be read"):
        remote._results({"digest": "d", "results": results}, 1, "d", "http://a")
    with pytest.raises(RewardError, match="does not answer as a reward server"):
        RemoteReward("http://a")._content(b"<html>")


@pytest.mark.parametrize("url", ["judge:8809", "ftp://judge", "http://", "http://me:pw@judge", "http://judge?x=1", ""])
def test_an_address_that_makes_no_sense_is_refused(url):
    with pytest.raises(ValueError, match="must be the address") as refused:
        RemoteReward(url)
    assert "pw" not in str(refused.value)


def closed_after(client):
    """Seconds until the server closes a connection, and what it said."""
    began, data = time.monotonic(), b""
    # A connection that is closed before all that was sent has been read ends in a reset, after what the server said.
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            data += part
    return time.monotonic() - began, data


@pytest.mark.parametrize("begun", slow_but([b"", b"POST /sco", b"POST /score HTTP/1.1\r\nHost: 127"], b"POST /sco"))
def test_a_client_that_falls_silent_is_cut_off(begun, monkeypatch):
    monkeypatch.setattr(listening, "HEAD_S", 0.2)
    with served() as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(begun)
        assert closed_after(client)[0] < 10


def test_a_body_that_drips_is_told_and_cut_off():
    with served(body_timeout_s=0.3) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: 10000\r\n\r\n{{".encode())
        seconds, data = closed_after(client)
        assert data.startswith(b"HTTP/1.1 408 ") and seconds < 10
        reward = RemoteReward(f"http://127.0.0.1:{port}")
        assert reward([grey(51)], fps=8) == [0.2]


def metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
        return reply.read().decode()


def held_bytes(port):
    return int(re.search(r"held_bytes (\d+)\n", metrics(port)).group(1))


def test_bodies_that_are_announced_and_drip_keep_nobody_out(impatient):
    """Only what has arrived counts against the bytes of all requests."""
    with served(max_body=10_000, max_bytes=20_000) as port, ExitStack() as stack:
        head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        for _ in range(4):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            client.sendall(f"{head}Content-Length: 9000\r\n\r\n{{".encode())
        reward = RemoteReward(f"http://127.0.0.1:{port}", patience_s=2)
        while held_bytes(port) < 4:
            time.sleep(0.01)
        assert reward([grey(51)], fps=8) == [0.2]


def test_bytes_that_have_arrived_are_bounded_while_they_arrive():
    with served(max_body=10_000, max_bytes=12_000) as port, ExitStack() as stack:
        head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(2)]
        for client in clients:
            client.sendall(f"{head}Content-Length: 9000\r\n\r\n".encode())
        clients[0].sendall(b" " * 8000)
        while held_bytes(port) < 8000:
            time.sleep(0.01)
        clients[1].sendall(b" " * 8000)
        seconds, data = closed_after(clients[1])
        assert data.startswith(b"HTTP/1.1 503 ") and b"retry-after" in data.lower() and seconds < 10
        assert held_bytes(port) == 8000
        clients[0].close()
        while held_bytes(port):
            time.sleep(0.01)


def test_connections_that_say_nothing_give_way(impatient, monkeypatch):
    """More of them than the server takes at a time; one that has a request in work stays."""
    monkeypatch.setattr(listening, "CONNECTIONS", 12)
    going = threading.Event()

    def slow(videos, prompts=None, *, fps, **_):
        assert going.wait(20)
        return brightness(videos, fps=fps)

    with served(slow) as port, ExitStack() as stack:
        found: list = []
        reward = RemoteReward(f"http://127.0.0.1:{port}", patience_s=5)
        early = threading.Thread(target=lambda: found.append(reward([grey(255)], fps=8)))
        early.start()
        while "waiting_videos 1" not in metrics(port):
            time.sleep(0.01)
        held = []
        for _ in range(24):
            held.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)))
            time.sleep(0.02)  # the kernel drops what comes faster than it is accepted, and its clients wait for seconds
        held[-1].sendall(b"POST /score HTTP/1.1\r\nHos")
        going.set()
        assert reward([grey(51)], fps=8) == [0.2]
        early.join(20)
        assert found == [[1.0]]
        assert closed_after(held[0])[0] < 10


@pytest.mark.parametrize(("files", "connections"), [(256, 128), (20_000, 512), (3, 2)])
def test_few_files_mean_few_connections(files, connections, monkeypatch):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert listening.most_connections() == connections


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--host", "0.0.0.0"], "must bring a token"),
        (["--rewards", "[nothing]"], "unknown"),
        (["--rewards", "no.yaml"], "no.yaml"),
        (["--rewards", "[motion]", "--model", "m"], "give one of them"),
        (["--rewards", "[motion]", "--root", "no-such-folder"], "not a folder"),
        (["--rewards", "[motion]", "--token-file", "no-such-file"], "no-such-file"),
        (["--rewards", "[motion]", "--max-waiting", "0"], "above 0"),
    ],
)
def test_wrong_options_are_one_line(args, said, capsys, monkeypatch):
    monkeypatch.delenv("CAC_SERVE_TOKEN", raising=False)
    assert main(["serve", *args]) == 2
    assert said in capsys.readouterr().err


def start(port, *options):
    command = [sys.executable, "-m", "cac_align.cli", "serve", "--rewards", "[motion]", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    return process, int(re.search(r":(\d+);", line).group(1))


@pytest.mark.slow
def test_the_client_finishes_whatever_kills_the_server(impatient):
    """kill -9 three times while clients ask: every score is the right one, and none is missing."""
    from cac_align.metrics.motion import MotionReward
    from reward_model.world import make_video

    videos = [make_video(600_000 + k, None, num_frames=17)[0] for k in range(40)]
    right = MotionReward()(videos, fps=16)
    process, port = start(0)
    found: list = []
    reward = RemoteReward(f"http://127.0.0.1:{port}", patience_s=300, concurrency=2)
    asking = threading.Thread(target=lambda: [found.append(reward([v], fps=16)[0]) for v in videos * 5])
    asking.start()
    try:
        for _ in range(3):
            time.sleep(1.0)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
            process, _ = start(port)
        asking.join(300)
    finally:
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
        process.wait(30)
        process.stdout.close()
    assert found == right * 5
    assert "stopped" in said and process.returncode == 0


def test_the_protocol_of_the_page_is_the_one_that_is_served():
    from cac_align.serving.messages import ScoreMessage
    from tests.docs.documents import DOCS, blocks

    (block,) = [b for b in blocks(DOCS / "how_to/serve_rewards.md") if b.language == "json"]
    message = ScoreMessage.model_validate_json(block.code)
    assert message.videos[1].pixels() == bytes(3) and json.loads(block.code)["evidence"] is False
