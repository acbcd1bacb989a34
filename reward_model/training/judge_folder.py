"""A judge as a folder that any backend loads, written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.config import JUDGE_FILE
from reward_model.engine.processes import is_sharded
from reward_model.files import atomic_folder
from reward_model.training.export import merge_adapter, save_gathered

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel, ProcessorMixin


def export_policy(
    accelerator: Accelerator,
    policy: torch.nn.Module,
    processor: ProcessorMixin,
    folder: str | Path,
    judge_file: str,
    card: str | None = None,
) -> Path:
    """Writes the judge inside a trained policy. Called by all processes; the first writes. LoRA is merged, so this ends
    the training.

    Args:
        policy: the prepared :class:`~reward_model.training.grpo.rows.RowModel`.
        judge_file, card: as :func:`write_judge` takes them.
    """
    bare = accelerator.unwrap_model(policy).model
    state = None
    if is_sharded(accelerator):
        whole = accelerator.get_state_dict(policy)  # gathered in the first process; the others may get None
        state = {k.removeprefix("model."): v for k, v in (whole or {}).items()}
    elif hasattr(bare, "peft_config"):
        bare = bare.merge_and_unload()
    if accelerator.is_main_process:
        write_judge(bare, processor, folder, judge_file, state, card)
    accelerator.wait_for_everyone()
    return Path(folder)


def write_judge(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    folder: str | Path,
    judge_file: str,
    state: Mapping[str, torch.Tensor] | None = None,
    card: str | None = None,
) -> Path:
    """Writes a loadable judge: weights, processor and ``judge.json``; an older one is replaced at the end.

    Args:
        model: the bare model; LoRA must be merged before, unless weights are sharded.
        judge_file: text of ``judge.json``.
        state: gathered state dict where weights are sharded; an adapter in it is merged into its base on the CPU.
        card: text of the README.md; None keeps that of the older judge.
    """
    folder = Path(folder)
    with atomic_folder(folder, keep=("README.md",)) as fresh:
        if state is None:
            model.save_pretrained(fresh)
        else:
            save_gathered(model, state, fresh)
            if hasattr(model, "peft_config"):
                merge_adapter(fresh)
        processor.save_pretrained(fresh)
        for weights in fresh.glob("*.safetensors"):
            weights.chmod(0o644)
        (fresh / JUDGE_FILE).write_text(judge_file, encoding="utf-8")
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")
    return folder
