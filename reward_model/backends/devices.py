"""Devices and precisions as people write them, checked before anything is loaded for them."""

from __future__ import annotations

import gc
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from reward_model.conversation import Conversation

#: Common short names of precisions, and torch's own.
PRECISIONS = {
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "float16": "float16",
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "float32": "float32",
    "full": "float32",
    "fp64": "float64",
    "double": "float64",
    "float64": "float64",
}


def check_precision(dtype: object) -> str | None:
    """The name torch has for a precision, ``"auto"`` (as the weights were saved), or None if none is given.

    Args:
        dtype: a torch dtype, its name, or a common short name such as ``"bf16"``.

    Raises:
        ValueError: if it names no precision that a model can be loaded in.

    >>> check_precision("bf16"), check_precision("torch.float16"), check_precision(None)
    ('bfloat16', 'float16', None)
    """
    if dtype is None or dtype == "auto":
        return None if dtype is None else "auto"
    name = str(dtype).removeprefix("torch.").lower().strip()
    if name in PRECISIONS:
        return PRECISIONS[name]
    near = get_close_matches(name, PRECISIONS, 1)
    raise ValueError(
        f"dtype={dtype!r} is not a precision for weights{f' (did you mean {near[0]!r}?)' if near else ''}; use "
        "'bfloat16' (or 'bf16'), 'float16' ('fp16'), 'float32' ('fp32'), 'auto', or torch.bfloat16 and the like"
    )


def torch_dtype(dtype: str | torch.dtype | None) -> torch.dtype | Literal["auto"] | None:
    """:func:`check_precision` as torch knows it: a ``torch.dtype``, ``"auto"``, or None."""
    import torch

    name = check_precision(dtype)
    if name is None or name == "auto":
        return None if name is None else "auto"
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def torch_device(device: str | int | torch.device | None = None) -> torch.device:
    """A ``torch.device`` that exists here; None is CUDA where there is any, else the CPU.

    Args:
        device: a name such as ``"cuda"``, ``"cuda:1"``, ``"cpu"``, ``"mps"``, the number of a CUDA device, or a
            ``torch.device``.

    Raises:
        ValueError: if there is no such device, in torch or on this machine.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"cuda:{device}" if isinstance(device, int) and not isinstance(device, bool) else device
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError):
        remedy = "'cuda'" if str(device).lower().startswith(("gpu", "nvidia", "cuda")) else "'cuda', 'cpu' or 'mps'"
        raise ValueError(f"device={device!r} is not a device of torch; use {remedy}, or leave it out") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        why = (
            "this torch was built without CUDA" if torch.version.cuda is None else "there is no GPU that torch can use"
        )
        raise ValueError(
            f"device={device!r}, but {why}; use device='cpu', or look at nvidia-smi, $CUDA_VISIBLE_DEVICES and the "
            "driver"
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ValueError(f"device={device!r}, but the last CUDA device here is 'cuda:{last}'; use one of 0 to {last}")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={device!r}, but this machine has no Apple GPU that torch can use; use device='cpu'")
    return chosen


def ran_out_of_memory(error: BaseException) -> bool:
    """True if an exception says that memory was short: torch has its own exception for accelerators only, the CPU
    raises RuntimeError and numpy MemoryError.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said
        for words in ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed", "cannot allocate")
    )


def free_memory() -> None:
    """Gives back what is held and not in use."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def unasked(error: Exception, conversation: Conversation, short: bool) -> str:
    """Reason why a model could not be asked this; ``short``: memory was."""
    import numpy as np

    shapes = [p.shape for message in conversation for p in message.content if isinstance(p, np.ndarray)]
    shown = f"{len(shapes)} frames of {shapes[0][0]}x{shapes[0][1]}" if shapes else "a question without frames"
    if short:
        return (
            f"out of memory on this video alone ({shown}); lower max_scan_frames, scan_fps or frame_size, or use a "
            "device with more memory"
        )
    lines = str(error).strip().splitlines()
    return f"the model could not be asked about {shown}: {lines[0][:300] if lines else type(error).__name__}"
