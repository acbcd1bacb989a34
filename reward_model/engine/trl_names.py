"""Names of settings that users of TRL and transformers know, where ours are called otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

#: A setting under another name, or a function of its value and all settings so far that gives ours.
Meaning = str | Callable[[Any, Mapping[str, Any]], dict[str, Any]]


def _generations(value: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """``num_generations`` is the second number of ``batch``: prompts x videos of each."""
    prompts = str(settings.get("batch", "2x16")).partition("x")[0]
    return {"batch": f"{prompts}x{value}"}


def _precision(word: str) -> Callable[[Any, Mapping[str, Any]], dict[str, Any]]:
    return lambda value, _: {"mixed_precision": word if value else "no"}


#: Of Flow-GRPO: one setting under another name, in a file as on a command line.
FLOW_ALIASES: dict[str, str] = {
    "model_name_or_path": "model",
    "model_revision": "revision",
    "epsilon": "clip_range",
    "adam_epsilon": "adam_eps",
    "lora_target_modules": "lora_targets",
    "reward_funcs": "rewards",
    "attn_implementation": "attention_backend",
    "save_steps": "save_every",
    "eval_steps": "eval_every",
    "save_total_limit": "keep_checkpoints",
}

#: Of Flow-GRPO on a command line, where the later of two names wins; a file's names that disagree are refused
#: (``cac_align.flow_grpo.setting_names``).
FLOW: dict[str, Meaning] = {
    **FLOW_ALIASES,
    "num_generations": _generations,
    "bf16": _precision("bf16"),
    "fp16": _precision("fp16"),
}

#: Of training on preference pairs.
PREFERENCE: dict[str, Meaning] = {
    **{name: ours for name, ours in FLOW_ALIASES.items() if ours not in ("clip_range", "rewards")},
    "per_device_train_batch_size": "train_batch_size",
    "bf16": _precision("bf16"),
    "fp16": _precision("fp16"),
}

#: Of stage 3.
STAGE3: dict[str, Meaning] = {
    "model_name_or_path": "model",
    "use_peft": "use_lora",
    "clip_range": "epsilon",
    "freeze_vision_tower": "freeze_vision",
}


def in_our_names(
    settings: Mapping[str, Any], known: Collection[str], meanings: Mapping[str, Meaning]
) -> dict[str, Any]:
    """Settings with TRL's names put into ours; a name that is known here keeps its meaning.

    Args:
        settings: in order; later ones win.
        known: the names of our settings.
        meanings: :data:`FLOW` or :data:`STAGE3`.

    Example:
        >>> in_our_names({"batch": "4x16", "num_generations": 8}, {"batch"}, FLOW)
        {'batch': '4x8'}
    """
    ours: dict[str, Any] = {}
    for name, value in settings.items():
        meaning = meanings.get(name) if name not in known else None
        if meaning is None:
            ours[name] = value
        elif isinstance(meaning, str):
            ours[meaning] = value
        else:
            ours.update(meaning(value, ours))
    return ours
