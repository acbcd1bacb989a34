"""The shipped judge as vLLM can read it, for tests that run vLLM."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ASSETS = Path(__file__).resolve().parents[1] / "assets"
HAS_VLLM = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HAS_VLLM, reason="pip install vllm")
#: For the processes vLLM runs in: a small cache on a CPU, one thread, no downloads.
ENVIRONMENT = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def judge_for_vllm(folder: Path) -> Path:
    """A copy of ``cac-mini`` in ``folder`` whose attention has no output biases: Qwen3-VL has none, vLLM leaves the
    mini's out.
    """
    shutil.copytree(ASSETS / "cac-mini", folder)
    weights = load_file(folder / "model.safetensors")
    biases = [name for name in weights if name.endswith("o_proj.bias")]
    assert biases
    save_file(weights | {name: 0 * weights[name] for name in biases}, folder / "model.safetensors", {"format": "pt"})
    return folder
