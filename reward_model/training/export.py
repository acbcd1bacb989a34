"""A trained judge as a folder that ``CaCReward(folder)`` and stock transformers load: weights, processor, judge.json,
model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.config import JUDGE_FILE, JudgeConfig, judge_json
from reward_model.domain import DOMAIN_FILE
from reward_model.files import empty_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin, Trainer

#: Moved last: a folder without it is not taken for a model.
_LAST = "config.json"


def export_judge(
    trainer: Trainer,
    processor: ProcessorMixin,
    judge: JudgeConfig,
    folder: str | Path,
    *,
    card: str,
    merge_lora: bool = True,
) -> Path:
    """Writes the checkpoint folder; an older export there is replaced file by file, ``config.json`` last.

    Args:
        trainer: after training; merging changes its model, so it cannot train on.
        judge: how the checkpoint is to be asked.
        card: text of the README.md.
        merge_lora: False keeps the adapter apart (``adapter_model.safetensors``, to load with peft on the base model).
    """
    folder = Path(folder)
    fresh = folder / ".export"
    writes = trainer.is_world_process_zero()
    if writes:
        empty_folder(fresh)
    trainer.accelerator.wait_for_everyone()
    _save_weights(trainer, fresh, merge_lora)
    if writes:
        processor.save_pretrained(fresh)
        (fresh / JUDGE_FILE).write_text(judge_json(judge), encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")
        (folder / DOMAIN_FILE).unlink(missing_ok=True)  # of the weights that were there before
        for path in sorted(fresh.iterdir(), key=lambda p: p.name == _LAST):
            path.replace(folder / path.name)
        fresh.rmdir()
    trainer.accelerator.wait_for_everyone()
    return folder


def _save_weights(trainer: Trainer, folder: Path, merge_lora: bool) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapted = hasattr(model, "peft_config")
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        # All processes gather the shards, whatever form checkpoints have (Trainer.save_model writes nothing under
        # SHARDED_STATE_DICT); the first one writes, and merges an adapter on the CPU.
        gathered = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if trainer.is_world_process_zero():
            save_gathered(model, gathered, folder)
            if adapted and merge_lora:
                merge_adapter(folder)
        return
    if not trainer.is_world_process_zero():
        return
    if adapted and merge_lora:
        model = model.merge_and_unload()
    model.save_pretrained(folder)


def save_gathered(model: PreTrainedModel, state: Mapping[str, Any], folder: Path) -> None:
    """``save_pretrained`` of weights that were spread over processes: the same names as of a model in one piece.

    Tied weights come twice when they are gathered; and a model that DeepSpeed loaded would be written under names of
    older releases.
    """
    tied = model.config.get_text_config().tie_word_embeddings
    second = set(getattr(model, "_tied_weights_keys", None) or ()) if tied else set()
    kept = {name: value for name, value in state.items() if name not in second}
    plain = {} if hasattr(model, "peft_config") else {"save_original_format": False}
    model.save_pretrained(folder, state_dict=kept, **plain)


def merge_adapter(folder: str | Path) -> None:
    """Replaces the adapter in ``folder`` by its base model with the adapter merged in, on the CPU.

    The base model is the one that the adapter's configuration names.
    """
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForImageTextToText
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    from reward_model.backends.checkpoint import load_weights

    folder = Path(folder)
    unset_hf_deepspeed_config()  # a run under ZeRO-3 would spread this model over processes that do not load it
    base = PeftConfig.from_pretrained(folder).base_model_name_or_path
    with torch.device("cpu"):
        model = PeftModel.from_pretrained(load_weights(AutoModelForImageTextToText, base, dtype="auto"), folder)
    model.merge_and_unload().save_pretrained(folder)
    for path in folder.glob("adapter_*"):
        path.unlink()
