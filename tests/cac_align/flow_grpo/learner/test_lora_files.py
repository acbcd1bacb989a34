"""LoRA files: any reader scales ours alike, ours reads what others write, equal weights give equal bytes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cac_align.flow_grpo import load_lora
from cac_align.flow_grpo.learner.lora_files import WEIGHTS
from tests.cac_align.flow_grpo.learner.adapters import RANK, WRITERS, close, export_trained, kohya
from tests.cac_align.flow_grpo.runs import tiny_pipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return export_trained(tmp_path_factory.mktemp("lora"))


def test_ours_acts_alike_with_and_without_its_metadata(trained):
    _, folder, expected = trained
    for source in (folder, load_file(folder / WEIGHTS)):  # a dict of tensors carries no metadata
        pipe = tiny_pipe()
        pipe.load_lora_weights(source)
        assert close(pipe, expected)
    with safe_open(folder / WEIGHTS, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert told["transformer.lora_alpha"] == told["transformer.r"] == RANK


@pytest.mark.parametrize("write", [w for w in WRITERS if w is not kohya])  # diffusers reads kohya's if whole
def test_what_others_write_is_scaled_right(trained, tmp_path, write):
    state, _, expected = trained
    write(state, tmp_path / "lora.safetensors")
    pipe = tiny_pipe()
    load_lora(pipe, tmp_path)
    assert close(pipe, expected), write.__name__


def test_what_is_not_a_lora_is_named(tmp_path):
    with pytest.raises(ValueError, match="no LoRA at"):
        load_lora(None, tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds 0 .safetensors files \(none\); name the file"):
        load_lora(None, tmp_path)
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="holds no LoRA: no name has lora_A"):
        load_lora(None, tmp_path)
    save_file({"blocks.0.to_q.lora_A.weight": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"lacks transformer.blocks.0.to_q.lora_B.weight"):
        load_lora(None, tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot be read as a LoRA"):
        load_lora(None, tmp_path)


CHILD = """
import sys, torch
from cac_align.flow_grpo.learner.lora import add_lora, lora_parameters
from cac_align.flow_grpo.learner.lora_files import export_lora
from tests.cac_align.flow_grpo.runs import tiny_pipe
pipe = tiny_pipe()
add_lora(pipe.transformer, r=4, alpha=8, targets=["to_q", "to_k", "to_v", "to_out.0"])
export_lora(pipe, sys.argv[1], dict(lora_parameters(pipe.transformer)))
"""


@pytest.mark.slow
def test_equal_weights_give_equal_bytes_in_every_process(tmp_path):
    """The order of a set differs between processes; the file must not."""
    for seed in (1, 2, 3):
        command = [sys.executable, "-c", CHILD, str(tmp_path / str(seed))]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": str(seed)})
    assert len({(tmp_path / str(seed) / WEIGHTS).read_bytes() for seed in (1, 2, 3)}) == 1


def test_entries_and_lists_of_the_metadata_are_in_order(trained):
    content = (trained[1] / WEIGHTS).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["format", "lora_adapter_metadata"]
    with safe_open(trained[1] / WEIGHTS, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    targets = told["transformer.target_modules"]
    assert targets == sorted(targets) and len(targets) == 4
