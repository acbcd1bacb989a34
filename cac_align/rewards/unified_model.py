"""Choice of a UnifiedReward checkpoint, and a check that the protocol fits it."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

from reward_model.backends.source import announce_demo, shipped_folder

MODEL_VARIABLE = "UNIFIED_REWARD_MODEL"


def mini_unified_folder() -> Path | None:
    """Folder of the embedded mini judge; None if it is not shipped."""
    return shipped_folder("unified-mini")


def default_model(backend: str) -> str:
    """The model to ask when none is named: ``$UNIFIED_REWARD_MODEL``, else locally the embedded mini judge.

    Raises:
        ValueError: if there is neither.
    """
    model, folder = os.environ.get(MODEL_VARIABLE), mini_unified_folder()
    if model:
        return model
    if backend == "local" and folder is not None:
        return str(folder)
    raise ValueError(
        f"no UnifiedReward model available: pass model=... or set ${MODEL_VARIABLE}, for instance to "
        "'CodeGoat24/UnifiedReward-2.0-qwen3vl-8b' (backend='local'), the name a server serves it under "
        "(backend='openai'), or a recording (backend='replay')"
    )


def check_fit(model: str | None, protocol: str) -> None:
    """Raises ValueError for a checkpoint of another kind, and for one asked in another way than it was trained for;
    that halves its accuracy.
    """
    if protocol == "aps" and re.search(r"unifiedreward-(qwen-?\d+b|7b|0\.5b)", (model or "").lower()):
        raise ValueError(
            f"{model!r} is of the first generation, which knows five axes and not protocol='aps'; use "
            "protocol='video5', or a 2.0 checkpoint"
        )
    kind = re.search(r"unifiedreward-(think|flex)\b", (model or "").lower())
    if kind and protocol != f"{kind[1]}_pair":
        raise ValueError(
            f"{model!r} was trained to compare pairs only, protocol={protocol!r} does not fit it; "
            f"use protocol='{kind[1]}_pair' with .compare or .rank, or a 2.0 checkpoint for scores"
        )


MINI_KNOWS = (
    "it rates the procedural world of reward_model.world, not real footage. For real videos pass a trained "
    'checkpoint: UnifiedReward("CodeGoat24/UnifiedReward-2.0-qwen3vl-8b")'
)


@cache
def announce_mini(model: str) -> None:
    """Warns once per process that the embedded judge cannot judge real footage."""
    announce_demo(model, mini_unified_folder(), MINI_KNOWS)
