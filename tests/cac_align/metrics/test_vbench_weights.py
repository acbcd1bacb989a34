"""Weights: found in VBench's layout, and every broken one is named with its source and folder."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cac_align.metrics import VBenchMetric, WeightsError
from cac_align.metrics.weights import CLIP_B32, DINO_B16, MUSIQ_SPAQ, RAFT_THINGS, read_tensors

FRAMES = np.zeros((3, 128, 128, 3), np.uint8)


def test_missing_weights_name_file_source_and_folder(tmp_path):
    with pytest.raises(WeightsError) as caught:
        VBenchMetric("imaging_quality", cache_dir=tmp_path)([FRAMES], fps=8)
    for part in ("musiq_spaq_ckpt-358bb6af.pth", "https://github.com/chaofengc", str(tmp_path / "pyiqa_model")):
        assert part in str(caught.value)


def test_dino_is_found_where_torch_hub_puts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub-home"))
    with pytest.raises(WeightsError, match="hub-home/hub/checkpoints"):
        DINO_B16.find(tmp_path)
    place = tmp_path / "hub-home" / "hub" / "checkpoints" / "dino_vitbase16_pretrain.pth"
    place.parent.mkdir(parents=True)
    place.touch()
    assert DINO_B16.find(tmp_path) == place


def test_clip_is_found_in_clips_own_folder_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    place = tmp_path / ".cache" / "clip" / "ViT-B-32.pt"
    place.parent.mkdir(parents=True)
    place.touch()
    assert CLIP_B32.find() == place


def test_cache_variable_moves_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert MUSIQ_SPAQ.places() == [tmp_path / "elsewhere" / MUSIQ_SPAQ.path]


@pytest.mark.parametrize("dimension", ["subject_consistency", "imaging_quality", "dynamic_degree", "aesthetic_quality"])
def test_truncated_weights_are_named(dimension, small_cache, tmp_path):
    metric = VBenchMetric(dimension, cache_dir=tmp_path, device="cpu")
    for weights in metric.dimension.weights:
        target = tmp_path / weights.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((small_cache / weights.path).read_bytes())
    broken = tmp_path / metric.dimension.weights[0].path
    os.truncate(broken, broken.stat().st_size // 2)
    with pytest.raises(WeightsError, match=rf"cannot read the weights {broken}.*fetch it again"):
        metric([FRAMES], fps=8)


def test_weights_of_another_model_are_refused(small_cache, tmp_path):
    (tmp_path / RAFT_THINGS.path).parent.mkdir(parents=True)
    (tmp_path / RAFT_THINGS.path).write_bytes((small_cache / MUSIQ_SPAQ.path).read_bytes())
    with pytest.raises(WeightsError, match=r"raft-things.pth holds the weights of another model than RAFT"):
        VBenchMetric("dynamic_degree", cache_dir=tmp_path, device="cpu")([FRAMES], fps=8)
    (tmp_path / DINO_B16.path).parent.mkdir(parents=True)
    (tmp_path / DINO_B16.path).write_bytes((small_cache / MUSIQ_SPAQ.path).read_bytes())
    with pytest.raises(WeightsError, match="another model"):
        VBenchMetric("subject_consistency", cache_dir=tmp_path, device="cpu")([FRAMES], fps=8)


class _Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_code_in_a_weight_file_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Trap()}, "trap.pth", pickle_module=pickle)
    with pytest.raises(WeightsError, match="cannot read"):
        read_tensors(Path("trap.pth"))
    assert not Path("sprung").exists()


class _Writer(torch.nn.Module):
    """A module whose loading overwrites a file, as TorchScript can."""

    def __init__(self) -> None:
        super().__init__()
        self.path = "victim.bin"
        self.weight = torch.nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[str, torch.Tensor]:
        return self.path, self.weight

    @torch.jit.export
    def __setstate__(self, state: tuple[str, torch.Tensor]) -> None:
        self.path = state[0]
        wiped = torch.from_file(self.path, True, 4, dtype=torch.uint8).fill_(0)
        self.weight = state[1] + wiped.sum()
        self.training = False

    def forward(self) -> torch.Tensor:
        return self.weight


def test_code_in_an_archive_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("victim.bin").write_bytes(b"mine")
    torch.jit.save(torch.jit.script(_Writer()), "trap.pt")
    with pytest.raises(WeightsError, match="cannot read"):
        read_tensors(Path("trap.pt"))
    assert Path("victim.bin").read_bytes() == b"mine"
    torch.jit.load("trap.pt")
    assert Path("victim.bin").read_bytes() == b"\0\0\0\0"  # torch itself would have run it


class _Nested(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 2).half())
        self.register_buffer("seen", torch.arange(4))
        self.turned = torch.nn.Parameter(torch.rand(3, 4).t())
        self.sizes = [1, 2]

    def forward(self) -> torch.Tensor:
        return self.turned * self.sizes[0]


def test_an_archive_gives_the_tensors_that_torch_gives(tmp_path):
    torch.jit.save(torch.jit.script(_Nested()), str(tmp_path / "a.pt"))
    found, expected = read_tensors(tmp_path / "a.pt"), torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert found.keys() == expected.keys() and "inner.0.weight" in found
    assert all(found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in expected.items())


def test_nested_states_are_unwrapped_and_other_content_refused(tmp_path):
    torch.save({"params": {"a": torch.ones(2)}}, tmp_path / "nested.pth")
    assert read_tensors(tmp_path / "nested.pth")["a"].tolist() == [1, 1]
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not named tensors"):
        read_tensors(tmp_path / "other.pth")
