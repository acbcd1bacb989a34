"""Settings by the names that other trainers have for them, and what is said about names that are not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reward_model.engine.trl_names import FLOW_ALIASES
from reward_model.terminal.parser import nearest

#: Names that have no counterpart of the same meaning, and what to set instead.
INSTEAD = {
    "bf16": "set mixed_precision: bf16",
    "fp16": "set mixed_precision: fp16",
    "groups_per_step": "set batch: PROMPTSxVIDEOS, for instance 2x16",
    "per_device_train_batch_size": "set batch (prompts x videos of a step) and sample_batch_size (videos of one call)",
    "gradient_accumulation_steps": "a step is accumulated as a whole; set num_minibatches for more updates a step",
    "num_train_epochs": "set max_steps",
}


def renamed(data: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Settings under the names of this project. ``num_generations: 8`` becomes the second half of ``batch``.

    Raises:
        ValueError: if a name is not known (the nearest one is named), or two names of one setting disagree.

    Example:
        >>> renamed({"num_generations": 8, "save_steps": 5}, ["batch", "save_every"])
        {'save_every': 5, 'batch': '2x8'}
    """
    names = list(known)
    ours: dict[str, Any] = {}
    for name, value in data.items():
        target = FLOW_ALIASES.get(name, name)
        if target in ours and ours[target] != value:
            raise ValueError(f"{name}={value!r} and {target}={ours[target]!r} are one setting; give one of them")
        ours[target] = value
    videos = ours.pop("num_generations", None)
    if videos is not None:
        prompts, _, each = str(ours.get("batch", f"2x{videos}")).partition("x")
        if each.strip() != str(videos):
            raise ValueError(
                f"num_generations={videos!r} does not fit batch={ours['batch']!r}, which says prompts x videos of "
                f"each; set batch: {prompts.strip()}x{videos} alone"
            )
        ours["batch"] = f"{prompts.strip()}x{videos}"
    for name in ours:
        if name not in names:
            hint = INSTEAD.get(name) or nearest(str(name), names) or "see FlowGRPOConfig.help_text()"
            raise ValueError(f"unknown setting {name!r}; {hint}")
    return ours
