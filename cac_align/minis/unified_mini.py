"""Builds unified-mini: a small UnifiedReward judge, trained on the procedural world by the aps protocol, in our words.

    from cac_align.minis.unified_mini import build_unified_mini
    build_unified_mini("assets/unified-mini", "outputs/minis/unified", judge="assets/cac-mini")

Steps: take the vision tower of a trained mini judge, train everything on questions and exact answers with the trainer
of stages 1 and 2 in two rounds (words and scores; then scores alone, with slow motion), measure the folder on reserved
videos through :class:`~cac_align.UnifiedReward`, write its card. The same call continues where a killed one stopped, to
the same weights.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.minis.unified_card import write_unified_card
from cac_align.minis.unified_config import build_unified, picture_side
from cac_align.minis.unified_data import first_rows, make_score_example, second_rows
from cac_align.minis.unified_measure import measure_unified
from cac_align.minis.unified_settings import UnifiedMiniConfig
from reward_model.config import UNIFIED_FILE
from reward_model.files import atomic_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, ProcessorMixin

log = logging.getLogger(__name__)


def build_unified_mini(
    output_dir: str | Path,
    work_dir: str | Path,
    *,
    judge: str | Path = "assets/cac-mini",
    seed: int = 0,
    scale: float = 1.0,
    resume: bool = True,
    config: UnifiedMiniConfig | None = None,
) -> Path:
    """Trains unified-mini on the CPU and writes it for ``UnifiedReward(output_dir)``.

    Args:
        output_dir: receives the checkpoint (about 7 MB of safetensors), its card with it.
        work_dir: checkpoints and TensorBoard logs; safe to delete afterwards.
        judge: folder of a trained mini judge whose vision tower to start from; ``"mini"`` or ``"tiny"``: an untrained
            one of that size.
        seed: seed of initial weights and of the samples.
        scale: multiplies the steps and the test videos.
        resume: continue from what ``work_dir`` holds; False trains anew.
        config: other numbers than the recipe's.

    Raises:
        ValueError: if ``scale`` is not above zero, or there is no such judge.
        TrainingStopped: see :mod:`reward_model.engine.guards`.

    Example:
        >>> build_unified_mini("/tmp/unified", "/tmp/unified-work", scale=0.001)  # doctest: +SKIP
    """
    chosen = (config or UnifiedMiniConfig()).scaled(scale)
    if not resume:
        shutil.rmtree(work_dir, ignore_errors=True)
    model, processor = train_unified(Path(work_dir), judge, chosen, seed)
    folder = Path(output_dir)
    with atomic_folder(folder) as fresh:
        export(model, processor, fresh)
        found = measure_unified(fresh, num_videos=chosen.num_test_videos)
        write_unified_card(fresh, found, chosen, judge=Path(judge).name, seed=seed)
    return folder


def train_unified(work: Path, judge: str | Path, config: UnifiedMiniConfig, seed: int) -> tuple[Any, Any]:
    """The model after both rounds, and its processor. Continues from the last complete checkpoint in ``work`` and, of
    the second round, in ``work/second``.
    """
    from transformers import set_seed

    set_seed(seed)
    model, processor = build_unified(judge, seed=seed)
    rows = first_rows(config.max_steps * config.batch_size, seed=seed)
    model = _train(work, model, processor, rows, config, seed)
    if config.second_steps:
        again = replace(
            config,
            max_steps=config.second_steps,
            learning_rate=config.second_rate * config.learning_rate,
            matrix_lr=config.second_rate * config.matrix_lr,
        )
        rows = second_rows(again.max_steps * again.batch_size, seed=seed + 1)
        set_seed(seed + 1)
        model = _train(work / "second", model, processor, rows, again, seed + 1)
    return model, processor


def _train(
    work: Path, model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset, config: UnifiedMiniConfig, seed: int
) -> PreTrainedModel:
    from reward_model.minis.collator import MiniCollator, use_equal_images
    from reward_model.minis.optimizer import MiniOptimizer
    from reward_model.training.sft.trainer import run_sft, sft_config

    side = picture_side(processor)
    collator = MiniCollator(
        processor, partial(make_score_example, side=side), side // processor.image_processor.patch_size
    )
    log.info("unified-mini: %d samples, %d parameters", len(rows), sum(p.numel() for p in model.parameters()))
    settings = sft_config(
        work,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=max(1, config.max_steps // 30),
        save_steps=config.save_steps,
        train_sampling_strategy="sequential",
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=seed,
    )
    with use_equal_images(model):
        trainer = run_sft(
            model,
            processor,
            rows,
            collator,
            settings,
            make_optimizer=MiniOptimizer(config.matrix_lr, config.vision_lr_scale),
        )
    return trainer.model


def export(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Writes what ``UnifiedReward`` and stock transformers load."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / UNIFIED_FILE).write_text('{"protocol": "aps", "demo_scale": true}\n', encoding="utf-8")
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)
