"""Stages 1 and 2 from their arguments to an exported judge: load, check, train, resume, evaluate, export."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.engine.guards import TrainingStopped, last_complete_checkpoint
from reward_model.shipped import recipes_folder
from reward_model.terminal.program import LAUNCHED, LAUNCHER_SETS, MISUSED, printable
from reward_model.training.missing import print_missing
from reward_model.training.plan import print_plan
from reward_model.training.sft.config import WORLD, StageArguments, load_model, parse_stage, plan_config
from reward_model.training.sft.data import stage_data

if TYPE_CHECKING:
    from reward_model.data.stage_split import Stage

log = logging.getLogger(__name__)

#: Longest answer that is generated to be looked at; a full one would hold up an evaluation for minutes.
SHOWN_TOKENS = 1024


def run_recipe(name: Stage, arguments: Sequence[str] | None = None) -> int:
    """:func:`run_stage` from a command line: exit code 0, or 2 after a line of its own that says what is wrong. Ends in
    :class:`~reward_model.engine.interrupts.Interrupted` where a signal stopped it.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("httpx", "datasets", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        folder = run_stage(name, *parse_stage(arguments, recipes_folder() / "configs" / name))
    except (ValueError, OSError, TrainingStopped) as error:
        launched = LAUNCHED if LAUNCHER_SETS in os.environ else ""
        print(printable(f"\nerror: {error}{launched}", lines=True), file=sys.stderr, flush=True)
        return MISUSED
    if folder is not None and os.environ.get("RANK", "0") == "0":
        print(f'{name} is done: CaCReward("{folder}")')
    return 0


def run_stage(name: Stage, stage: StageArguments, config: Any, model_args: Any) -> Path | None:
    """Runs ``stage1`` or ``stage2`` and returns the exported folder, or None after ``--dry-run``.

    Checkpoints and logs go to ``output_dir/training``, the judge to ``output_dir``. The same command continues a
    stopped run; a finished one is exported again.

    Raises:
        ValueError: arguments or data cannot work.
        TrainingStopped: see :mod:`reward_model.engine.guards`.
    """
    if stage.dry_run:
        print_plan(plan_config(name, stage, config, model_args))
        _print_warm_ups(stage, model_args)
        files = {"data": None if stage.data == WORLD else stage.data, "cot": stage.cot}
        print_missing(model_args.model_name_or_path, files)
        return None
    from transformers import set_seed

    from reward_model.training.export import export_judge, model_card
    from reward_model.training.lora import describe_trainable, lora_config
    from reward_model.training.sft.samples import SampleCallback
    from reward_model.training.sft.trainer import AnswerCollator, run_sft

    output = Path(config.output_dir)
    work = output / "training"
    if config.deepspeed_plugin is not None:  # the settings decide; accelerate launch says 1 unless it is told more
        config.deepspeed_plugin.deepspeed_config["gradient_accumulation_steps"] = "auto"
    set_seed(config.seed)
    model, processor, judge = load_model(model_args, stage, config.seed)
    data = stage_data(name, stage, config, processor, judge)
    log.info("%s: %s", name, data.summary)
    config.output_dir = str(work)
    collator: Any = AnswerCollator(processor, data.load)
    block: Any = contextlib.nullcontext()
    if judge.demo_scale:
        from reward_model.minis.collator import MiniCollator, use_equal_images

        collator, block = MiniCollator(processor, data.load), use_equal_images(model)
    if data.ordered:
        # The rows of the world are laid out batch by batch; see mini_data.stage2_rows.
        config.train_sampling_strategy = "sequential"
    if model_args.model_name_or_path in ("mini", "tiny"):
        _warm_up(model, processor, work, stage, config)
    held = data.held_out
    if held is None or not len(held):
        held = None
        config.eval_strategy = "no"
    callbacks = []
    if held is not None and stage.eval_samples:
        rows = [held[k] for k in range(min(stage.eval_samples, len(held)))]
        limits = (data.judge.max_scan_tokens, data.judge.max_zoom_tokens)
        longest = min(SHOWN_TOKENS, max(SHOWN_TOKENS if n is None else n for n in limits))
        callbacks.append(SampleCallback(processor, data.load, rows, work / "samples", max_new_tokens=longest))
    peft_config = None
    if model_args.use_peft:
        peft_config = lora_config(
            r=model_args.lora_r,
            alpha=model_args.lora_alpha,
            dropout=model_args.lora_dropout,
            targets=model_args.lora_target_modules,
        )
    # Shown before training starts, and kept for the card.
    counted: list[str] = []
    callbacks.append(_Announce(counted, describe_trainable))
    with block:
        trainer = run_sft(
            model,
            processor,
            data.rows,
            collator,
            config,
            resume=stage.resume,
            callbacks=callbacks,
            eval_dataset=held,
            peft_config=peft_config,
            vision_lr_scale=stage.vision_lr_scale,
            matrix_lr=stage.matrix_lr,
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
    )
    return export_judge(trainer, processor, data.judge, output, card=card, merge_lora=stage.merge_lora)


def _Announce(kept: list[str], describe: Any) -> Any:  # noqa: N802  (a class made late, as transformers loads late)
    from transformers import TrainerCallback

    class Announce(TrainerCallback):
        """Prints once what trains."""

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            text = describe(model)
            kept.append(text)
            if state.is_world_process_zero:
                print(text, flush=True)

    return Announce()


def _warm_up(model: Any, processor: Any, work: Path, stage: StageArguments, config: Any) -> None:
    """The mini's warm-ups, vision and then reading, each kept in the work folder, also while it runs; not needed where
    a checkpoint already holds their result.
    """
    from safetensors.torch import load_model as load_weights

    from reward_model.minis.collator import MiniCollator
    from reward_model.minis.rows import make_example
    from reward_model.minis.warm_up_reading import warm_up_reading
    from reward_model.minis.warm_up_state import forget_state
    from reward_model.minis.warm_up_vision import warm_up_vision

    if stage.resume and last_complete_checkpoint(work):
        return
    collator = MiniCollator(processor, make_example)
    phases = (
        ("warmup", stage.vision_warmup_steps, model.model.visual, warm_up_vision),
        ("reading", stage.reading_warmup_steps, model, warm_up_reading),
    )
    done = [name for name, steps, _, _ in phases if steps and (work / f"{name}.safetensors").exists()]
    for name, steps, part, warm_up in phases:
        kept, state = work / f"{name}.safetensors", work / f"{name}-state.safetensors"
        if not stage.resume or name in done:
            forget_state(state)
        if not steps or (stage.resume and "reading" in done and name == "warmup"):
            continue
        if stage.resume and name in done:
            load_weights(part, str(kept))
            continue
        share = warm_up(
            model,
            collator,
            steps=steps,
            seed=config.seed,
            num_workers=config.dataloader_num_workers,
            state_file=state,
            progress=not config.disable_tqdm,
        )
        log.info("%s: %.1f %% of states named right", warm_up.__name__, 100 * share)
        if os.environ.get("RANK", "0") == "0":
            _keep(part, kept)
            forget_state(state)


def _print_warm_ups(stage: StageArguments, model_args: Any) -> None:
    """What a model from nothing does before the steps of the plan."""
    counts = {"vision": stage.vision_warmup_steps, "reading": stage.reading_warmup_steps}
    told = [f"{steps:,} steps of the {name} warm-up" for name, steps in counts.items() if steps]
    if told and model_args.model_name_or_path in ("mini", "tiny"):
        print(f"Before them: {' and '.join(told)}.")


def _keep(part: Any, path: Path) -> None:
    from safetensors.torch import save_model

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_model(part, str(partial))
    partial.replace(path)


def _settings(config: Any, model_args: Any, trainer: Any) -> dict[str, Any]:
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


def _metrics(trainer: Any) -> dict[str, float]:
    """The last held-out figures of the run, if any were measured."""
    measured = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    names = {"eval_loss": "held-out loss", "eval_mean_token_accuracy": "held-out token accuracy"}
    return {title: float(measured[-1][key]) for key, title in names.items() if measured and key in measured[-1]}
