"""The model card of a judge that stage 3 has trained: from what, on what, how, and the numbers of its last step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward_model.engine.card import model_card
from reward_model.engine.run_log import METRICS
from reward_model.journal import read_lines
from reward_model.training.grpo.trainer import GrpoTrainer
from reward_model.training.lora import describe_trainable

#: Numbers of the log that are shown, and what they are called there.
SHOWN = {
    "reward/mean": "reward",
    "rollouts/status_right": "share of rollouts with the right status",
    "overlap/type_scan": "type overlap, turn one",
    "overlap/temporal": "temporal overlap",
    "overlap/spatial": "spatial overlap",
    "policy/kl": "KL to the reference",
}


def grpo_card(trainer: GrpoTrainer, settings: Mapping[str, Any]) -> str:
    """The README.md of the judge that :meth:`GrpoTrainer.export` writes; to be made before that merges adapters.

    Args:
        trainer: after training.
        settings: what :func:`~reward_model.training.grpo.setup.open_trainer` was given.
    """
    config, data, mixed = trainer.config, settings["data"], trainer.accelerator.mixed_precision
    lora = f"r={config.lora_r}, alpha={config.lora_alpha}" if config.use_lora else "no"
    groups = f"{config.prompts_per_step} prompts x {config.num_generations} rollouts"
    options = ", ".join(f"{name} {value}" for name, value in data.items() if name not in ("source", "cache_dir"))
    return model_card(
        Path(config.output_dir).name,
        base_model=str(settings["model"]),
        stage="stage3",
        method="two-turn GRPO",
        data=f"{len(trainer.dataset)} prompts of source {data.get('source')!r}" + (f" ({options})" if options else ""),
        settings={
            "steps": trainer.step,
            "a step": f"{groups}, {config.num_iterations} update(s)",
            "learning rate": config.learning_rate,
            "schedule": config.lr_scheduler_type,
            "KL weight (beta)": config.beta,
            "temperature": config.temperature,
            "LoRA": lora,
            "precision": settings.get("dtype", "float32") if mixed == "no" else mixed,
            "seed": config.seed,
        },
        metrics=last_numbers(Path(config.output_dir)),
        measured="the last step's own rollouts, on training prompts",
        trainable=describe_trainable(trainer.accelerator.unwrap_model(trainer.policy).model),
        demo_scale=trainer.judge_config.demo_scale,
    )


def last_numbers(output_dir: Path) -> dict[str, float]:
    """The last step of the log, by the names of :data:`SHOWN`; empty without a log."""
    lines = read_lines(output_dir / METRICS)
    last = json.loads(lines[-1]) if lines else {}
    return {title: float(last[key]) for key, title in SHOWN.items() if key in last}
