"""Stages 1 and 2 from their arguments to an exported judge: load, check, train, resume, evaluate, export."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.guards import TrainingStopped
from reward_model.shipped import recipes_folder
from reward_model.terminal.program import LAUNCHED, LAUNCHER_SETS, MISUSED, printable
from reward_model.training.missing import print_missing
from reward_model.training.plan import print_plan
from reward_model.training.sft.config import WORLD, StageArguments, parse_stage, stage_settings_text
from reward_model.training.sft.data import stage_data
from reward_model.training.sft.model import load_model, sft_plan_config
from reward_model.training.sft.parts import STOCK, StageData, StageName, StageParts

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import (
        PreTrainedModel,
        ProcessorMixin,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from trl import ModelConfig, SFTConfig

log = logging.getLogger(__name__)

#: Longest answer that is generated to be looked at; a full one would hold up an evaluation for minutes.
SHOWN_TOKENS = 1024


def run_recipe(name: StageName, arguments: Sequence[str] | None = None, parts: StageParts = STOCK) -> int:
    """:func:`run_stage` from a command line: exit code 0, or 2 after a line that says what is wrong. Ends in
    :class:`~reward_model.engine.interrupts.Interrupted` where a signal stopped it. ``--list-settings`` prints them.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if "--list-settings" in words:
        print(stage_settings_text(parts.options))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("httpx", "datasets", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        folder = run_stage(name, *parse_stage(words, recipes_folder() / "configs" / name, parts.options), parts)
    except (ValueError, OSError, TrainingStopped) as error:
        launched = LAUNCHED if LAUNCHER_SETS in os.environ else ""
        print(printable(f"\nerror: {error}{launched}", lines=True), file=sys.stderr, flush=True)
        return MISUSED
    if folder is not None and os.environ.get("RANK", "0") == "0":
        print(f"{name} is done: {parts.loaded_by.format(folder=folder)}")
    return 0


def run_stage(
    name: StageName, stage: StageArguments, config: SFTConfig, model_args: ModelConfig, parts: StageParts = STOCK
) -> Path | None:
    """Runs ``stage1``, ``stage2`` or ``referee`` and returns the exported folder, or None after ``--dry-run``.

    Checkpoints and logs go to ``output_dir/training``, the judge to ``output_dir``. The same command continues a
    stopped run; a finished one is exported again.

    Args:
        stage, config, model_args: of :func:`~reward_model.training.sft.config.parse_stage`, with the options of
            ``parts``.
        parts: model, rows, collator and optimiser where they are not the stock ones.

    Raises:
        ValueError: arguments or data cannot work.
        TrainingStopped: see :mod:`reward_model.engine.guards`.
    """
    if not isinstance(stage, parts.options):
        raise ValueError(
            f"the arguments lack the options of these parts: parse_stage(..., options={parts.options.__name__})"
        )
    if stage.dry_run:
        _print_dry_run(name, stage, config, model_args, parts)
        return None
    from transformers import set_seed

    from reward_model.engine.card import model_card
    from reward_model.training.export import export_judge
    from reward_model.training.sft.trainer import run_sft

    output = Path(config.output_dir)
    work = output / "training"
    if config.deepspeed_plugin is not None:  # the settings decide; accelerate launch says 1 unless it is told more
        config.deepspeed_plugin.deepspeed_config["gradient_accumulation_steps"] = "auto"
    set_seed(config.seed)
    model, processor, judge = load_model(model_args, stage, config.seed, parts)
    data = stage_data(name, stage, config, processor, judge, parts)
    log.info("%s: %s", name, data.summary)
    config.output_dir = str(work)
    collator = parts.collator(processor, data.load, judge)
    block = parts.around(model, judge)
    if data.ordered:
        # Rows that are laid out batch by batch must come in this order.
        config.train_sampling_strategy = "sequential"
    parts.warm_up(model, processor, work, stage, model_args, config, data)
    if not data.held_out:
        config.eval_strategy = "no"
    # What trains: shown before training starts, and kept for the card.
    counted: list[str] = []
    with block:
        trainer = run_sft(
            model,
            processor,
            data.rows,
            collator,
            config,
            resume=stage.resume,
            callbacks=[*_samples(data, processor, work, stage.eval_samples), _Announce(counted)],
            eval_dataset=data.held_out or None,
            peft_config=_peft_config(model_args),
            make_optimizer=parts.optimizer(stage),
        )
    card = model_card(
        output.name,
        base_model=str(model_args.model_name_or_path),
        stage=name,
        data=data.summary,
        settings=_settings(config, model_args, trainer),
        metrics=_metrics(trainer),
        trainable=counted[0] if counted else "",
        demo_scale=data.judge.demo_scale,
        made=parts.made,
        loaded_by=parts.loaded_by.format(folder="<this folder>"),
    )
    writes, rows = trainer.is_world_process_zero(), data.rows
    # What its base was trained on is no longer all that it was trained on.
    judge = replace(data.judge, trained_on=None)
    folder = export_judge(trainer, processor, judge, output, card=card, merge_lora=stage.merge_lora)
    if name == "stage2" and writes and stage.domain_videos and stage.merge_lora:
        from reward_model.training.domain_file import domain_of_scans

        domain_of_scans(folder, rows, data.load, stage.domain_videos)
    return folder


def _print_dry_run(
    name: StageName, stage: StageArguments, config: SFTConfig, model_args: ModelConfig, parts: StageParts
) -> None:
    """The plan, what comes before it, and what is missing."""
    plan = sft_plan_config(name, stage, config, model_args, parts)
    print_plan(plan, parts.shape(plan.model))
    if note := parts.dry_run_note(model_args.model_name_or_path, stage):
        print(note)
    files = {"data": None if stage.data == WORLD else stage.data, "cot": stage.cot}
    print_missing(model_args.model_name_or_path, files, built=parts.models)


def _samples(data: StageData, processor: ProcessorMixin, work: Path, count: int) -> list[Any]:
    """The callback that shows ``count`` held-out answers; none where nothing is held out."""
    if not data.held_out or not count:
        return []
    from reward_model.training.sft.samples import SampleCallback

    rows = [data.held_out[k] for k in range(min(count, len(data.held_out)))]
    limits = (data.judge.max_scan_tokens, data.judge.max_zoom_tokens)
    longest = min(SHOWN_TOKENS, max(SHOWN_TOKENS if n is None else n for n in limits))
    return [SampleCallback(processor, data.load, rows, work / "samples", max_new_tokens=longest)]


def _peft_config(model_args: ModelConfig) -> LoraConfig | None:
    """LoRA as the settings say; None trains all weights."""
    if not model_args.use_peft:
        return None
    from reward_model.training.lora import lora_config

    return lora_config(
        r=model_args.lora_r,
        alpha=model_args.lora_alpha,
        dropout=model_args.lora_dropout,
        targets=model_args.lora_target_modules,
    )


def _Announce(kept: list[str]) -> TrainerCallback:  # noqa: N802  (a class made late, as transformers loads late)
    from transformers import TrainerCallback

    from reward_model.training.lora import describe_trainable

    class Announce(TrainerCallback):
        """Prints once what trains."""

        def on_train_begin(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            *,
            model: PreTrainedModel,
            **_: object,
        ) -> None:
            text = describe_trainable(model)
            kept.append(text)
            if state.is_world_process_zero:
                print(text, flush=True)

    return Announce()


def _settings(config: SFTConfig, model_args: ModelConfig, trainer: Trainer) -> dict[str, Any]:
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
    lora = f"r={model_args.lora_r}, alpha={model_args.lora_alpha}" if model_args.use_peft else "no, all parameters"
    return {
        "optimiser steps": trainer.state.global_step,
        "batch": batch,
        "learning rate": config.learning_rate,
        "schedule": str(getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type)),
        "LoRA": lora,
        "precision": "bf16" if config.bf16 else "float32",
        "seed": config.seed,
    }


def _metrics(trainer: Trainer) -> dict[str, float]:
    """The last held-out figures of the run, if any were measured."""
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    names = {"eval_loss": "held-out loss", "eval_mean_token_accuracy": "held-out token accuracy"}
    return {title: float(measured[-1][key]) for key, title in names.items() if measured and key in measured[-1]}
