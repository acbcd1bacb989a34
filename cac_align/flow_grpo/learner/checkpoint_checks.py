"""Checks of a checkpoint before a run goes on from it. A fault is a line: the file, what is wrong, what to do.

A checkpoint is renamed into place when it is whole, so a faulty one was changed or cut afterwards: by a copy that broke
off, a disk, or somebody's hand. A run never goes on with a part of it missing, which would be another run.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reward_model.engine.checkpoints import STATE_FILE, TrainingCheckpointError, find_checkpoints

_NAME = re.compile(r"checkpoint-(\d+)")
#: Entries of the state that every checkpoint has, and their types.
_ENTRIES: dict[str, type] = {
    "step": int,
    "updates": int,
    "ema_updates": int,
    "num_processes": int,
    "parts": list,
    "history": list,
    "schedule": dict,
}
#: State of AdamW per parameter.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
Tensors = dict[str, torch.Tensor]
Layout = Mapping[str, Mapping[str, tuple[int, ...]]]


def last_finished_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that was written to its end, None if there is none; for messages, damage is not looked for.

    The checks of the judge's stage 3 (:mod:`~reward_model.engine.checkpoints`) ask for files that are not here.
    """
    folders = find_checkpoints(output_dir)
    return folders[-1] if folders else None


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint of a run, None if there is none.

    Raises:
        TrainingCheckpointError: if its state file is gone: without this, the run would quietly go on from an older one.
    """
    numbered = [(n, p) for p in output_dir.glob("checkpoint-*") if (n := _number(p.name)) >= 0 and p.is_dir()]
    if not numbered:
        return None
    folder = max(numbered)[1]
    if not (folder / STATE_FILE).is_file():
        raise damaged(folder / STATE_FILE, "it is missing")
    return folder


def damaged(path: Path, fault: str) -> TrainingCheckpointError:
    """The error that names a file of a checkpoint, its fault, and what to do."""
    folder = path.parent
    older = [p.name for p in find_checkpoints(folder.parent) if p != folder]
    before = [name for name in older if _number(name) < _number(folder.name)]
    remedy = f"resume from {before[-1]}" if before else "restart from step 0"
    return TrainingCheckpointError(
        f"{str(path)!r} is damaged: {fault}. Delete {folder.name} to {remedy}, or put the file back"
    )


def read_state(folder: Path) -> dict[str, Any]:
    """``grpo_state.json``, seen to be whole.

    Raises:
        TrainingCheckpointError: if it is not.
    """
    path = folder / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error) or type(error).__name__) from error
    if not isinstance(state, dict):
        raise damaged(path, f"it holds a {type(state).__name__}, not an object")
    if fault := _state_fault(state, _number(folder.name)):
        raise damaged(path, fault)
    return state


def _state_fault(state: Mapping[str, Any], step: int) -> str:
    """The first fault of a state file's form, ``""`` where there is none."""
    if wrong := [name for name, kind in _ENTRIES.items() if not _is_entry(state.get(name), kind)]:
        return f"{wrong[0]!r} is {_short(state.get(wrong[0]))}, must be {_WORDS[_ENTRIES[wrong[0]]]}"
    if state["step"] != step:
        return f"it is of step {state['step']}"
    if odd := [entry for entry in state["history"] if not _is_evaluation(entry)]:
        return f"'history' holds {_short(odd[0])}, must hold numbers by name"
    rewards = state.get("eval_rewards") or {}
    if not isinstance(rewards, dict) or not all(map(_is_rewards, rewards.values())):
        return f"'eval_rewards' is {_short(rewards)}, must hold lists of numbers"
    names = [*state["parts"], *(state.get("own_parts") or [])]
    if not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names):
        return f"'parts' is {_short(names)}, must list names"
    return ""


def _is_entry(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)


def _is_evaluation(entry: object) -> bool:
    return isinstance(entry, dict) and all(map(_finite, entry.values())) and "step" in entry


def _is_rewards(values: object) -> bool:
    """True for a list of rewards, None if there is none."""
    return isinstance(values, list) and all(value is None or _finite(value) for value in values)


def check_counters(folder: Path, state: Mapping[str, Any], present: Mapping[str, Any], ema_every: int) -> None:
    """The counters of a state fit each other and those of this run.

    Args:
        folder: the checkpoint.
        state: the result of :func:`read_state`.
        present: the same counters of a fresh run: what their entries look like.
        ema_every: updates between two averagings; 0 without an average.

    Raises:
        TrainingCheckpointError: if they do not.
    """
    path, schedule, updates = folder / STATE_FILE, state["schedule"], state["updates"]
    for key, like in present["schedule"].items():
        needed = key in ("last_epoch", "_last_lr")
        if (needed or key in schedule) and not _alike(schedule.get(key), like):
            raise damaged(path, f"'schedule' has {key}={_short(schedule.get(key))}, must be like {_short(like)}")
    if schedule["last_epoch"] != updates:
        raise damaged(path, f"'schedule' is at update {schedule['last_epoch']}, the run at {updates}")
    if ema_every and state["ema_updates"] != updates // ema_every:
        raise damaged(path, f"'ema_updates' is {state['ema_updates']}, must be {updates // ema_every}")
    scaler = state.get("scaler")
    if scaler is not None and not (isinstance(scaler, dict) and all(map(_finite, scaler.values()))):
        raise damaged(path, f"'scaler' is {_short(scaler)}, must hold numbers by name")


def check_file(path: Path, state: Mapping[str, Any]) -> None:
    """A file is there and, where the checkpoint has digests, holds the bytes that were written.

    Raises:
        TrainingCheckpointError: if it is not, or does not.
    """
    if not path.is_file():
        raise damaged(path, "it is missing")
    digests = state.get("digests")
    if isinstance(digests, dict) and digests.get(path.name) != digest(path):
        raise damaged(path, "its bytes differ from those that were written")


def check_tensors(path: Path, tensors: Tensors, layout: Mapping[str, tuple[int, ...]], *, exact: bool = True) -> None:
    """Tensors have the names and shapes of a part and are finite; ``exact``: and there are no others.

    Raises:
        TrainingCheckpointError: if one is missing, or is of another form.
    """
    for name, shape in layout.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise damaged(path, f"{name} is missing")
        if tuple(tensor.shape) != tuple(shape) or not tensor.is_floating_point():
            raise damaged(path, f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, must be {tuple(shape)} of floats")
        if not bool(torch.isfinite(tensor).all()):
            raise damaged(path, f"{name} holds values that are not finite")
    if exact and (extra := sorted(set(tensors) - set(layout))):
        raise damaged(path, f"{extra[0]} does not belong to this run")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else -1


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _alike(value: object, like: object) -> bool:
    """True if a value has the form of another: numbers for numbers, lists of as many, equal keys."""
    if isinstance(like, dict):
        return isinstance(value, dict) and value.keys() == like.keys() and all(_alike(value[k], like[k]) for k in like)
    if isinstance(like, list | tuple):
        return isinstance(value, list) and len(value) == len(like) and all(map(_alike, value, like))
    if isinstance(like, bool) or like is None:
        return type(value) is type(like)
    if isinstance(like, int):
        return isinstance(value, int) and not isinstance(value, bool)
    return _finite(value) and not isinstance(value, bool) if isinstance(like, float) else type(value) is type(like)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_WORDS: dict[type, str] = {int: "a whole number of at least 0", list: "a list", dict: "an object"}
