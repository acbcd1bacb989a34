"""Builds the mini judge from nothing: vision warm-up, stage 1 (frames, short clips), stage 2 (videos, zooms), export.

    python recipes/build_minis.py --only judge --output assets

Every phase leaves its result in the work folder; a run that was stopped continues at the last Trainer checkpoint. On a
CPU the result is a function of the seed and the number of threads.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from reward_model.prompts import load_prompts
from reward_model.training.judge_folder import write_judge
from reward_model.training.mini_batch import MiniCollator, use_equal_images
from reward_model.training.mini_config import build_judge, judge_settings
from reward_model.training.mini_data import make_example, stage1_rows, stage2_rows
from reward_model.training.mini_warmup import warm_up_vision
from reward_model.training.sft import run_sft, sft_config

log = logging.getLogger(__name__)

#: Optimiser steps of the three phases at ``scale=1``.
WARMUP_STEPS, STAGE1_STEPS, STAGE2_STEPS = 2400, 400, 4000
STAGE1_BATCH, STAGE2_BATCH = 32, 16
#: The tower has seen 100,000 frames when an untrained language model begins to pull at it: it gets small steps.
VISION_LR_SCALE = 0.1
#: Processes that draw samples ahead of the training.
NUM_WORKERS = 1


def build_cac_mini(
    output_dir: str | Path,
    work_dir: str | Path,
    *,
    seed: int = 0,
    device: str | None = None,
    scale: float = 1.0,
    resume: bool = True,
) -> Path:
    """Trains the mini judge and writes its checkpoint folder.

    Args:
        output_dir: parent of the checkpoint; the result is ``output_dir/cac-mini``.
        work_dir: Trainer checkpoints, TensorBoard logs and the result of each phase.
        seed: of weights, samples and order.
        device: ``"cpu"`` or ``"cuda"``; None lets the Trainer choose.
        scale: multiplies the number of steps; 0.01 makes a smoke test of the whole path.
        resume: reuse what ``work_dir`` already holds; False starts over.

    Returns:
        The checkpoint folder.
    """
    work = Path(work_dir)
    if not resume and work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    model, processor = build_judge("mini", seed=seed)
    collator = MiniCollator(processor, make_example)
    started = time.monotonic()

    if not _restore(model, work / "warmup.safetensors"):
        share = warm_up_vision(model, collator, steps=_steps(WARMUP_STEPS, scale), seed=seed, num_workers=NUM_WORKERS)
        log.info("vision warm-up: %.1f %% of frame states right after %.0f s", 100 * share, time.monotonic() - started)
        _keep(model, work / "warmup.safetensors")
    with use_equal_images(model):
        for name in ("stage1", "stage2"):
            if not _restore(model, work / f"{name}.safetensors"):
                _train_stage(
                    name, model, processor, collator, work, scale=scale, seed=seed, device=device, resume=resume
                )
                log.info("%s done after %.0f s", name, time.monotonic() - started)
                _keep(model, work / f"{name}.safetensors")
    return save_judge(model.cpu(), processor, Path(output_dir) / "cac-mini")


def stage_settings(name: str, steps: int) -> dict[str, Any]:
    """SFTConfig arguments of a stage of the mini (full-size settings are in the recipes)."""
    batch = {"stage1": STAGE1_BATCH, "stage2": STAGE2_BATCH // 2}[name]
    return {
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": {"stage1": 1, "stage2": 2}[name],
        "learning_rate": {"stage1": 2e-3, "stage2": 1.5e-3}[name],
        "warmup_steps": max(1, steps // 30),
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": False,
        "save_steps": 250,
        "dataloader_num_workers": NUM_WORKERS,
    }


def _train_stage(
    name: str,
    model: Any,
    processor: Any,
    collator: MiniCollator,
    work: Path,
    *,
    scale: float,
    seed: int,
    device: str | None,
    resume: bool,
) -> None:
    steps = _steps({"stage1": STAGE1_STEPS, "stage2": STAGE2_STEPS}[name], scale)
    rows = {"stage1": stage1_rows, "stage2": stage2_rows}[name]
    dataset = rows(steps, {"stage1": STAGE1_BATCH, "stage2": STAGE2_BATCH}[name], seed=1000 * seed + int(name[-1]))
    config = sft_config(work / name, seed=seed, use_cpu=device == "cpu", **stage_settings(name, steps))
    run_sft(model, processor, dataset, collator, config, resume=resume, vision_lr_scale=VISION_LR_SCALE)


def save_judge(model: Any, processor: Any, folder: str | Path) -> Path:
    """Writes a loadable checkpoint folder with ``judge.json``, replacing an older one in a single rename; a
    README.md found there is kept.
    """
    return write_judge(model, processor, folder, judge_settings(load_prompts("compact").version))


def _steps(steps: int, scale: float) -> int:
    return max(2, round(steps * scale))


def _keep(model: Any, path: Path) -> None:
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    partial = path.with_suffix(".part")
    save_file(weights, partial)
    partial.rename(path)


def _restore(model: Any, path: Path) -> bool:
    if not path.exists():
        return False
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise ValueError(
            f"{path} does not fit the mini judge (missing {missing}, unexpected {unexpected}); "
            "remove it or pass resume=False"
        )
    with torch.no_grad():
        model.tie_weights()
    return True
