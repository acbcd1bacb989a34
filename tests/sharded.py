"""FSDP2 and DeepSpeed on the CPU, which accelerate itself offers for GPUs only.

All that is told untruly is the kind of device when processes meet; wrappers, collectives (gloo) and optimisers are the
real ones. To be used in the processes of a launched script, before anything makes an accelerator.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="pip install deepspeed")
KINDS = ("fsdp2", "zero2", "zero3")
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
DEEPSPEED = {
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
}


def shard_on_cpu(kind: str) -> None:
    """Sets what ``accelerate launch`` sets for the files of ``recipes/configs/accelerate``; other kinds change nothing.

    Args:
        kind: ``fsdp2``, ``zero2`` or ``zero3``.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    if kind not in KINDS:
        return
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_XPU)
    os.environ.pop("ACCELERATE_USE_CPU", None)
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    os.environ |= FSDP2 if kind == "fsdp2" else {**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": kind[-1]}


def sharded_accelerator(kind: str, mixed_precision: str = "no") -> Any:
    """An accelerator of that kind; None of other kinds, which is the trainer's own."""
    from accelerate import Accelerator

    shard_on_cpu(kind)
    return Accelerator(mixed_precision=mixed_precision) if kind in KINDS else None
