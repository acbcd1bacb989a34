"""Digests by their very digits: files of earlier versions hold them, and a run goes on only if they are equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cac_align.flow_grpo.maths.schedule import Schedule
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.metrics.rows import values_digest as metric_digest
from cac_align.prompts import prompt_name
from cac_align.rating.items import _digest as item_digest
from cac_align.table2.ratings import video_name
from cac_align.table2.work import _lock_path as lock_path
from reward_model.backends.replay import _brief as brief
from reward_model.conversation import Message
from reward_model.data.corruptions.folder import Settings
from reward_model.digests import array_digest, json_digest, model_fingerprint, text_digest
from reward_model.evaluation.running.baselines import RandomJudge
from reward_model.prompts import load_prompts
from reward_model.prompts.verification import load_verification
from reward_model.unified.wording import words_digest

FRAMES = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)
TALK = (Message("user", (FRAMES[0], "what is wrong?")),)


def test_digests_are_those_of_the_bytes():
    assert text_digest("a dog") == text_digest(b"a dog")
    assert text_digest("caf\udce9") == text_digest(b"caf\xed\xb3\xa9"), "a name that is not UTF-8 counts"
    assert json_digest({"b": (1, Path("x")), "a": None}) == text_digest('{"a": null, "b": [1, "x"]}')
    assert array_digest(FRAMES[:, ::2]) == array_digest(FRAMES[:, ::2].copy()) != array_digest(FRAMES)


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (lambda: metric_digest({"b": 1, "a": Path("x")}), "385820f0096fd558"),
        (lambda: prompt_name("A dog é"), "a-dog-04a0d3de"),
        (lambda: item_digest("caf\udce9"), "0dabcef4efc9701f"),
        (lambda: video_name("base", "a dog", 3), "bc30f472f6bfd384"),
        (lambda: lock_path(Path(), "train: a").name, "fec9180df67f3342edc4.lock"),
        (lambda: brief(TALK)[0]["content"][0]["sha256"][:8], "1d64add2"),
        (lambda: Settings(None, 0, True, False, None).digest, "3540731cd2db"),
        (lambda: model_fingerprint("my-org/cac-8b", {"fps": 2})[:8], "71ddb0e1"),
        (lambda: json_digest(["reward", {"a": 1}, None])[:8], "699f21dc"),
        (lambda: load_prompts("paper").version, "paper-2+216ae959"),
        (lambda: load_verification().version, "verify+1968927c"),
        (lambda: words_digest("what  is\nwrong?")[:8], "d81f8b22"),
        (lambda: RandomJudge(3)._draw(FRAMES), 0.24642400582120272),
        (lambda: Schedule((1.0, 0.5, 0.0)).fingerprint, "767c50d153eb17ed"),
        (lambda: TextEmbeddings("x", "enc", 512).path("é").name, "56729bdbe241f8ca7ddfbdc325466def.safetensors"),
    ],
)
def test_no_digest_has_changed(now, before):
    assert now() == before
