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
from cac_align.flow_grpo.learner.lora import add_lora, lora_parameters
from cac_align.flow_grpo.learner.lora_files import WEIGHTS, export_lora
from tests.cac_align.flow_grpo.runs import tiny_pipe

ALPHA, RANK = 12, 4
#: Names of the original Wan code for those of diffusers.
ORIGINAL = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}


@torch.no_grad()
def answer(pipe):
    generator = torch.Generator().manual_seed(3)
    inputs = [torch.randn(1, 16, 2, 2, 2, generator=generator), torch.randn(1, 16, 16, generator=generator)]
    width = pipe.transformer.config.text_dim
    text = torch.randn(1, 16, width, generator=generator)
    return pipe.transformer(
        hidden_states=inputs[0], timestep=torch.tensor([500.0]), encoder_hidden_states=text, return_dict=False
    )[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An adapter with alpha = 3 r, its file, and what the transformer says with and without it."""
    pipe = tiny_pipe()
    before = answer(pipe)
    add_lora(pipe.transformer, r=RANK, alpha=ALPHA, targets=["to_q", "to_k", "to_v", "to_out.0"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(pipe.transformer).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    state = {k: v.detach().clone() for k, v in lora_parameters(pipe.transformer).items()}
    folder = export_lora(pipe, tmp_path_factory.mktemp("lora"), state)
    expected = answer(pipe)
    assert (expected - before).abs().max() > 0.1
    return state, folder, expected


def close(pipe, expected):
    return float((answer(pipe) - expected).abs().max()) < 2e-5


def test_ours_acts_alike_with_and_without_its_metadata(trained):
    _, folder, expected = trained
    for source in (folder, load_file(folder / WEIGHTS)):  # a dict of tensors carries no metadata
        pipe = tiny_pipe()
        pipe.load_lora_weights(source)
        assert close(pipe, expected)
    with safe_open(folder / WEIGHTS, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert told["transformer.lora_alpha"] == told["transformer.r"] == RANK


def plain(state):
    """The trained weights as they are, by diffusers' names without prefix."""
    return {k.replace(".default.", "."): v for k, v in state.items()}


def alpha_keys(state, path):
    modules = {k.rpartition(".lora_")[0] for k in plain(state)}
    tensors = {f"transformer.{k}": v for k, v in plain(state).items()}
    save_file({**tensors, **{f"transformer.{m}.alpha": torch.tensor(float(ALPHA)) for m in modules}}, path)


def older_export(state, path):
    told = json.dumps({"transformer.lora_alpha": ALPHA, "transformer.r": RANK})
    tensors = {f"transformer.{k}": v for k, v in plain(state).items()}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": told})


def peft_folder(state, path):
    save_file(
        {f"base_model.model.{k}": v for k, v in plain(state).items()}, path.with_name("adapter_model.safetensors")
    )
    path.with_name("adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK}))


def up_and_down(state, path):
    modules = {k.rpartition(".lora_")[0] for k in plain(state)}
    tensors = {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): v for k, v in plain(state).items()}
    save_file({**tensors, **{f"{m}.alpha": torch.tensor(float(ALPHA)) for m in modules}}, path)


def original_names(state, path):
    tensors = {}
    for key, value in plain(state).items():
        module, _, side = key.rpartition(".lora_")
        for ours, theirs in ORIGINAL.items():
            module = module.replace(ours, theirs)
        tensors[f"diffusion_model.{module}.lora_{side}"] = value
        tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, path)


@pytest.mark.parametrize("write", [alpha_keys, older_export, peft_folder, up_and_down, original_names])
def test_what_others_write_is_scaled_right(trained, tmp_path, write):
    state, _, expected = trained
    write(state, tmp_path / "lora.safetensors")
    pipe = tiny_pipe()
    load_lora(pipe, tmp_path)
    assert close(pipe, expected), write.__name__


def test_what_is_no_lora_is_named(tmp_path):
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


def test_lists_of_the_metadata_are_in_order(trained):
    with safe_open(trained[1] / WEIGHTS, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    targets = told["transformer.target_modules"]
    assert targets == sorted(targets) and len(targets) == 4
