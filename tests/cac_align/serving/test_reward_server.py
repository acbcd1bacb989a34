"""A reward behind HTTP answers as it does in this process, whatever its clients send, and whoever they are."""

import base64
import errno
import json
import os
import socket
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from cac_align.rewards.base import RewardError, evaluate
from cac_align.rewards.cac import CaCReward
from cac_align.rewards.composite import CompositeReward
from cac_align.serving import addresses
from cac_align.serving.addresses import AddressError, checked_address
from cac_align.serving.settings import ServeSettings
from reward_model.backends.secret import Secret
from reward_model.schema import Verdict
from reward_model.video.clip import Video
from reward_model.world import make_video
from tests.cac_align.serving.conftest import asking, brightness, grey, sent

TOKEN = "0123456789abcdef0123"


def score(client, *videos, **more):
    return client.post("/score", json={"videos": list(videos), **more})


def scores(reply):
    assert reply.status_code == 200, reply.text
    return [result["score"] for result in reply.json()["results"]]


# --- what is answered -------------------------------------------------------------------------------------------------


def test_paths_frames_and_files_are_scored_in_order(folder):
    file = base64.b64encode((folder / "sub/a.mp4").read_bytes()).decode()
    with asking(brightness, root=folder) as client:
        reply = score(client, sent(grey(51)), {"path": "sub/a.mp4"}, {"file": file}, sent(grey(255), prompt="white"))
    found = scores(reply)
    assert found[0] == 0.2 and found[3] == 1.0
    assert found[1] == found[2] == pytest.approx(200 / 255, abs=0.02)


def test_a_judge_answers_as_in_this_process(judge_folder):
    judge = CaCReward(judge_folder, device="cpu", batch_size=1)
    videos = [make_video(500_000 + k, kind, num_frames=17)[0] for k, kind in enumerate([None, "vanish"])]
    here = evaluate(judge, videos, ["a ball", "a square"], fps=8)
    with asking(judge, max_batch=1) as client:
        asked = [sent(v, prompt=p) for v, p in zip(videos, ["a ball", "a square"], strict=True)]
        reply = score(client, *asked, evidence=True).json()
        brief = score(client, *asked).json()
    assert [r["score"] for r in reply["results"]] == here.scores and None not in here.scores
    there = [Verdict.from_dict(r["verdict"]) for r in reply["results"]]
    assert [v.turns[0].text for v in there] == [v.turns[0].text for v in here.verdicts]
    assert [r["status"] for r in brief["results"]] == [v.status for v in here.verdicts]
    assert "verdict" not in brief["results"][0]


def test_parts_of_a_composite_come_along():
    with asking(
        CompositeReward({"bright": brightness, "one": lambda v, p=None, *, fps, **_: [1.0] * len(v)})
    ) as client:
        result = score(client, sent(grey(51))).json()["results"][0]
    assert result["score"] == pytest.approx(0.6) and result["parts"] == {"bright": 0.2, "one": 1.0}


def test_videos_of_other_rates_and_without_prompts_are_not_mixed():
    calls = []

    def reward(videos, prompts=None, *, fps, **_):
        calls.append((len(videos), prompts, fps))
        return [fps / 100] * len(videos)

    with asking(reward, max_batch=8) as client:
        reply = score(
            client, sent(grey(1), 8.0), sent(grey(1), 16.0), sent(grey(1), 8.0, prompt="a"), sent(grey(1), 8.0)
        )
    assert scores(reply) == [0.08, 0.16, 0.08, 0.08]
    assert all(prompts in (None, ["a"]) for _, prompts, _ in calls)


def test_one_bad_video_of_a_batch_costs_no_other_its_score():
    def reward(videos, prompts=None, *, fps, **_):
        if any(v.mean() == 13 for v in videos):
            raise ZeroDivisionError("thirteen")
        return brightness(videos, fps=fps)

    broken = base64.b64encode(b"not a video" * 50).decode()
    with asking(reward, max_batch=8) as client:
        reply = score(client, sent(grey(51)), sent(grey(13)), {"file": broken, "fps": 8.0}, sent(grey(255)))
    assert scores(reply) == [0.2, None, None, 1.0]
    reasons = [result["reason"] for result in reply.json()["results"]]
    assert "ZeroDivisionError" in reasons[1] and reasons[2] and "/dev/fd" not in reasons[2]


def test_scores_that_are_not_numbers_are_never_handed_out():
    with asking(lambda v, p=None, *, fps, **_: [float("nan")] * len(v)) as client:
        result = score(client, sent(grey(1))).json()["results"][0]
    assert result["score"] is None and "nan" in result["reason"]


def test_a_reward_of_whole_groups_is_not_served():
    with pytest.raises(RewardError, match="affine"), asking(CompositeReward([brightness], normalise="zscore")):
        pass


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[" * 100_000, 422),
        (b"\xff\xfe", 422),
        (b"null", 422),
        (b'{"videos": []}', 422),
        (b'{"videos": [{}]}', 422),
        (b'{"videos": [{"path": "a", "url": "b"}]}', 422),
        (b'{"videos": [{"path": "a", "more": 1}]}', 422),
        (b'{"videos": [{"path": "a", "fps": NaN}]}', 422),
        (b'{"videos": [{"path": "a", "fps": "8"}]}', 422),
        (b'{"videos": [{"frames": "AAAA", "shape": [1, 1, 1, 3]}]}', 422),
        (b'{"videos": [{"frames": "AAAA", "shape": [100000, 100000, 100000, 3], "fps": 8.0}]}', 422),
        (b'{"videos": [{"frames": "????", "shape": [1, 1, 1, 3], "fps": 8.0}]}', 422),
        (b'{"videos": [{"frames": "AAAA", "shape": [1, 1, 3, 1], "fps": 8.0}]}', 422),
        (b'{"videos": [{"frames": "AAAA", "shape": [-1, 1, 1, -3], "fps": 8.0}]}', 422),
    ],
)
def test_bodies_that_make_no_sense_are_refused_with_a_sentence(body, status):
    with asking(brightness) as client:
        reply = client.post("/score", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == status and isinstance(reply.json()["detail"], str) and len(reply.text) < 3000
        assert scores(score(client, sent(grey(51)))) == [0.2]


def test_a_fault_is_told_without_quoting_the_input():
    with asking(brightness) as client:
        reply = score(client, {"path": "x", "prompt": 7, "fps": "sesame"})
    assert reply.status_code == 422 and "fps" in reply.json()["detail"] and "sesame" not in reply.text


def test_bodies_above_the_limit_are_refused_unread():
    def endless():
        pytest.fail("the body was read")
        yield b""

    with asking(brightness, max_body=1000) as client:
        head = {"content-type": "application/json"}
        assert client.post("/score", content=b" " * 1001, headers=head).status_code == 413
        assert client.post("/score", content=b"{}", headers={**head, "content-length": str(10**30)}).status_code == 413
        assert client.post("/score", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_a_small_file_of_a_huge_video_is_not_decoded(folder, monkeypatch):
    """A megabyte of still pictures may hold gigabytes of frames."""
    data = (folder / "sub/a.mp4").read_bytes()
    size = 6 * 256 * 256 * 3  # enlarged for players
    with asking(brightness, root=folder, max_body=size - 1, max_bytes=size - 1) as client:
        monkeypatch.setattr(Video, "take", lambda *_: pytest.fail("decoded"))
        for video in ({"path": "sub/a.mp4"}, {"file": base64.b64encode(data).decode()}):
            (result,) = score(client, video).json()["results"]
            assert result["score"] is None and f"take {size:,} bytes" in result["reason"]
        monkeypatch.undo()
    with asking(brightness, root=folder, max_body=size, max_bytes=size) as client:
        assert scores(score(client, {"path": "sub/a.mp4"}))[0] > 0.7


def test_too_many_videos_are_refused():
    with asking(brightness, max_videos=2) as client:
        assert score(client, *[sent(grey(1))] * 3).status_code == 413
        assert scores(score(client, *[sent(grey(51))] * 2)) == [0.2, 0.2]


@pytest.fixture
def opened():
    """Names of all files that Python opens."""
    names: list[str] = []
    active = [True]

    def hook(event, args):
        if active[0] and event == "open":
            names.append(os.fsdecode(args[0]) if isinstance(args[0], str | bytes) else str(args[0]))

    sys.addaudithook(hook)
    yield names
    active[0] = False


def test_nothing_outside_the_root_is_opened(folder, opened):
    outside = folder.parent / "secret.mp4"
    (folder / "link.mp4").symlink_to(outside)
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "same.mp4").symlink_to(folder / "sub/a.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{outside}\n#EXT-X-ENDLIST\n")
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{outside}'\n")
    with asking(brightness, root=folder) as client:
        del opened[:]
        for path in ("../secret.mp4", str(outside), "link.mp4", "up/secret.mp4", "sub/../../secret.mp4", "/etc/passwd"):
            reply = score(client, {"path": path, "fps": 8.0})
            assert reply.status_code == 403 and "only files in it" in reply.text, path
        for path in ("no.mp4", "loop", "sub", ".", "pipe.mp4", "a\0b", "x" * 4000, "/dev/fd/0"[1:]):
            assert score(client, {"path": path, "fps": 8.0}).status_code in (403, 404), path
        for path in ("list.m3u8", "list.mp4"):
            assert scores(score(client, {"path": path, "fps": 8.0})) == [None], path
        assert scores(score(client, {"path": "same.mp4"}))[0] > 0.7  # a link that stays inside
    assert opened and not [name for name in opened if "secret" in name or "passwd" in name]


def test_a_link_that_changes_between_look_and_opening_leads_nowhere(folder, monkeypatch):
    """What is opened is what was resolved: the link is swapped for one that leads out at the worst moment."""
    from cac_align.serving import sources

    name = folder / "sub"
    real = os.path.realpath

    def swapped(path):
        found = real(path)
        if found.endswith("a.mp4"):
            name.rename(folder.parent / "moved")
            name.symlink_to(folder.parent / "moved")
        return found

    monkeypatch.setattr(sources.os.path, "realpath", swapped)
    with pytest.raises(sources.RefusedError) as refused, sources.open_inside(folder, "sub/a.mp4"):
        pass
    assert refused.value.status == 404


def test_no_file_left_to_open_is_no_absent_video(folder, monkeypatch):
    from cac_align.serving import sources

    def full(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with asking(brightness, root=folder) as client:
        monkeypatch.setattr(sources.os, "open", full)
        reply = score(client, {"path": "sub/a.mp4"})
        monkeypatch.undo()
        assert reply.status_code == 503 and "too many files" in reply.text, "which a client tries again"
        assert scores(score(client, {"path": "sub/a.mp4"}))[0] > 0.7


def test_paths_and_urls_are_off_unless_they_are_switched_on(folder):
    with asking(brightness) as client:
        assert score(client, {"path": "sub/a.mp4"}).status_code == 403
        assert score(client, {"url": "https://example.org/a.mp4"}).status_code == 403


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.mp4",
        "http://localhost:8809/health",
        "http://[::1]/a",
        "http://[::ffff:10.0.0.1]/a",
        "http://169.254.169.254/latest/meta-data",
        "http://10.1.2.3/a",
        "http://192.168.0.1/a",
        "http://0.0.0.0/a",
        "http://2130706433/a",
        "http://0x7f.1/a",
        "file:///etc/passwd",
        "ftp://8.8.8.8/a",
        "gopher://8.8.8.8/a",
        "http://me:pw@8.8.8.8/a",
        "http://8.8.8.8:99999/a",
        "http://8.8.8.8/a b",
        "http://",
    ],
)
def test_addresses_that_are_not_public_are_never_connected_to(url, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("connected"))
    with asking(brightness, urls=True) as client:
        assert score(client, {"url": url}).status_code == 403


def test_a_name_with_one_private_address_is_refused_and_the_checked_address_is_used(monkeypatch):
    answers = [["8.8.8.8", "10.0.0.1"]]
    rows = lambda *_, **__: [(2, 1, 6, "", (ip, 80)) for ip in answers[0]]  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", rows)
    with pytest.raises(AddressError, match="not a public"):
        checked_address("http://rebind.example/a")
    answers[0] = ["8.8.8.8"]
    assert checked_address("http://rebind.example/a")[1] == "8.8.8.8"


def test_a_video_is_fetched_without_following_redirects(folder, monkeypatch):
    """Loopback counts as public for the length of this test."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    data = (folder / "sub/a.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            moved = self.path == "/moved"
            self.send_response(302 if moved else 200)
            self.send_header("Location", "/a.mp4") if moved else None
            self.send_header("Content-Length", str(len(data) * (2 if self.path == "/short" else 1)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    monkeypatch.setattr(addresses, "is_public", lambda _: True)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        place = f"http://127.0.0.1:{web.server_port}"
        with asking(brightness, urls=True) as client:
            assert scores(score(client, {"url": f"{place}/a.mp4"}))[0] > 0.7
            assert "302" in score(client, {"url": f"{place}/moved"}).json()["detail"]
            assert "broke off" in score(client, {"url": f"{place}/short"}).json()["detail"]
        with asking(brightness, urls=True, max_body=100 + len(data) // 2) as client:
            assert "larger" in score(client, {"url": f"{place}/a.mp4"}).json()["detail"]
        web.shutdown()


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "169.254.169.254"])
def test_other_hosts_and_pages_of_browsers_are_refused(host):
    with asking(brightness) as client:
        assert client.get("/health", headers={"host": host}).status_code == 400
        assert client.get("/health", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/docs").status_code == 404 and client.get("/openapi.json").status_code == 404
    with asking(brightness, hosts=frozenset({"judge.lab"})) as client:
        assert client.get("/health", headers={"host": "judge.lab:8809"}).status_code == 200


def test_without_the_token_only_health_is_told():
    with asking(brightness, token=Secret.of(TOKEN)) as client:
        for value in ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer \xe9"):
            head = {"authorization": value.encode("latin-1")}
            assert client.get("/reward", headers=head).status_code == 401
            assert client.get("/metrics", headers=head).status_code == 401
            assert client.post("/score", json={}, headers=head).status_code == 401
        assert client.get("/health").status_code == 200
        assert client.get("/reward", headers={"authorization": f"Bearer {TOKEN}"}).json()["name"] == "brightness"


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"max_batch": 0}, "above 0"), ({"token": Secret.of("short")}, "guessed"), ({"max_bytes": 1}, "max_bytes")],
)
def test_limits_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ServeSettings(**settings)


# --- load -------------------------------------------------------------------------------------------------------------


def test_a_full_queue_sends_clients_away_and_serves_again_later():
    going, begun = threading.Event(), threading.Event()

    def slow(videos, prompts=None, *, fps, **_):
        begun.set()
        assert going.wait(20)
        return brightness(videos, fps=fps)

    with asking(slow, max_waiting=2, max_batch=1) as client:
        replies = []
        threads = [threading.Thread(target=lambda: replies.append(score(client, sent(grey(51))))) for _ in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(20)
        while "cac_align_waiting_videos 2" not in client.get("/metrics").text:
            time.sleep(0.01)
        refused = score(client, sent(grey(51)))
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        going.set()
        for thread in threads:
            thread.join()
        assert [scores(reply) for reply in replies] == [[0.2], [0.2]]
        assert scores(score(client, sent(grey(51)))) == [0.2]
        text = client.get("/metrics").text
    assert 'cac_align_requests_total{status="503"} 1' in text and "cac_align_waiting_videos 0" in text
    assert 'cac_align_videos_total{outcome="scored"} 3' in text and "cac_align_held_bytes 0" in text


def test_a_reward_that_hangs_times_out_and_shows_in_health():
    going, judged = threading.Event(), []

    def hanging(videos, prompts=None, *, fps, **_):
        judged.extend(float(v.mean()) for v in videos)
        assert going.wait(20)
        return brightness(videos, fps=fps)

    with asking(hanging, timeout_s=1.0, max_batch=1) as client:
        assert score(client, sent(grey(51)), sent(grey(52))).status_code == 503
        while client.get("/health").status_code == 200:  # its second is over a little later than the client's
            time.sleep(0.01)
        going.set()
        while client.get("/health").status_code == 503:
            time.sleep(0.01)
        assert scores(score(client, sent(grey(255)))) == [1.0]
    assert judged == [51, 255]  # 52 had nobody who waited for it


def test_bytes_on_their_way_are_bounded():
    going, begun = threading.Event(), threading.Event()

    def slow(videos, prompts=None, *, fps, **_):
        begun.set()
        assert going.wait(20)
        return brightness(videos, fps=fps)

    size = len(json.dumps({"videos": [sent(grey(51))]}))
    with asking(slow, max_body=2 * size, max_bytes=2 * size) as client:
        thread = threading.Thread(target=lambda: score(client, sent(grey(51))))
        thread.start()
        begun.wait(20)
        reply = score(client, sent(grey(51)), sent(grey(51)))
        assert reply.status_code in (413, 503)
        reply = score(client, sent(np.concatenate([grey(51)] * 2)[:6]))
        assert reply.status_code == 503 and "bytes" in reply.text
        going.set()
        thread.join()
