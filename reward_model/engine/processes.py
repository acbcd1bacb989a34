"""The processes of a training: the accelerator that leads them, and numbers they share."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator


def several_on_cpu() -> bool:
    """True if ``torchrun`` started several processes without a GPU. Accelerate has to be told: without ``cpu`` each
    process would take itself for the only one and write over the others.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def default_accelerator(mixed_precision: str | None = None, *, cpu: bool | None = None) -> Accelerator:
    """The accelerator set up by ``accelerate launch``, or one process.

    Args:
        mixed_precision: no, bf16 or fp16 where the settings of a run decide; None: as launched.
        cpu: train on the CPU; None: where several processes have no GPU.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    on_cpu = several_on_cpu() if cpu is None else cpu
    return Accelerator(cpu=on_cpu, mixed_precision=mixed_precision, kwargs_handlers=handlers)


def settle_sharding(accelerator: Accelerator, max_grad_norm: float) -> None:
    """Tells DeepSpeed and FSDP2 what accelerate does not; before anything is prepared.

    DeepSpeed clips by itself and asks for the size of batches, which the trainers make. FSDP2 would round what leaves
    the model, log-probabilities too, to the precision of its products.
    """
    deepspeed = accelerator.state.deepspeed_plugin
    if deepspeed is not None:
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        deepspeed.deepspeed_config["gradient_clipping"] = float(max_grad_norm)
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    policy: Any = getattr(fsdp, "mixed_precision_policy", None)
    if fsdp is not None and getattr(policy, "output_dtype", None) is not None:
        fsdp.mixed_precision_policy = replace(policy, output_dtype=None)


def is_sharded(accelerator: Accelerator) -> bool:
    """True if weights are spread over processes, so that all must take part in every forward pass."""
    return str(accelerator.distributed_type).rpartition(".")[2] in ("FSDP", "DEEPSPEED")


def uses_deepspeed(accelerator: Accelerator) -> bool:
    """True if DeepSpeed steps and clips; it keeps the optimiser's state in parts of its own."""
    return accelerator.state.deepspeed_plugin is not None


def first_text(accelerator: Accelerator, text: str) -> str:
    """The first text that is not empty, of all processes in their order; empty if all are."""
    if accelerator.num_processes == 1:
        return text
    from accelerate.utils import gather_object

    return next(filter(None, gather_object([text])), "")


def gathered(accelerator: Accelerator, value: torch.Tensor) -> torch.Tensor:
    """Tensors of all processes one after another along the first axis, on the CPU."""
    if accelerator.num_processes == 1:
        return value
    everywhere: torch.Tensor = accelerator.gather(value.to(accelerator.device)).cpu()
    return everywhere


def summed(accelerator: Accelerator, values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, on the CPU."""
    if accelerator.num_processes == 1:
        return values
    total: torch.Tensor = accelerator.reduce(values.to(accelerator.device), "sum").cpu()
    return total


def largest(accelerator: Accelerator, value: int) -> int:
    """The largest of a number over all processes."""
    return int(gathered(accelerator, torch.tensor([value])).max())
