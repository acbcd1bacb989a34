"""kill -9 of the server at random moments: what it acknowledged is there."""

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from cac_align.rating.journal import RatingJournal


def start(folder):
    command = [sys.executable, "-m", "cac_align.cli", "rate", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    return process, int(re.search(r":(\d+)/", line).group(1))


def post(port, path, data):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", f"/api/{path}", json.dumps(data), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


@pytest.mark.slow
def test_ten_kills_lose_nothing_that_was_acknowledged(folder):
    rng = random.Random(0)
    acknowledged, total = {}, 0
    for _ in range(10):
        process, port = start(folder)
        for person in ("Ann", "Bob"):
            entered = post(port, "enter", {"name": person})[1]
            stored = {i["key"]: i["answer"] and int(i["answer"]["note"]) for i in entered["items"]}
            for key, number in acknowledged.get(person, {}).items():
                # The very last one may have been written without its acknowledgement arriving.
                assert stored[key] in (number, number + 2)
        keys, stop = list(stored), threading.Event()

        def rate(person, port=port, keys=keys, stop=stop):
            mine = acknowledged.setdefault(person, {})
            while not stop.is_set():
                key = keys[len(mine) % len(keys)] if len(mine) < len(keys) else rng.choice(keys)
                number = mine.get(key, 0) + 2
                answer = {"status": "normal", "anomalies": [], "note": str(number), "done": True}
                try:
                    status, _ = post(port, "answer", {"person": person, "video": key, "answer": answer})
                except (OSError, http.client.HTTPException, ValueError):
                    return
                assert status == 200
                mine[key] = number

        raters = [threading.Thread(target=rate, args=(person,)) for person in ("Ann", "Bob")]
        for thread in raters:
            thread.start()
        time.sleep(rng.uniform(0.05, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        stop.set()
        for thread in raters:
            thread.join()
        process.wait()
        process.stdout.close()
        total = sum(sum(mine.values()) for mine in acknowledged.values())
    assert total > 100
    journal = RatingJournal(folder / "ratings/journal.jsonl")
    last = {(e["person"], e["video"]): int(e["answer"]["note"]) for e in journal.events if "answer" in e}
    journal.close()
    assert len(last) == 10
