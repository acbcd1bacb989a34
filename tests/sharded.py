"""Accelerators of FSDP2 and DeepSpeed on the CPU, which accelerate itself offers for GPUs only.

All that is told untruly is the kind of device when the accelerator is made; the wrappers, collectives (gloo) and
optimisers are the real ones. To be used in processes of a launched script.
"""

from __future__ import annotations

import os
from typing import Any


def sharded_accelerator(kind: str, mixed_precision: str = "no") -> Any:
    """``fsdp2``, ``zero2`` or ``zero3``; anything else is None, the trainer's own."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin

    if kind not in ("fsdp2", "zero2", "zero3"):
        return None
    PartialState(cpu=True)
    del os.environ["ACCELERATE_USE_CPU"]
    if kind == "fsdp2":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            reshard_after_forward=True,
            state_dict_type="SHARDED_STATE_DICT",
        )
        return Accelerator(mixed_precision=mixed_precision, fsdp_plugin=plugin)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    plugin = DeepSpeedPlugin(
        zero_stage=int(kind[-1]),
        gradient_accumulation_steps=1,
        zero3_init_flag=False,
        zero3_save_16bit_model=kind == "zero3",
    )
    return Accelerator(mixed_precision=mixed_precision, deepspeed_plugin=plugin)
