"""An adapter whose alpha is not its rank, and the forms in which programs write one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from cac_align.flow_grpo.learner.lora import add_lora, lora_parameters
from cac_align.flow_grpo.learner.lora_files import export_lora
from tests.cac_align.flow_grpo.runs import tiny_pipe

ALPHA, RANK = 12, 4
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
#: Names of the original Wan code for those of diffusers.
ORIGINAL = {"attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}


@torch.no_grad()
def answer(pipe: Any) -> Any:
    """The transformer's word on fixed inputs; with an image encoder its text has 512 tokens, as Wan's has."""
    config, generator = pipe.transformer.config, torch.Generator().manual_seed(3)
    latents = torch.randn(1, config.in_channels, 2, 2, 2, generator=generator)
    text = torch.randn(1, 512 if config.image_dim else 16, config.text_dim, generator=generator)
    image = torch.randn(1, 5, config.image_dim, generator=generator) if config.image_dim else None
    return pipe.transformer(
        hidden_states=latents,
        timestep=torch.tensor([500.0]),
        encoder_hidden_states=text,
        encoder_hidden_states_image=image,
        return_dict=False,
    )[0]


def export_trained(folder: Path, pipe: Any = None, targets: Any = TARGETS) -> Any:
    """An adapter with alpha = 3 r: its weights, its folder, and what the transformer says with it."""
    pipe = pipe or tiny_pipe()
    before = answer(pipe)
    add_lora(pipe.transformer, r=RANK, alpha=ALPHA, targets=list(targets))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(pipe.transformer).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    state = {k: v.detach().clone() for k, v in lora_parameters(pipe.transformer).items()}
    export_lora(pipe, folder, state)
    expected = answer(pipe)
    assert (expected - before).abs().max() > 0.1
    return state, folder, expected


def close(pipe: Any, expected: Any) -> bool:
    return float((answer(pipe) - expected).abs().max()) < 2e-5


def plain(state: Any) -> Any:
    """The trained weights as they are, by diffusers' names without prefix."""
    return {k.replace(".default.", "."): v for k, v in state.items()}


def alpha_keys(state: Any, path: Path) -> None:
    modules = {k.rpartition(".lora_")[0] for k in plain(state)}
    tensors = {f"transformer.{k}": v for k, v in plain(state).items()}
    save_file({**tensors, **{f"transformer.{m}.alpha": torch.tensor(float(ALPHA)) for m in modules}}, path)


def older_export(state: Any, path: Path) -> None:
    told = json.dumps({"transformer.lora_alpha": ALPHA, "transformer.r": RANK})
    tensors = {f"transformer.{k}": v for k, v in plain(state).items()}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": told})


def peft_folder(state: Any, path: Path) -> None:
    save_file(
        {f"base_model.model.{k}": v for k, v in plain(state).items()}, path.with_name("adapter_model.safetensors")
    )
    path.with_name("adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK}))


def up_and_down(state: Any, path: Path) -> None:
    modules = {k.rpartition(".lora_")[0] for k in plain(state)}
    tensors = {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): v for k, v in plain(state).items()}
    save_file({**tensors, **{f"{m}.alpha": torch.tensor(float(ALPHA)) for m in modules}}, path)


def original_names(state: Any, path: Path) -> None:
    tensors = {}
    for key, value in plain(state).items():
        module, _, side = key.rpartition(".lora_")
        for ours, theirs in ORIGINAL.items():
            module = module.replace(ours, theirs)
        tensors[f"diffusion_model.{module}.lora_{side}"] = value
        tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(float(ALPHA))
    save_file(tensors, path)


def kohya(state: Any, path: Path) -> None:
    original_names(state, path)
    tensors = {}
    for key, value in load_file(path).items():
        module, dot, ending = key.removeprefix("diffusion_model.").partition(".lora_" if ".lora_" in key else ".alpha")
        ending = ending.replace("A.", "down.").replace("B.", "up.")
        tensors[f"lora_unet_{module.replace('.', '_')}{dot}{ending}"] = value
    save_file(tensors, path)


WRITERS = [alpha_keys, older_export, peft_folder, up_and_down, original_names, kohya]
