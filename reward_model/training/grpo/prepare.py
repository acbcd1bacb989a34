"""Preparation of a judge for stage 3: adapters, frozen parts, checks, optimiser and schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from reward_model.engine.processes import is_sharded
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.rows import core_model

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


class ModelSettings(Protocol):
    """Settings that say which parts of a model are trained, and how it is read."""

    @property
    def seed(self) -> int: ...
    @property
    def use_lora(self) -> bool: ...
    @property
    def lora_r(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def freeze_vision(self) -> bool: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def share_prompts(self) -> bool: ...


def prepare_model(model: PreTrainedModel, config: ModelSettings) -> PreTrainedModel:
    """The model with adapters, frozen parts and gradient checkpointing as configured.

    Raises:
        ValueError: if it has dropout, or an attention that cannot do what is asked.
    """
    if config.use_lora:
        from peft import get_peft_model

        from reward_model.training.lora import lora_config

        torch.manual_seed(config.seed)
        model = get_peft_model(model, lora_config(r=config.lora_r, alpha=config.lora_alpha, dropout=0.0))
    if config.freeze_vision:
        for name, parameter in model.named_parameters():
            if ".visual." in name:
                parameter.requires_grad_(False)
    check_no_dropout(model)
    check_attention(model, config.share_prompts)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def make_optimizer(policy: torch.nn.Module, config: GrpoConfig) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW and its schedule, which counts updates."""
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW(
        decay_groups(policy, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
    )
    schedule = get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=config.max_steps * config.num_iterations,
    )
    return optimizer, schedule


def check_no_dropout(model: torch.nn.Module) -> None:
    """Dropout makes the ratio of Equation 10 differ from 1 before anything was learnt.

    Raises:
        ValueError: some module or the attention drops out.
    """
    wrong = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    wrong += [n for n, m in model.named_modules() if getattr(m, "attention_dropout", 0.0) > 0]
    if wrong:
        raise ValueError(f"stage 3 needs a model without dropout, but {wrong[0]!r} has some ({len(wrong)} modules)")


def check_attention(model: PreTrainedModel, share_prompts: bool) -> None:
    """Branches of one sequence need an attention that takes a mask.

    Raises:
        ValueError: if the model's does not.
    """
    kind = core_model(model).config.text_config._attn_implementation
    if share_prompts and kind not in ("sdpa", "eager"):
        raise ValueError(f"share_prompts needs attn_implementation sdpa or eager, not {kind!r}; or set it to false")


def decay_groups(policy: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors (norms, biases) do not."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def prepare_reference(reference: torch.nn.Module, accelerator: Accelerator) -> Any:
    """The frozen copy on its device, sharded like the policy. It never enters a checkpoint."""
    if not is_sharded(accelerator):
        return reference.to(accelerator.device)
    if str(accelerator.distributed_type).endswith("DEEPSPEED"):
        from trl.models.utils import prepare_deepspeed

        return prepare_deepspeed(reference, accelerator)
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    return fsdp2_prepare_model(accelerator, reference)
