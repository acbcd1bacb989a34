"""LoRA files: written so that every reader scales them alike, and read in the forms that others write.

A LoRA adds ``alpha / r * B @ A``. Some programs keep alpha in the file's metadata, some in keys of its own
(``...alpha``), some beside it, and a reader that looks in another place takes alpha = r. What is written here has
alpha / r multiplied into B and says alpha = r, which is the same wherever one looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cac_align.flow_grpo.learner.lora import lora_parameters
from cac_align.pipelines import Pipeline

WEIGHTS = "pytorch_lora_weights.safetensors"
_PEFT_WEIGHTS, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: Names that diffusers converts itself, alpha included.
_CONVERTED = ("diffusion_model.", "lora_unet_")
_PREFIXES = ("base_model.model.transformer.", "base_model.model.", "transformer.")


def export_lora(pipe: Pipeline, folder: str | Path, state: dict[str, torch.Tensor]) -> Path:
    """Writes ``pytorch_lora_weights.safetensors``, which ``pipe.load_lora_weights(folder)`` reads. Equal weights give
    equal bytes.

    Args:
        pipe: whose transformer has the adapter.
        state: adapter weights under the names of :func:`~cac_align.flow_grpo.learner.lora.lora_parameters`, whole; any
            device.

    Raises:
        ValueError: if the state is not that of this adapter.
    """
    expected = set(lora_parameters(pipe.transformer))
    if set(state) != expected:
        raise ValueError(
            f"{len(set(state) ^ expected)} names differ from the adapter's, such as {sorted(expected)[:1]}"
        )
    config = pipe.transformer.peft_config["default"]
    scale = config.lora_alpha / config.r
    layers = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu().contiguous()
        layers[name.replace(".default.", ".")] = value * scale if ".lora_B." in name else value
    # Sets come in another order in every process.
    metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    kind: Any = type(pipe)
    kind.save_lora_weights(
        str(folder),
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata={**metadata, "lora_alpha": config.r},
    )
    return Path(folder)


def load_lora(pipe: Pipeline, source: str | Path, *, adapter_name: str | None = None) -> None:
    """Loads a LoRA into a pipeline, as ``pipe.load_lora_weights`` does, and more forms of it: with alpha in keys beside
    diffusers' names, PEFT's folders (``adapter_model.safetensors`` and ``adapter_config.json``), names without prefix.

    Args:
        pipe: a diffusers pipeline whose part ``transformer`` takes LoRA.
        source: a safetensors file, or a folder with one.
        adapter_name: as for ``pipe.load_lora_weights``.

    Raises:
        ValueError: if there is no such file, or nothing in it fits the transformer.

    Example:
        >>> load_lora(pipe, "outputs/flow-grpo/lora")                                            # doctest: +SKIP
    """
    path = _find(Path(source))
    tensors, metadata = _read(path)
    if any(name.startswith(_CONVERTED) for name in tensors):
        pipe.load_lora_weights(tensors, adapter_name=adapter_name)
        return
    folded = _folded(path, tensors, metadata)
    pipe.load_lora_weights(folded, adapter_name=adapter_name)


def _find(source: Path) -> Path:
    if source.is_file():
        return source
    if not source.is_dir():
        raise ValueError(f"no LoRA at {str(source)!r}: name a .safetensors file, or a folder that holds one")
    for name in (WEIGHTS, _PEFT_WEIGHTS):
        if (source / name).is_file():
            return source / name
    found = sorted(source.glob("*.safetensors"))
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise ValueError(f"{str(source)!r} holds {len(found)} .safetensors files ({listed}); name the file itself")
    return found[0]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors, and what the metadata says of the adapter of the transformer."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            said = (file.metadata() or {}).get("lora_adapter_metadata")
        told = json.loads(said) if said else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a LoRA: {error}") from error
    found = {k.removeprefix("transformer."): v for k, v in told.items()} if isinstance(told, dict) else {}
    config = path.parent / _PEFT_CONFIG
    if not found and path.name == _PEFT_WEIGHTS and config.is_file():
        found = json.loads(config.read_text(encoding="utf-8"))
    return tensors, found


def _folded(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors by diffusers' names with alpha / r multiplied into B."""
    named = {_name(name): value for name, value in tensors.items()}
    alphas = {name.removesuffix(".alpha"): float(v) for name, v in named.items() if name.endswith(".alpha")}
    found = {name: value for name, value in named.items() if not name.endswith(".alpha")}
    modules = {name.rpartition(".lora_A.")[0] for name in found if ".lora_A." in name}
    if not modules:
        raise ValueError(f"{str(path)!r} holds no LoRA: no name has lora_A or lora_down in it")
    for module in modules:
        name = f"{module}.lora_B.weight"
        if name not in found:
            raise ValueError(f"{str(path)!r} lacks {name}, though lora_A is there")
        rank = found[f"{module}.lora_A.weight"].shape[0]
        alpha = alphas.get(module, _alpha(metadata, module.removeprefix("transformer."), rank))
        if alpha != rank:
            found[name] = (found[name].float() * (alpha / rank)).to(found[name].dtype)
    return found


def _alpha(metadata: Mapping[str, Any], module: str, rank: int) -> float:
    """Alpha by the metadata; without any it is the rank, as everywhere."""
    pattern = metadata.get("alpha_pattern") or {}
    for key, value in pattern.items():
        if module == key or module.endswith(f".{key}"):
            return float(value)
    alpha = metadata.get("lora_alpha")
    scale = (rank**0.5) if metadata.get("use_rslora") else 1.0
    return float(rank if alpha is None else alpha) * scale


def _name(name: str) -> str:
    """A name as diffusers has it: ``transformer.<module>.lora_A.weight``."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    name = name.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.").replace(".default.", ".")
    return f"transformer.{name}"
