"""Checkpoints of stage 3: everything a run needs to go on as if it had never stopped, or nothing at all.

A checkpoint is written beside its place and renamed at the end, so a folder named ``checkpoint-N`` is always whole. It
holds weights, optimiser and random states (accelerate), the schedule and counters (``grpo_state.json``) and the
sampler's random state of each process (safetensors). The frozen reference is the checkpoint the run started from; its
fingerprint is kept instead of a copy and checked on resume.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

STATE_FILE = "grpo_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or does not fit the run that wants to continue from it."""


def save_checkpoint(
    accelerator: Any, output_dir: Path, step: int, state: Mapping[str, Any], generator: torch.Generator, keep: int
) -> Path:
    """Writes ``checkpoint-<step>`` from all processes and deletes all but the last ``keep``.

    Raises:
        CheckpointError: it could not be written (disk full, ...). Older checkpoints are as they were.
    """
    final = output_dir / f"checkpoint-{step}"
    partial = output_dir / f"checkpoint-{step}.partial"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        save_file({"sampler": generator.get_state()}, partial / _sampler_file(accelerator.process_index))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            text = json.dumps({**state, "step": step, "num_processes": accelerator.num_processes}, indent=2)
            (partial / STATE_FILE).write_text(text + "\n", encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            partial.replace(final)
            for old in find_checkpoints(output_dir)[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        last = last_checkpoint(output_dir)
        raise CheckpointError(
            f"could not write checkpoint {step} to {str(output_dir)!r}: {error}. "
            f"The last good one is {str(last) if last else 'none'}; make room and start again to continue from it"
        ) from error
    accelerator.wait_for_everyone()
    return final


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(found) if (p / STATE_FILE).is_file()]


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, None if there is none."""
    found = find_checkpoints(output_dir)
    return found[-1] if found else None


def load_checkpoint(
    accelerator: Any, folder: Path, generator: torch.Generator, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Restores weights, optimiser and random states, and returns the other state.

    Args:
        expected: entries of the state that must be equal, or the run would not be the same.

    Raises:
        CheckpointError: it belongs to another run.
    """
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    wanted = {**expected, "num_processes": accelerator.num_processes}
    wrong = [f"{k} was {state.get(k)!r} and is now {v!r}" for k, v in wanted.items() if state.get(k) != v]
    if wrong:
        raise CheckpointError(
            f"{str(folder)!r} belongs to another run: {'; '.join(wrong)}. Use another output_dir, or the old settings"
        )
    accelerator.load_state(str(folder))
    generator.set_state(load_file(folder / _sampler_file(accelerator.process_index))["sampler"])
    return state


def fingerprint(model: torch.nn.Module) -> str:
    """A short hash of a model's weights: names, shapes and the first 4096 values of each."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().flatten()[:4096].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sampler_file(process: int) -> str:
    return f"sampler_{process}.safetensors"
