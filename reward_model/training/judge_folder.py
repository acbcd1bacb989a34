"""A judge as a folder that any backend loads, written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from reward_model.config import JUDGE_FILE


def write_judge(
    model: Any, processor: Any, folder: str | Path, judge_file: str, state: Any = None, card: str | None = None
) -> Path:
    """Writes a loadable judge: weights, processor and ``judge.json``; an older one is replaced at the end.

    Args:
        model: the bare model; LoRA must be merged before.
        judge_file: text of ``judge.json``.
        state: gathered state dict where weights are sharded.
        card: text of the README.md; None keeps that of the older judge.
    """
    folder = Path(folder)
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(fresh, **({"state_dict": state} if state is not None else {}))
    processor.save_pretrained(fresh)
    for weights in fresh.glob("*.safetensors"):
        weights.chmod(0o644)
    (fresh / JUDGE_FILE).write_text(judge_file, encoding="utf-8")
    if card is not None:
        (fresh / "README.md").write_text(card, encoding="utf-8")
    elif (kept := folder / "README.md").is_file():
        shutil.copy2(kept, fresh / "README.md")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder
