"""LoRA files: written so that every reader scales them alike, and read in the forms that others write.

A LoRA adds ``alpha / r * B @ A``. Some programs keep alpha in the file's metadata, some in keys of its own
(``...alpha``), some beside it, and a reader that looks in another place takes alpha = r. What is written here has
alpha / r multiplied into B and says alpha = r, which is the same wherever one looks. It is written twice: by diffusers'
names, and by those of the original Wan code (:mod:`~cac_align.flow_grpo.learner.wan_names`), which ComfyUI reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.learner.lora import TRAINED, adapters_of
from cac_align.flow_grpo.learner.wan_names import original_name
from cac_align.flow_grpo.sampler.experts import has_experts, transformers_of
from cac_align.pipelines import Pipeline
from reward_model.files import atomic

if TYPE_CHECKING:
    from diffusers import ModelMixin

WEIGHTS = "pytorch_lora_weights.safetensors"
#: The same adapter by the original names. diffusers looks for the other one when it is given the folder.
COMFYUI_WEIGHTS = "lora_comfyui.safetensors"
#: Files of pipelines with two experts, by the part: for diffusers and by the original names. The first part has
#: diffusers' usual name, which it finds in a folder by itself.
EXPERT_WEIGHTS = {"transformer": WEIGHTS, "transformer_2": "pytorch_lora_weights_low_noise.safetensors"}
EXPERT_COMFYUI_WEIGHTS = {
    "transformer": "lora_comfyui_high_noise.safetensors",
    "transformer_2": "lora_comfyui_low_noise.safetensors",
}
_PEFT_WEIGHTS, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
#: Names that diffusers converts itself, alpha included.
_CONVERTED = ("diffusion_model.", "lora_unet_")
_PREFIXES = ("base_model.model.transformer.", "base_model.model.", "transformer.")


def export_lora(pipe: Pipeline, folder: str | Path, state: dict[str, torch.Tensor]) -> Path:
    """Writes ``pytorch_lora_weights.safetensors``, which ``pipe.load_lora_weights(folder)`` reads, and
    ``lora_comfyui.safetensors``, the same for ComfyUI and others that go by the original names. Equal weights give
    equal bytes. Of two experts each gets files of its own (:data:`EXPERT_WEIGHTS`); diffusers loads the second with
    ``weight_name=..., load_into_transformer_2=True``.

    Args:
        pipe: whose transformers have the adapters.
        state: adapter weights under the names of :func:`~cac_align.flow_grpo.learner.lora.adapters_of`, whole; any
            device.

    Raises:
        ValueError: if the state is not that of these adapters.
    """
    transformers = transformers_of(pipe)
    expected = set(adapters_of(transformers))
    if set(state) != expected:
        raise ValueError(
            f"{len(set(state) ^ expected)} names differ from the adapter's, such as {sorted(expected)[:1]}"
        )
    if len(transformers) == 1:
        _export(pipe, pipe.transformer, Path(folder), state, WEIGHTS, COMFYUI_WEIGHTS)
        return Path(folder)
    for part, transformer in transformers.items():
        own = {name.removeprefix(f"{part}."): v for name, v in state.items() if name.startswith(f"{part}.")}
        _export(pipe, transformer, Path(folder), own, EXPERT_WEIGHTS[part], EXPERT_COMFYUI_WEIGHTS[part])
    return Path(folder)


def _export(
    pipe: Pipeline,
    transformer: ModelMixin,
    folder: Path,
    state: Mapping[str, torch.Tensor],
    weights: str,
    comfyui_weights: str,
) -> None:
    """Writes both files of one adapter."""
    config = transformer.peft_config[TRAINED]
    scale = config.lora_alpha / config.r
    layers = {}
    for name, tensor in state.items():
        value = tensor.detach().cpu().contiguous()
        layers[name.replace(f".{TRAINED}.", ".")] = value * scale if ".lora_B." in name else value
    # Sets come in another order in every process.
    metadata = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    kind: Any = type(pipe)
    kind.save_lora_weights(
        str(folder),
        transformer_lora_layers=layers,
        transformer_lora_adapter_metadata={**metadata, "lora_alpha": config.r},
        weight_name=weights,
    )
    _order_metadata(folder / weights)
    save_original(layers, folder / comfyui_weights)


def _order_metadata(path: Path) -> None:
    """Puts the entries of a safetensors file's metadata in alphabetical order: the library writes several of them in
    another order in every process.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    with atomic(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def save_original(layers: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes an adapter whose alpha is its rank by the original names: ``diffusion_model.<module>.lora_A.weight``. No
    key and no metadata says alpha, which every reader takes for the rank then.

    Args:
        layers: ``<module>.lora_A.weight``, ``.lora_B.weight`` and, where there is one, ``.lora_B.bias``, by diffusers'
            names, with or without the prefix ``transformer.``.
        path: file to write.

    Raises:
        ValueError: if a module is not one of Wan's transformer.
    """
    named = {}
    for name, value in layers.items():
        module, _, kind = name.removeprefix("transformer.").partition(".lora_")
        # A bias of the adapter is, once alpha is folded in, what is added to the module's own.
        ending = "diff_b" if kind == "B.bias" else f"lora_{kind}"
        named[f"diffusion_model.{original_name(module)}.{ending}"] = value
    save_tensors(named, path)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes a safetensors file in one go, with the mark that readers of PyTorch files look for."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary, {"format": "pt"})


def load_lora(
    pipe: Pipeline, source: str | Path, *, adapter_name: str | None = None, load_into_transformer_2: bool = False
) -> None:
    """Loads a LoRA into a pipeline, as ``pipe.load_lora_weights`` does, and more forms of it: with alpha in keys beside
    diffusers' names, PEFT's folders (``adapter_model.safetensors`` and ``adapter_config.json``), names without prefix.
    Adapters that are active already stay so, under the new one, at strength 1.
    A folder that holds the adapters of two experts is loaded into both.

    Args:
        pipe: a diffusers pipeline whose part ``transformer`` takes LoRA.
        source: a safetensors file, or a folder with one.
        adapter_name: as for ``pipe.load_lora_weights``.
        load_into_transformer_2: load a file into the second expert, as for ``pipe.load_lora_weights``.

    Raises:
        ValueError: if there is no such file, nothing in it fits the transformer, or the pipeline lacks the second
            expert.

    Example:
        >>> load_lora(pipe, "outputs/flow-grpo/lora")                                            # doctest: +SKIP
    """
    second = Path(source) / EXPERT_WEIGHTS["transformer_2"]
    files = {"transformer_2" if load_into_transformer_2 else "transformer": find_lora(source)}
    if second.is_file() and not load_into_transformer_2:
        files["transformer_2"] = second
    if "transformer_2" in files and not has_experts(pipe):
        raise ValueError(
            f"{str(files['transformer_2'])!r} is for the second expert of Wan 2.2 A14B, and {type(pipe).__name__} has "
            "one transformer; load it into a pipeline with both"
        )
    adapters = {part: _folded(path) for part, path in files.items()}
    for part, tensors in adapters.items():
        model = getattr(pipe, part)
        under = list(model.active_adapters()) if getattr(model, "peft_config", None) else []
        name = adapter_name or (f"lora_{len(under)}" if under else None)
        more = {"load_into_transformer_2": True} if part == "transformer_2" else {}
        pipe.load_lora_weights(tensors, adapter_name=name, **more)
        if under:  # a second one is not active by itself
            model.set_adapters([*under, name])


def _folded(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file as ``pipe.load_lora_weights`` takes them."""
    tensors, metadata = read_lora_file(path)
    if any(name.startswith(_CONVERTED) for name in tensors):
        return tensors
    return fold_alpha(path, {_name(name): value for name, value in tensors.items()}, metadata)


def find_lora(source: str | Path) -> Path:
    """The file of a LoRA: the path itself, or the one in a folder.

    Raises:
        ValueError: if there is none, or more than one and none has a name that is known.
    """
    source = Path(source)
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


def read_lora_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors, and what the metadata says of the adapter of the transformer.

    Raises:
        ValueError: if it is not a safetensors file.
    """
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


def fold_alpha(path: Path, named: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """An adapter with alpha / r multiplied into B, and into the bias of B where it has one.

    Args:
        path: file, for messages.
        named: tensors by diffusers' names with the prefix ``transformer.``; ``<module>.alpha`` are alphas.
        metadata: alphas where the tensors name none; without any it is the rank.

    Raises:
        ValueError: if there is no adapter in it, or half of one.
    """
    alphas, found = _split_alphas(named)
    modules = {name.rpartition(".lora_")[0] for name in found if name.endswith((".lora_A.weight", ".lora_B.weight"))}
    if not modules:
        raise ValueError(f"{str(path)!r} holds no LoRA: no name has lora_A or lora_down in it")
    for module in sorted(modules):
        down, up, bias = (f"{module}.lora_{end}" for end in ("A.weight", "B.weight", "B.bias"))
        if missing := [name for name in (down, up) if name not in found]:
            raise ValueError(f"{str(path)!r} lacks {missing[0]}, though the other half of that adapter is there")
        rank = found[down].shape[0]
        alpha = alphas.get(module, _alpha(metadata, module.removeprefix("transformer."), rank))
        for name in (up, bias) if alpha != rank else ():
            if name in found:
                found[name] = (found[name].float() * (alpha / rank)).to(found[name].dtype)
    return found


def _split_alphas(named: Mapping[str, torch.Tensor]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Alphas by module, and all other tensors."""
    alphas = {name.removesuffix(".alpha"): float(v) for name, v in named.items() if name.endswith(".alpha")}
    return alphas, {name: value for name, value in named.items() if not name.endswith(".alpha")}


def _alpha(metadata: Mapping[str, Any], module: str, rank: int) -> float:
    """Alpha by the metadata; without any it is the rank, as everywhere."""
    scale = (rank**0.5) if metadata.get("use_rslora") else 1.0
    for key, value in (metadata.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({key})", module):  # PEFT's own rule; diffusers writes keys that begin with ^
            return float(value) * scale
    alpha = metadata.get("lora_alpha")
    return float(rank if alpha is None else alpha) * scale


def _name(name: str) -> str:
    """A name as diffusers has it: ``transformer.<module>.lora_A.weight``."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    name = name.replace(".lora_down.", ".lora_A.").replace(".lora_up.", ".lora_B.").replace(".default.", ".")
    return f"transformer.{name}"
