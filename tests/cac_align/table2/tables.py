"""Tiny real tables: a WanPipeline of a few thousand weights in a folder, rewards that read pixels, one step of
training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cac_align.table2.job import TableJob
from cac_align.table2.settings import TableSettings
from cac_align.table2.training import Training

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "recipes" / "flow_grpo.py"
TOYS = "tests.cac_align.table2.tables"

FLOW = """
model: {model}
prompts: {prompts}
height: 16
width: 16
num_frames: 5
num_inference_steps: 3
guidance_scale: 3.0
kernel: cps
noise_level: 0.7
window_size: 1
batch: 1x2
sample_batch_size: 2
max_sequence_length: 16
max_steps: 1
lora_r: 2
lora_alpha: 4
learning_rate: 0.01
ema_every: 1
ema_decay: 0
log_videos_every: 0
reward_mode: sync
save_every: 1
"""


def brightness(videos: Any, prompts: Any = None, *, fps: float, **kwargs: Any) -> list[float | None]:
    """Mean brightness; with COUNT set, a line in that file for each video that is asked about."""
    _count("bright", len(videos))
    return [float(np.asarray(v, float).mean()) / 255 for v in videos]


def redness(videos: Any, prompts: Any = None, *, fps: float, **kwargs: Any) -> list[float | None]:
    """Share of red; None for the second video of a call."""
    _count("red", len(videos))
    return [None if k == 1 else float(v[..., 0].mean() / (v.mean() * 3 + 1)) for k, v in enumerate(videos)]


def _count(name: str, num: int) -> None:
    import os

    if path := os.environ.get("TABLE_TEST_COUNT"):
        with Path(path).open("a") as file:
            file.write(f"{name}\n" * num)


def write_inputs(folder: Path) -> Path:
    """Pipeline, prompts and Flow-GRPO's settings; returns the settings' path."""
    from tests.cac_align.flow_grpo.runs import PROMPTS, tiny_pipe

    tiny_pipe().save_pretrained(folder / "pipe")
    (folder / "train.txt").write_text("\n".join(PROMPTS) + "\n")
    (folder / "eval.txt").write_text("a red square bounces\na blue ball moves left\n")
    path = folder / "flow.yaml"
    path.write_text(FLOW.format(model=folder / "pipe", prompts=folder / "train.txt"))
    return path


def settings(inputs: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A table of every kind of row."""
    return {
        "output_dir": str(output),
        "flow_grpo": str(inputs / "flow.yaml"),
        "eval_prompts": str(inputs / "eval.txt"),
        "eval_seeds": [0, 1],
        "rewards": [
            {"reward": f"{TOYS}:brightness", "name": "bright"},
            {"reward": f"{TOYS}:redness", "name": "red"},
        ],
        "judge": None,
        "rows": [
            {"name": "base"},
            {"name": "BoN bright", "kind": "best_of_n", "rewards": ["bright"]},
            {"name": "BoN both", "kind": "best_of_n", "rewards": ["bright", {"reward": "red", "weight": 2}]},
            {"name": "GRPO bright", "kind": "flow_grpo", "rewards": ["bright"]},
        ],
        "columns": ["motion_energy", "edge_density"],
        "motion": "motion_energy",
        "n": 3,
        "num_resamples": 200,
        **changes,
    }


def make_job(inputs: Path, output: Path, **changes: Any) -> TableJob:
    return TableJob(TableSettings(**settings(inputs, output, **changes)), SCRIPT, say=lambda text: None)


def train_here(training: Training) -> None:
    """The training in this process, as the recipe does it."""
    from cac_align.flow_grpo.trainer import FlowGRPOTrainer

    trainer = FlowGRPOTrainer(training.config)
    trainer.train()
    trainer.export(training.lora)
    training.finish()
