"""The model card of a judge that looks itself: from what, on what, how, and the numbers of its rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reward_model.engine.card import model_card
from reward_model.journal import read_lines
from reward_model.training.active.trainer import ROUNDS, ActiveTrainer
from reward_model.training.lora import describe_trainable

#: Numbers of a round that are shown, and what they are called there.
SHOWN = {
    "round/accuracy": "accuracy of drawn episodes",
    "round/utility": "mean utility",
    "round/operators": "operators an episode",
    "round/operators_easy": "operators on easy videos",
    "round/frames": "frames an episode",
    "round/pairs": "pairs",
    "held_out/implicit_accuracy": "held-out pairs that come out right",
}


def active_card(trainer: ActiveTrainer, settings: Mapping[str, Any]) -> str:
    """The README.md of the judge that :meth:`ActiveTrainer.export` writes; to be made before that merges adapters.

    Args:
        trainer: after training.
        settings: what :func:`~reward_model.training.active.setup.open_active_trainer` was given.
    """
    config, data, mixed = trainer.config, settings["data"], trainer.accelerator.mixed_precision
    options = ", ".join(f"{name} {value}" for name, value in data.items() if name not in ("source", "cache_dir"))
    return model_card(
        Path(config.output_dir).name,
        base_model=str(settings["model"]),
        stage="active",
        method="cold start and interactive preference optimisation (iDPO)",
        data=f"{len(trainer.dataset)} videos of source {data.get('source')!r}" + (f" ({options})" if options else ""),
        settings={
            "cold start": f"{config.cold_steps} x {config.cold_batch} episodes, rate {config.cold_learning_rate:g}",
            "rounds": f"{config.rounds} x {config.round_videos} videos x {config.num_generations} episodes",
            "updates of a round": f"{config.round_steps} x {config.pairs_per_step}, rate {config.learning_rate:g}",
            "beta, margin, supervised": f"{config.beta:g}, {config.margin:g}, {config.supervised:g}",
            "information": config.information,
            "turn weights (phi)": config.phi,
            "temperature": config.temperature,
            "LoRA": f"r={config.lora_r}, alpha={config.lora_alpha}" if config.use_lora else "no",
            "precision": settings.get("dtype", "float32") if mixed == "no" else mixed,
            "seed": config.seed,
        },
        metrics=round_table(Path(config.output_dir)),
        measured="each round's own episodes, on training videos, drawn at a temperature before the round learned",
        trainable=describe_trainable(trainer.accelerator.unwrap_model(trainer.policy).model),
        demo_scale=trainer.judge_config.demo_scale,
    )


def round_table(output_dir: Path) -> dict[str, float]:
    """The numbers of :data:`SHOWN` of every round; empty without a log."""
    path = output_dir / ROUNDS
    lines = [json.loads(line) for line in read_lines(path)] if path.is_file() else []
    return {
        f"round {row['round']}: {title}": float(row[key]) for row in lines for key, title in SHOWN.items() if key in row
    }
