"""Checkpoints: everything a run needs to go on as if it had never stopped, or nothing at all.

A checkpoint is written beside its place and renamed at the end, so a folder named ``checkpoint-N`` is always whole
(:func:`write_checkpoint`). That of stage 3 holds weights, optimiser and random states (accelerate), the schedule and
counters (``grpo_state.json``) and the sampler's random state of each process (safetensors). The frozen reference is the
checkpoint the run started from; its fingerprint is kept instead of a copy and checked on resume.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from reward_model.engine.guards import archive_fault, safetensors_fault
from reward_model.engine.processes import first_text
from reward_model.files import empty_folder, replace_folder

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

STATE_FILE = "grpo_state.json"
#: Entry of a state: digests of what other entries name by a path.
CONTENTS = "contents"
_NAME = re.compile(r"checkpoint-(\d+)")


class TrainingCheckpointError(RuntimeError):
    """A checkpoint could not be written, or does not fit the run that wants to continue from it."""


def write_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    *,
    write: Callable[[Path], None],
    finish: Callable[[Path], None],
    keep: int,
) -> Path:
    """Writes ``checkpoint-<step>`` from all processes and deletes all but the last ``keep``.

    Args:
        write: writes the files of this process into the folder it is given.
        finish: writes :data:`STATE_FILE`, which makes a checkpoint of the folder: in the first process, once the files
            of all of them are there.

    Raises:
        TrainingCheckpointError: it could not be written (disk full, ...), on every process. Older checkpoints stay.
    """
    final, partial = output_dir / f"checkpoint-{step}", output_dir / f"checkpoint-{step}.partial"
    main = accelerator.is_main_process

    def put_in_place() -> None:
        finish(partial)
        replace_folder(partial, final)
        for old in find_checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    stages = ((main, lambda: empty_folder(partial)), (True, lambda: write(partial)), (main, put_in_place))
    # Each process hears of a failure in any other before it goes on to what needs all of them.
    for mine, action in stages:
        error = _error_of(action) if mine else None
        fault = first_text(accelerator, f"{type(error).__name__}: {error}" if error else "")
        if fault:
            if main:
                shutil.rmtree(partial, ignore_errors=True)
            last = next(reversed(find_checkpoints(output_dir)), None)
            raise TrainingCheckpointError(
                f"could not write checkpoint {step} to {str(output_dir)!r}: {fault}. "
                f"The last good one is {str(last) if last else 'none'}; free some space and start again to resume"
            ) from error
    return final


def _error_of(action: Callable[[], Any]) -> Exception | None:
    """Error raised by an action: safetensors, torch and the file system each have their own for a full disk."""
    try:
        action()
    except Exception as error:
        return error
    return None


def save_policy_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    state: Mapping[str, Any],
    generator: torch.Generator,
    keep: int,
) -> Path:
    """The checkpoint of a step of stage 3; see :func:`write_checkpoint`.

    Raises:
        TrainingCheckpointError: it could not be written.
    """

    def write(folder: Path) -> None:
        accelerator.save_state(str(folder))
        save_file({"sampler": generator.get_state()}, folder / _sampler_file(accelerator.process_index))

    def finish(folder: Path) -> None:
        text = json.dumps({**state, "step": step, "num_processes": accelerator.num_processes}, indent=2)
        (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")

    return write_checkpoint(accelerator, output_dir, step, write=write, finish=finish, keep=keep)


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run that were written to their end, oldest first; later damage is not looked for."""
    numbered = [(int(m[1]), p) for p in output_dir.glob("checkpoint-*") if (m := _NAME.fullmatch(p.name))]
    return [p for _, p in sorted(numbered) if (p / STATE_FILE).is_file()]


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, None if there is none; damaged ones are passed over, with a warning."""
    for path in reversed(find_checkpoints(output_dir)):
        fault = grpo_checkpoint_fault(path)
        if fault is None:
            return path
        log.warning("%s is damaged (%s); it is not used", path, fault)
    return None


def resumable(output_dir: Path, resume: bool = True) -> Path | None:
    """Checkpoint to resume from: the newest complete one; None if there is none.

    Args:
        resume: False begins anew, in a folder without checkpoints alone.

    Raises:
        TrainingCheckpointError: if it has some, and every one is damaged, or ``resume`` is False. Beginning anew would
            write over them.
    """
    last = last_checkpoint(output_dir)
    folders = find_checkpoints(output_dir)
    if last is None and folders:
        raise TrainingCheckpointError(
            f"{str(folders[-1])!r} is damaged ({grpo_checkpoint_fault(folders[-1])}), and no checkpoint before it is "
            "whole. Remove them to start over, or choose another output_dir"
        )
    if last is not None and not resume:
        raise TrainingCheckpointError(f"{str(output_dir)!r} holds {last.name}; resume it, or choose another output_dir")
    return last


def grpo_checkpoint_fault(folder: Path) -> str | None:
    """Reason why a checkpoint cannot be continued from: a part is missing, cut off or of another form. None if it can.

    Weights in one file, or the shards of FSDP (``pytorch_model_fsdp_0``) or DeepSpeed (``pytorch_model``), which their
    own readers check.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        processes = int(state["num_processes"])
        if not isinstance(state["schedule"], dict) or not isinstance(state["config"], dict):
            return f"{STATE_FILE} is not one of stage 3"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"{STATE_FILE}: {type(error).__name__} {error}"
    if state.get("step") != int(folder.name.rpartition("-")[2]):
        return f"{STATE_FILE} is of step {state.get('step')}"
    if not any(folder.glob("pytorch_model*")):
        weights = sorted(folder.glob("model*.safetensors"))
        faults = [f"{w.name}: {fault}" for w in weights if (fault := safetensors_fault(w))]
        if not weights or faults:
            return faults[0] if faults else "model.safetensors is missing"
        if fault := archive_fault(folder / "optimizer.bin"):
            return f"optimizer.bin {fault}"
    return next((fault for number in range(processes) if (fault := _process_fault(folder, number))), None)


def _process_fault(folder: Path, number: int) -> str | None:
    """Fault in the parts that each process has of its own."""
    if fault := safetensors_fault(folder / _sampler_file(number)):
        return f"{_sampler_file(number)}: {fault}"
    fault = archive_fault(folder / f"random_states_{number}.pkl")
    return f"random_states_{number}.pkl {fault}" if fault else None


def restore_checkpoint(
    accelerator: Accelerator, folder: Path, generator: torch.Generator, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Restores weights, optimiser and random states, and returns the other state.

    Args:
        expected: entries of the state that must be equal, or the run would not be the same.

    Raises:
        TrainingCheckpointError: it belongs to another run, or a part cannot be read.
    """
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    check_same_run(folder, state, {**expected, "num_processes": accelerator.num_processes})
    try:
        accelerator.load_state(str(folder))
        generator.set_state(load_file(folder / _sampler_file(accelerator.process_index))["sampler"])
    except Exception as error:
        # A damaged file raises what its reader happens to trip over.
        said = (str(error).strip().splitlines() or [""])[0]
        raise TrainingCheckpointError(
            f"{str(folder)!r} cannot be continued from ({type(error).__name__}: {said}). Remove it, and the same "
            "command continues from the one before it; or choose another output_dir"
        ) from error
    return state


def check_same_run(folder: Path, state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises TrainingCheckpointError unless the state of a checkpoint has these entries: it belongs to another run.

    An entry may name a folder. ``contents``, where both have it, holds digests of what such entries mean by their
    names: an entry of equal content is the same, wherever its folder lies now.
    """
    known = state.get(CONTENTS) or {}
    same = {CONTENTS, *(k for k, digest in expected.get(CONTENTS, {}).items() if known.get(k) == digest)}
    wrong = [
        f"{k} was {state.get(k)!r} and is now {v!r}" for k, v in expected.items() if k not in same and state.get(k) != v
    ]
    if wrong:
        raise TrainingCheckpointError(
            f"{str(folder)!r} belongs to another run: {'; '.join(wrong)}. Use another output_dir, or the old settings"
        )


def fingerprint(model: torch.nn.Module) -> str:
    """A short hash of a model's weights: names, shapes and the first 4096 values of each."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().flatten()[:4096].cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sampler_file(process: int) -> str:
    return f"sampler_{process}.safetensors"
