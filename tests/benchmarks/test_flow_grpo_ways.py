"""The ways of benchmarks/flow_grpo.py: settings that fit together, equal videos, and the pairs that are compared."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.sampler.forwards import sampling_forwards

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("flow_grpo")


def test_all_ways_draw_equal_videos_and_those_that_share_draw_fewer_steps(bench: ModuleType, tmp_path: Path) -> None:
    found: dict[str, FlowGRPOConfig] = {}
    for name in bench.WAYS:
        chosen = bench.way_settings(name, batch="2x4", call=1, folder=str(tmp_path))
        found[name] = FlowGRPOConfig.from_dict(chosen)
    assert len({(c.batch, c.sample_batch_size, c.height, c.width, c.num_frames) for c in found.values()}) == 1
    assert {c.objective for c in found.values()} == {"grpo", "guard", "dppo", "nft", "rvm"}
    pairs = bench.compared(list(found))
    assert ("plain", "fast") in pairs and ("strict", "rvm") in pairs and len(pairs) == 1 + 7 + 4
    for slow, quick in pairs:
        if slow.endswith("not shared"):
            ours, theirs = found[quick], found[slow]
            assert sampling_forwards(ours) < sampling_forwards(theirs)
            assert ours.to_dict() == {**theirs.to_dict(), "shared_prefix": "exact"}
    assert bench.compared(["fast", "rvm"]) == []
