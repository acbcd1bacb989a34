"""The reward server under load, with few clients; and that the benchmark sees what it is there to see."""

import importlib.util
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server_load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("server_load", ROOT / "benchmarks" / "server_load.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "server_load", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_eight_clients_finish_beside_hostile_ones_and_a_kill(server_load, tmp_path):
    load = server_load.Load(clients=8, rounds=1, kills=1, seconds=0.005)
    tables, faults = load.run(tmp_path)
    assert faults == []
    found = dict(tables[0].rows)
    assert found["answers right, wrong, missing"] == "48, 0, 0" and found["requests, videos"].endswith(", 48")
    assert found["server killed with kill -9, started anew"] == "1" and found["retries"] != "0"
    assert {line[0] for line in tables[1].rows} == set(server_load.KINDS), "all of them had their turn"


def test_the_watch_sees_an_opening_by_any_program(server_load, tmp_path):
    hidden, other = tmp_path / "hidden", tmp_path / "other"
    hidden.write_text("a")
    other.write_text("b")
    watch = server_load.Watch([hidden])
    other.read_text()
    hidden.stat()
    assert not watch.opened()
    link = tmp_path / "link"
    link.symlink_to(hidden)
    os.system(f"cat {link} > /dev/null")
    assert watch.opened() == {"hidden": 1} and not watch.opened()


def test_an_answer_is_right_for_its_video_prompt_and_rate_alone(server_load):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    from server_watched import fingerprint

    right = fingerprint(frames, "a", 8.0)
    others = [(frames + 1, "a", 8.0), (frames, "b", 8.0), (frames, None, 8.0), (frames, "a", 9.0)]
    assert all(fingerprint(*other) != right for other in others)
    honest, job = server_load.Honest(), server_load.Job(frames, "a", right)
    honest.note([job] * 3, [right, np.nextafter(right, 1), None], [None, None, "busy"], 0.1)
    assert honest.right == 1 and len(honest.wrong) == 1 and honest.unanswered == {"busy": 1}


def test_what_a_server_may_not_say_to_a_hostile_client_is_a_fault(server_load, tmp_path):
    target = server_load.Target(1, "token", tmp_path / "outside", 2, threading.Event())
    hostiles = server_load.Hostiles(target)
    kind = "playlists and broken files"
    answer = '{"results": [{"score": %s, "reason": "no video"}]}'
    for status, text in [(200, answer % "null"), (503, "busy"), (403, "no")]:
        hostiles._note(kind, status, text, (200, 403))
    assert not hostiles.faults and hostiles.counts[kind].total() == 3
    for status, text in [(200, answer % "0.5"), (500, ""), (403, f"{tmp_path}/root"), (403, "canary-of-the-load")]:
        hostiles._note(kind, status, text, (200, 403))
    assert len(hostiles.faults) == 4


def test_files_that_are_not_the_servers_own_are_told_apart(server_load, tmp_path):
    root, secret = tmp_path / "served", tmp_path / "outside" / "secret.mp4"
    root.mkdir()
    server = server_load.Server(tmp_path, root, [])
    assert all(server._is_own(p) for p in (str(root / "a.mp4"), "a.mp4", "/dev/fd/7", os.__file__))
    assert not any(server._is_own(p) for p in ("/etc/passwd", str(secret), "/proc/1/environ"))
