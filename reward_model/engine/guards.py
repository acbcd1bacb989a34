"""Guards that stop a training early and say why: a loss that is not a number, a checkpoint that was not written, data
that cannot work.

A checkpoint counts only if it is complete: its ``trainer_state.json`` is written last and must name the folder's step,
and every safetensors file must be as long as its header says.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from reward_model.engine.interrupts import StopRequest

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger(__name__)

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
#: Folders that sharded engines write in place of single files.
_SHARDED = ("pytorch_model_fsdp*", "global_step*", "optimizer_*")


class TrainingStopped(RuntimeError):
    """Training cannot go on. The message names the step, the last complete checkpoint and what to do."""


class DivergenceError(RuntimeError):
    """Loss or gradient is no longer finite. Names the step and the last good checkpoint."""


def diverged(step: int, loss: float, norm: float, last_good: Path | None, remedy: str) -> DivergenceError:
    """The error of a step whose loss or gradient norm is NaN or infinite."""
    return DivergenceError(
        f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}. The step is not kept. "
        f"Last good checkpoint: {last_good or 'none'}. Try {remedy}"
    )


# --- checkpoints ------------------------------------------------------------------------------------------------------


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete ``checkpoint-N`` of a run; incomplete ones (a crash, a full disk) are passed over and named
    in the log.
    """
    numbered = [(int(m[1]), p) for p in Path(folder).glob("checkpoint-*") if (m := _CHECKPOINT.fullmatch(p.name))]
    for _, path in sorted(numbered, reverse=True):
        fault = checkpoint_fault(path)
        if fault is None:
            return path
        log.warning("%s is incomplete (%s); it is not used", path, fault)
    return None


def checkpoint_fault(path: str | Path) -> str | None:
    """Reason why a checkpoint folder cannot be resumed from, or None if it can."""
    path = Path(path)
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        step = state["global_step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"trainer_state.json: {error}"
    match = _CHECKPOINT.fullmatch(path.name)
    if match and step != int(match[1]):
        return f"trainer_state.json is of step {step}"
    weights = sorted(path.glob("*.safetensors"))
    faults = (f"{w.name}: {fault}" for w in weights if (fault := safetensors_fault(w)))
    return _missing_part(path, bool(weights)) or next(faults, None)


def _missing_part(path: Path, weights: bool) -> str | None:
    """Part that a checkpoint lacks: without optimiser, schedule or random states it would continue as another run."""
    sharded = any(any(path.glob(pattern)) for pattern in _SHARDED)
    if not weights and not sharded:
        return "no weights"
    if missing := _missing_shards(path):
        return f"{missing} is missing"
    wanted = [] if any(path.glob("global_step*")) else ["scheduler.pt"]  # DeepSpeed keeps both in parts of its own
    if not sharded:
        wanted.append("optimizer.pt")
    names = [*wanted, *([p.name for p in sorted(path.glob("rng_state*.pth"))] or ["rng_state.pth"])]
    faults = (f"{name} {fault}" for name in names if (fault := archive_fault(path / name)))
    return next(faults, None)


def _missing_shards(path: Path) -> str | None:
    for index in path.glob("*.safetensors.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"{index.name} ({error}) or what it lists"
        for name in sorted(map(str, names)):
            if not (path / name).is_file():
                return str(name)
    return None


def archive_fault(path: Path) -> str | None:
    """Reason why a file that ``torch.save`` wrote is incomplete: it is a zip, whose table of contents comes last."""
    if not path.is_file():
        return "is missing"
    return None if zipfile.is_zipfile(path) else f"is cut off or damaged ({path.stat().st_size} bytes)"


def safetensors_fault(path: str | Path) -> str | None:
    """Reason why a safetensors file is incomplete: its header gives its length, so no weight has to be read."""
    path = Path(path)
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length + 8 > size:
            return f"cut off in its header ({size} bytes)"
        try:
            entries = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return "its header is not JSON"
    try:
        ends = [_end(entry) for name, entry in entries.items() if name != "__metadata__"]
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return "its header is not one of a safetensors file"
    expected = 8 + length + max(ends, default=0)
    return None if size == expected else f"{size} bytes, should be {expected}"


def _end(entry: Mapping[str, Any]) -> int:
    """End of a tensor in the file. Anything that is not as it should be raises one of several errors."""
    start, end = entry["data_offsets"]
    if not (type(start) is type(end) is int and 0 <= start <= end and isinstance(entry["dtype"], str)):
        raise ValueError("offsets")
    if not all(type(n) is int and n >= 0 for n in entry["shape"]):
        raise ValueError("shape")
    return int(end)


def save_or_explain(save: Callable[[], None], folder: str | Path, step: int) -> None:
    """Runs ``save``, which writes ``folder/checkpoint-<step>``. If it fails, the half-written folder is removed.

    Raises:
        TrainingStopped: if it failed; older checkpoints are untouched.
    """
    folder = Path(folder)
    try:
        save()
    except Exception as error:
        # What safetensors, torch and json raise on a full disk differs by library and version; anything that leaves
        # a folder half-written ends the same way.
        shutil.rmtree(folder / f"checkpoint-{step}", ignore_errors=True)
        raise TrainingStopped(
            f"the checkpoint of step {step} could not be written to {folder} ({type(error).__name__}: {error}). "
            f"{_resume_hint(folder)} Free space there, or save fewer checkpoints (save_total_limit, save_only_model)"
        ) from error


@contextmanager
def readable(checkpoint: object) -> Iterator[None]:
    """Whatever goes wrong while a part of a checkpoint is loaded becomes a sentence that names it.

    Raises:
        TrainingStopped: if a part cannot be read, or belongs to another model.
    """
    try:
        yield
    except TrainingStopped:
        raise
    except Exception as error:
        # A damaged file raises what its reader happens to trip over.
        said = (str(error).strip().splitlines() or [""])[0]
        raise TrainingStopped(
            f"{checkpoint} cannot be continued from ({type(error).__name__}: {said}). It is damaged, or of another "
            "model: remove it, and the same command continues from the one before it; or choose another output_dir"
        ) from error


def _resume_hint(folder: str | Path) -> str:
    last = last_complete_checkpoint(folder)
    if last is None:
        return "There is no earlier checkpoint: the next start begins at step 0."
    return f"The last complete checkpoint is {last}; the same command continues from it."


# --- numbers ----------------------------------------------------------------------------------------------------------


def check_loss(loss: torch.Tensor, step: int, folder: str | Path) -> None:
    """Stops when a loss is NaN or infinite.

    Raises:
        TrainingStopped: names the step and the last checkpoint.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingStopped(
            f"the loss is {value} in step {step + 1}. {_resume_hint(folder)} Lower learning_rate, lengthen "
            "warmup_steps, or look at the samples of that step"
        )


class GradientGuard(TrainerCallback):
    """Stops before an optimiser step whose gradients are not all finite, so that no checkpoint holds spoilt weights."""

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: PreTrainedModel,
        **_: object,
    ) -> None:
        total: torch.Tensor | None = None
        for parameter in model.parameters():
            if parameter.grad is None:
                continue
            grad = parameter.grad
            grad = grad.to_local() if hasattr(grad, "to_local") else grad
            # Zero times a finite number is zero; times NaN or infinity it is NaN.
            part = (grad.detach() * 0).sum().float()
            total = part if total is None else total + part
        if total is not None and not math.isfinite(float(total)):
            raise TrainingStopped(
                f"a gradient is not finite in step {state.global_step + 1}. {_resume_hint(args.output_dir)} "
                "Lower learning_rate, or train in bf16 or fp32 rather than fp16"
            )


class StopCallback(TrainerCallback):
    """Ends a training after the current step, with a checkpoint, if a signal asked for it."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.asked = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        # All processes leave at the same step, although a signal may reach them in different ones.
        self.asked = self.asked or bool(together(self.stop.signal))
        if self.asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


def together(number: int) -> int:
    """The largest of a number over all processes that train."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return number
    device = "cpu" if torch.distributed.get_backend() == "gloo" else torch.accelerator.current_accelerator()
    value = torch.tensor([number], device=device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return int(value)


# --- data -------------------------------------------------------------------------------------------------------------


def check_rows(rows: Dataset, *, tolerance: float = 0.1) -> dict[str, int]:
    """Rows of each status, once they are seen to be a usable, balanced set (1:1).

    Args:
        rows: data set with a column ``status``.
        tolerance: how far the share of either status may lie from one half.

    Raises:
        ValueError: if there is no row, or one status outweighs the other.
    """
    counts = Counter(rows["status"]) if len(rows) else Counter()
    total = sum(counts.values())
    if not total:
        raise ValueError("the data set has no row: no annotated video fits this stage")
    for status in ("normal", "abnormal"):
        share = counts[status] / total
        if abs(share - 0.5) > tolerance:
            raise ValueError(
                f"{counts[status]} of {total} samples are {status} ({share:.0%}); the stages train on 1:1 (C.2). Add "
                "videos of the other status"
            )
    return dict(counts)


def check_lengths(
    rows: Dataset, count_tokens: Callable[[Mapping[str, Any]], int], max_tokens: int | None
) -> tuple[Any, list[str]]:
    """Rows that fit, and the names of those that do not. Nothing is ever cut: a cut answer is a wrong answer.

    Args:
        count_tokens: prompt, visual tokens and answer of a row.
        max_tokens: the limit; None lets everything through.

    Raises:
        ValueError: if no row fits.
    """
    if max_tokens is None:
        return rows, []
    kept, long = [], []
    for k, row in enumerate(rows):
        tokens = count_tokens(row)
        if tokens <= max_tokens:
            kept.append(k)
        else:
            long.append(f"{row['video']} ({row['task']}, {tokens} tokens)")
    if long:
        log.warning(
            "%d of %d samples are longer than max_tokens=%d and are left out, not cut: %s",
            len(long),
            len(rows),
            max_tokens,
            ", ".join(long[:20]) + (f" and {len(long) - 20} more" if len(long) > 20 else ""),
        )
    if not kept:
        raise ValueError(
            f"all {len(rows)} samples are longer than max_tokens={max_tokens}, the first is {long[0]}; "
            "raise max_tokens, or lower max_pixels or the frame rates"
        )
    return (rows.select(kept) if long else rows), long


def check_videos(paths: Sequence[Path]) -> None:
    """Every video file exists.

    Raises:
        ValueError: names the files that do not, up to ten of them.
    """
    missing = [str(p) for p in paths if not p.is_file()]
    if missing:
        shown = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise ValueError(
            f"{len(missing)} of {len(paths)} video files are missing: {shown}; fix the paths in the annotation file"
        )
