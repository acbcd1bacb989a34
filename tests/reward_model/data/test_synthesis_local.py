"""A real Qwen3-VL in this process as teacher: tiny and untrained, so nothing it writes can pass."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.backends.local import LocalBackend
from reward_model.data.records import Record
from reward_model.data.synthesis import plan, synthesize
from reward_model.data.synthesis.config import AskConfig, RuleConfig
from reward_model.minis.model import build_judge
from reward_model.schema import VideoAnnotation
from reward_model.video.clip import Video

ASK = AskConfig(frame_size=32, max_new_tokens=4, call_attempts=1, max_zoom_frames=4)
RULES = RuleConfig(verify="rule", max_rounds=1, salient_rounds=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_judge("tiny", seed=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return LocalBackend(folder, device="cpu")


@pytest.mark.slow
def test_a_local_model_is_asked_in_batches_and_resumes(teacher, tmp_path):
    rng = np.random.default_rng(0)
    video = Video(rng.integers(0, 256, (13, 32, 32, 3), dtype=np.uint8), 16.0)
    records = [Record(f"{k}.mkv", VideoAnnotation(f"v{k}", 13, 16, 32, 32)) for k in range(2)]
    sizes = []

    class Counting(LocalBackend):
        def __init__(self) -> None:
            self.__dict__.update(teacher.__dict__)

        def generate(self, conversations, sampling):
            sizes.append(len(conversations))
            return super().generate(conversations, sampling)

    def run():
        return synthesize(
            records, Counting(), tmp_path, load=lambda _: video, ask=ASK, rules=RULES, mode="batched", batch_size=4
        )

    done = run()
    assert len(plan(records, ASK)) == 4
    assert sum(sizes) == done.tallies["teacher"].calls == 4
    assert sizes == [4]
    assert {o.decision for o in done.outcomes} == {"discarded"}
    assert {f.code for o in done.outcomes for r in o.rounds for f in r.faults} <= {"cut", "parse"}
    again = run()
    assert sum(sizes) == 4
    assert [o.rounds for o in again.outcomes] == [o.rounds for o in done.outcomes]
