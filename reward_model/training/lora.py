"""LoRA targets in a Qwen3-VL judge: every linear layer of the vision tower, the adapter and the language model.

The paper keeps all three unfrozen in every stage (section C.2), so an adapter on the language model alone would train
another model. Left as they are: the patch embedding (a 3D convolution), position and word embeddings, norms, and the
head.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

#: The three parts of the model that are reported apart, by the beginning of a module's name.
PARTS = {
    "ViT": r"model\.visual\.(patch_embed|pos_embed|blocks)\b",
    "adapter (merger, deepstack mergers)": r"model\.visual\.(merger|deepstack_merger_list)\b",
    "LLM": r"model\.language_model\b|lm_head\b",
}

#: Full-match pattern for peft's ``target_modules``.
LORA_TARGETS = (
    r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])"
    r"|.*visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"
    r"|.*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
)


def part_of(name: str) -> str:
    """The part a parameter or module belongs to, whatever peft put before its name.

    Raises:
        ValueError: if the name belongs to no part of a Qwen3-VL.
    """
    plain = name.removeprefix("base_model.model.")
    for part, pattern in PARTS.items():
        if re.match(pattern, plain):
            return part
    raise ValueError(f"{name!r} belongs to no part of a Qwen3-VL model ({', '.join(PARTS)}); is this another model?")


def lora_config(
    *, r: int = 32, alpha: int = 64, dropout: float = 0.0, targets: Any = None, **options: Any
) -> LoraConfig:
    """A ``peft.LoraConfig`` on :data:`LORA_TARGETS`.

    Args:
        r: rank; the paper's is 32 (section C.2).
        alpha: scale numerator; not in the paper, twice the rank is our choice.
        dropout: not in the paper; 0 keeps a resumed run and a merged model equal to the trained one.
        targets: other ``target_modules``; None is all three parts.
        options: more arguments of ``peft.LoraConfig``.
    """
    from peft import LoraConfig

    targets = LORA_TARGETS if targets is None else targets
    return LoraConfig(
        r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM", **options
    )


def lora_modules(model: torch.nn.Module) -> dict[str, int]:
    """Number of modules that carry an adapter, by part.

    Raises:
        ValueError: if a part has none: the pattern does not fit this model.
    """
    counts = dict.fromkeys(PARTS, 0)
    for name, _ in model.named_modules():
        if name.endswith(".lora_A"):
            counts[part_of(name)] += 1
    missing = [part for part, count in counts.items() if not count]
    if missing:
        raise ValueError(
            f"LoRA reaches no module of {', '.join(missing)}; the paper trains all three parts (C.2). "
            "Leave lora_target_modules unset, or name modules of each part"
        )
    return counts


def parameters_by_part(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """(all, trainable) parameters of each part; weights that two names share count once, at the first."""
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        part = counts[part_of(name)]
        size = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 keeps none of it here
        part[0] += size
        part[1] += size * parameter.requires_grad
    return {part: (total, trainable) for part, (total, trainable) in counts.items()}


def describe_trainable(model: torch.nn.Module) -> str:
    """Lines for the log: parameters, trainable ones and LoRA modules of each part, as counted on the model."""
    modules = lora_modules(model) if hasattr(model, "peft_config") else None
    lines = []
    for part, (total, trainable) in parameters_by_part(model).items():
        adapters = f", LoRA on {modules[part]} linear layers" if modules else ""
        lines.append(f"{part}: {total:,} parameters, {trainable:,} trainable{adapters}")
    return "\n".join(lines)
