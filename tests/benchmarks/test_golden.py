"""Digests of golden runs: what they notice, and what they do not."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def golden() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:  # the script sets the environment of the runs it starts
        for name in ("OMP", "MKL"):
            patch.setenv(f"{name}_NUM_THREADS", "1")
        for name in ("CUDA_VISIBLE_DEVICES", "TQDM_DISABLE", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM"):
            patch.setenv(name, "")
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module("golden")


def test_times_places_and_the_order_of_keys_do_not_count_and_the_last_bit_does(golden):
    one = {"score": 0.1, "seconds": 1.0, "seconds/all": 2.0, "turns": [{"seconds": 3, "text": "/tmp/x/best.mp4"}]}
    two = {"turns": [{"text": "/tmp/y/best.mp4", "seconds": 4}], "seconds/all": 5.0, "score": 0.1, "version": "2"}
    assert golden.digest(one, {"/tmp/x": "RUN"}) == golden.digest(two, {"/tmp/y": "RUN"})
    assert golden.digest(one) != golden.digest(two)
    log = [{"eval_loss": 0.5, "eval_runtime": seconds, "eval_steps_per_second": 1 / seconds} for seconds in (1.0, 2.0)]
    assert golden.digest(log[0]) == golden.digest(log[1])
    assert golden.digest({"score": 0.1}) != golden.digest({"score": float(np.nextafter(0.1, 1))})


def test_tensors_count_by_name_type_shape_and_bytes_in_any_order(golden):
    a, b = torch.arange(6.0), torch.ones(2, dtype=torch.bfloat16)
    known = golden.tensor_digest({"a": a, "b": b})
    assert golden.tensor_digest({"b": b, "a": a.clone()}) == known
    changes = ({"a": a.reshape(2, 3)}, {"a": a.double()}, {"a": -a}, {"c": a})  # -0.0 is not 0.0
    assert known not in {golden.tensor_digest({"a": a, "b": b, **change}) for change in changes}


def test_files_count_by_their_content_and_prose_and_events_do_not(golden, tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors", metadata={"made": "today"})
    torch.save({"state": {0: {"step": torch.tensor(2.0)}}, "lr": [0.1]}, tmp_path / "optimizer.pt")
    (tmp_path / "state.json").write_text('{"step": 3, "config": {"seed": 0}, "version": "1"}')
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0, "seconds/all": 5}\n')
    (tmp_path / "README.md").write_text("prose")
    (tmp_path / "events.out.tfevents.1.host").write_text("events")
    before = golden.folder_digests(tmp_path)
    assert sorted(before) == [
        "metrics.jsonl",
        "model.safetensors",
        "optimizer.pt",
        "state.json#config",
        "state.json#step",
    ]
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors", metadata={"made": "tomorrow"})
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1.0, "seconds/all": 6}\n')
    (tmp_path / "state.json").write_text('{"config": {"seed": 1}, "step": 3}')
    torch.save({"state": {0: {"step": torch.tensor(3.0)}}, "lr": [0.1]}, tmp_path / "optimizer.pt")
    after = golden.folder_digests(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"optimizer.pt", "state.json#config"}


def test_a_comparison_names_what_differs_is_new_or_gone(golden):
    before = {"parts": {"stage2": {"a": "1", "b": "2", "c": "3"}}}
    after = {"parts": {"stage2": {"a": "1", "b": "9", "d": "4"}, "stage3": {}}}
    assert golden.differences(before, after) == [
        "stage2: b differs",
        "stage2: c is gone",
        "stage2: d is new",
        "stage3: not in the earlier file",
    ]
    assert golden.differences(before, {"parts": {}}) == []  # a part that was not asked for


def test_a_run_is_kept_and_compared_with_exit_code_one_where_it_differs(golden, tmp_path, monkeypatch, capsys):
    made = iter(["1", "1", "2"])
    monkeypatch.setitem(golden.PARTS, "verdicts", lambda folder: {"rewards": next(made)})
    kept = str(tmp_path / "before.json")
    assert golden.main(["--part", "verdicts", "--output", kept]) == 0
    assert list(json.loads(Path(kept).read_text())["parts"]) == ["verdicts"]
    assert golden.main(["--part", "verdicts", "--compare", kept]) == 0
    assert "all 1 digests are the same" in capsys.readouterr().out
    assert golden.main(["--part", "verdicts", "--compare", kept]) == 1
    assert "verdicts: rewards differs" in capsys.readouterr().out


def test_asking_for_nothing_is_refused(golden, capsys):
    with pytest.raises(SystemExit):
        golden.main(["--part", "verdicts"])
    assert "give --output FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_a_short_training_leaves_its_checkpoints_in_the_digests(golden):
    digests = golden.run(["flow_grpo"])["parts"]["flow_grpo"]
    assert {f"checkpoint-{step}/lora.safetensors" for step in (2, 3)} <= digests.keys()
    assert "metrics.jsonl" in digests
