"""Tiny pairs: moving waves are chosen, flat videos rejected, 16x16 pixels, 5 frames at 16 fps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cac_align.corpus.pair_files import JudgedPair, write_pairs
from cac_align.corpus.table_files import path_from
from cac_align.preference.config import PreferenceConfig
from cac_align.preference.trainer import PreferenceTrainer
from reward_model.video.writing import write_video
from tests.cac_align.flow_grpo.runs import PROMPTS, _texts, shallow_pipe

#: What a judge found in the rejected videos: the last latent frame, its left half.
FOUND = {
    "anomalies": [
        {
            "type": "Object Distortion",
            "first_frame": 1,
            "last_frame": 4,
            "start_s": 0.06,
            "end_s": 0.31,
            "reason": "it is flat",
        }
    ],
    "boxes": [{"type": "Object Distortion", "frame": 2, "x0": 0, "y0": 0, "x1": 500, "y1": 1000}],
    "num_frames": 5,
}


def video(moving: bool, number: int = 0, frames: int = 5, height: int = 16, width: int = 16) -> np.ndarray:
    """(T, H, W, 3) uint8."""
    x = np.arange(width)
    wave = [np.tile(127 + 100 * np.sin((x + 2 * t + number) / 3), (height, 1)) for t in range(frames)]
    level = np.stack(wave) if moving else np.full((frames, height, width), 60.0 + 9 * number)
    return np.repeat(level[..., None], 3, -1).astype(np.uint8)


def write(folder: Path, numbers: Any = (0, 1, 2), name: str = "pairs.jsonl", form: str = "preference") -> Path:
    """Videos and a file of pairs of them."""
    pairs = []
    for k in numbers:
        rows = {}
        for side, moving in (("chosen", True), ("rejected", False)):
            file = folder / "videos" / f"{side}-{k}.mp4"
            write_video(file, video(moving, k), 16)
            rows[side] = {"video": path_from(Path(), str(file)), "prompt": PROMPTS[k % len(PROMPTS)], "num_frames": 5}
        pairs.append(JudgedPair(rows["chosen"], rows["rejected"] | FOUND, {"score": 0.5}))
    write_pairs(folder / name, pairs, form)
    return folder / name


def settings(folder: Path, pairs: Path, **changes: Any) -> PreferenceConfig:
    base = {
        "output_dir": str(folder),
        "pairs": str(pairs),
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "max_sequence_length": 16,
        "text_cache": _texts().name,
        "max_steps": 4,
        "batch_size": 2,
        "train_batch_size": 2,
        "learning_rate": 1e-2,
        "lora_r": 4,
        "lora_alpha": 8,
        "ema_decay": 0.5,
        "ema_every": 1,
        "save_every": 2,
        "log_videos_every": 0,
        "report_to": "none",
    }
    return PreferenceConfig.from_dict({**base, **changes})


def build(folder: Path, pairs: Path, pipe: Any = None, **changes: Any) -> PreferenceTrainer:
    return PreferenceTrainer(settings(folder, pairs, **changes), pipe=pipe or shallow_pipe())
