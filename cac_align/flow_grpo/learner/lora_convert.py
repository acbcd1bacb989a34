"""A LoRA of Wan rewritten for another program: ComfyUI's names or those of diffusers, alpha multiplied in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from cac_align.flow_grpo.learner.lora_files import find_lora, fold_alpha, read_lora_file, save_original, save_tensors
from cac_align.flow_grpo.learner.wan_names import diffusers_name

Names = Literal["comfyui", "diffusers"]
NAMES: tuple[Names, ...] = get_args(Names)

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "lora_unet_", "transformer.")
#: What the original names call a change of a module's own bias. Unlike the bias of B, no alpha scales it.
_ADDED_BIAS = ".diff_b"
#: Endings that are read -> what they are in diffusers.
_ENDINGS = {
    ".lora_A.weight": ".lora_A.weight",
    ".lora_A.default.weight": ".lora_A.weight",
    ".lora_down.weight": ".lora_A.weight",
    ".lora_B.weight": ".lora_B.weight",
    ".lora_B.default.weight": ".lora_B.weight",
    ".lora_up.weight": ".lora_B.weight",
    ".lora_B.bias": ".lora_B.bias",
    ".lora_B.default.bias": ".lora_B.bias",
    ".diff_b": _ADDED_BIAS,
    ".alpha": ".alpha",
}
#: Parts of names that tell adapters of other kinds.
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    ".lora_mid.": "LoCon",
    ".diff": "a change of whole weights",
}


@dataclass(frozen=True)
class Converted:
    """Outcome of a conversion: the file, the number of adapted modules, and their ranks."""

    path: Path
    num_modules: int
    ranks: tuple[int, ...]


def convert_lora(source: str | Path, output: str | Path, names: Names) -> Converted:
    """Writes a LoRA of Wan's transformer by the names that are asked for, with alpha / r multiplied into it.

    Args:
        source: a safetensors file, or a folder with one, in any of these forms: diffusers (alpha in the metadata or in
            keys), PEFT, the original names (``diffusion_model.`` or no prefix), kohya's (``lora_unet_``).
        output: file to write; its name ends with ``.safetensors``.
        names: ``comfyui`` for the original names, ``diffusers`` for ``pipe.load_lora_weights``.

    Raises:
        ValueError: if the source cannot be read, holds an adapter of another kind or of another model, or the output is
            the source or not a safetensors file. Nothing is written then.
    """
    output, path = Path(output), find_lora(source)
    if names not in NAMES:
        raise ValueError(f"names={names!r} must be one of {', '.join(NAMES)}")
    if output.suffix != ".safetensors":
        raise ValueError(f"output={str(output)!r} must end with .safetensors, by which other programs find it")
    if output.exists() and output.samefile(path):
        raise ValueError(f"output={str(output)!r} is the source itself; name another file")
    adapter = read_adapter(path)
    if names == "comfyui":
        save_original(adapter, output)
    else:
        save_tensors(adapter, output)
    ranks = {value.shape[0] for name, value in adapter.items() if name.endswith(".lora_A.weight")}
    num_modules = sum(name.endswith(".lora_A.weight") for name in adapter)
    return Converted(output, num_modules, tuple(sorted(ranks)))


def read_adapter(source: str | Path) -> dict[str, torch.Tensor]:
    """A LoRA of Wan's transformer by diffusers' names (``transformer.<module>.lora_A.weight``), alpha multiplied in.

    Args:
        source: as for :func:`convert_lora`.

    Raises:
        ValueError: if it cannot be read, or holds an adapter of another kind or of another model.
    """
    path = find_lora(source)
    tensors, metadata = read_lora_file(path)
    if not tensors:
        raise ValueError(f"{str(path)!r} holds no tensors; name a file of LoRA weights")
    folded = fold_alpha(path, _by_diffusers_names(path, tensors), metadata)
    return {_bias_of_b(path, name, folded): value for name, value in folded.items()}


def _by_diffusers_names(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every tensor under ``transformer.<module><ending>``.

    Raises:
        ValueError: if one has no place in a LoRA of Wan; none is dropped but what changes nothing.
    """
    named: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        if name.endswith((".diff", ".diff_b")) and not value.any():
            continue  # some programs write zeros for norms that were not trained
        try:
            target = _target(name)
        except ValueError as error:
            raise ValueError(f"{str(path)!r} cannot be converted: {error}") from error
        if target in named:
            raise ValueError(f"{str(path)!r} cannot be converted: {name!r} names the same weight as another entry")
        named[target] = value
    return named


def _bias_of_b(path: Path, name: str, folded: Mapping[str, torch.Tensor]) -> str:
    """The name of a tensor when alpha is its rank: an added bias is the bias of B then."""
    if not name.endswith(_ADDED_BIAS):
        return name
    module = name.removesuffix(_ADDED_BIAS)
    if f"{module}.lora_B.weight" not in folded or f"{module}.lora_B.bias" in folded:
        raise ValueError(
            f"{str(path)!r} cannot be converted: the bias of {module.removeprefix('transformer.')} stands without its "
            "matrices lora_A and lora_B, or twice"
        )
    return f"{module}.lora_B.bias"


def _target(name: str) -> str:
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
    if ending is None:
        kind = next((kind for part, kind in _OTHER_KINDS.items() if part in name), None)
        what = f"is {kind}, which has no place in a LoRA" if kind else "is not a name that LoRA files have"
        raise ValueError(f"{name!r} {what}; matrices called lora_A and lora_B, or lora_down and lora_up, are converted")
    module = name.removesuffix(ending)
    for prefix in _PREFIXES:  # in this order: PEFT wraps diffusers' own prefix
        module = module.removeprefix(prefix).lstrip("_")
    return f"transformer.{diffusers_name(module)}{_ENDINGS[ending]}"
