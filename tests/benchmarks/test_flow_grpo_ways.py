"""The ways of benchmarks/flow_grpo.py: settings that fit together, equal videos, and the pairs that are compared."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.sampler.forwards import sampling_forwards

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.syspath_prepend(str(FOLDER))
        spec = spec_from_file_location("flow_grpo_benchmark", FOLDER / "flow_grpo.py")  # a recipe has the same name
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


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


def test_the_tables_hold_every_way_and_every_pair(bench: ModuleType, tmp_path: Path) -> None:
    names = ["strict", "grpo, shared", "grpo, not shared"]
    runs = {}
    for name in names:
        chosen = bench.way_settings(name, batch="2x4", call=1, folder=str(tmp_path))
        runs[name] = SimpleNamespace(config=FlowGRPOConfig.from_dict(chosen))
    rows = {}
    for name, cost in zip(names, (8.0, 2.0, 2.5), strict=True):
        one = {"all": cost, "processor": cost / 2, "forwards": 10 * cost, **dict.fromkeys(bench.PHASES, cost / 6)}
        rows[name] = [one, {**one, "forwards": 10 * cost + 2}]
    text = bench.report(runs, rows, Namespace(repeats=2))
    assert "| strict | 20, 19 | 81 | 8.0 / 8.0 / 8.0 | 4.0 / 4.0 / 4.0 |" in text
    assert "| strict / grpo, shared | 3.86 | 4.00 / 4.00 / 4.00 | 4.00 | 4.00 |" in text
    assert "| grpo, not shared / grpo, shared | 1.24 | 1.25 / 1.25 / 1.25 | 1.25 | 1.25 |" in text
    assert "strict / grpo, not shared" not in text and text.count(" / grpo, shared |") == 2
