"""A judge behind a real vLLM server says what the same judge says in this process. Needs vLLM."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from cac_align import CaCReward
from reward_model.world import KINDS, make_video
from tests.vllm_judge import ENVIRONMENT, judge_for_vllm, needs_vllm

pytestmark = [pytest.mark.slow, needs_vllm]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return judge_for_vllm(tmp_path_factory.mktemp("judge") / "judge")


@pytest.fixture(scope="module")
def server(judge):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--dtype", "float32", "--max-model-len", 4096, "--enforce-eager", "--limit-mm-per-prompt.image", 64]
    names = ["--model", judge, "--served-model-name", "mini", "--port", port]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *names, *options]
    process = subprocess.Popen([str(c) for c in command], env=ENVIRONMENT)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_for(address, process, seconds=400):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"no server within {seconds} s")


@pytest.mark.parametrize("readout", ["direct", "paper"])
def test_a_served_judge_gives_the_verdicts_of_a_local_one(judge, server, readout):
    asked = json.loads((judge / "judge.json").read_text()) | {"readout": readout}
    strict = {"on_missing_logprobs": "raise"}
    local = CaCReward(judge, device="cpu", readout=readout)
    served = CaCReward("mini", backend="openai", base_url=server, backend_options=strict, **asked)
    statuses = set()
    for number in range(6):
        frames, _ = make_video(500_000 + number, None if number % 2 else list(KINDS)[number * 2], size=48)
        ours, theirs = local.judge(frames, fps=16), served.judge(frames, fps=16)
        assert [turn.text for turn in theirs.turns] == [turn.text for turn in ours.turns]
        assert theirs.score == pytest.approx(ours.score, abs=1e-4)
        statuses.add(ours.status)
    assert statuses == {"normal", "abnormal"}
