"""The way of a new user: own videos, made into annotated data, two stages of training, a reward that gives numbers."""

import math
from pathlib import Path

import numpy as np
import pytest

from cac_align import CaCReward
from reward_model.data.annotations import read_annotations, validate_annotations
from reward_model.data.corruptions import corrupt_folder
from reward_model.minis.stages import MINI
from reward_model.schema import AnomalyType
from reward_model.training.sft.config import parse_stage
from reward_model.training.sft.run import run_stage
from reward_model.video.writing import write_video

ROOT = Path(__file__).resolve().parents[1]
NUM_VIDEOS, LENGTH, SIZE = 10, 40, 96


def moving_texture(seed: int) -> np.ndarray:
    """Something textured that moves over a textured ground, (T, H, W, 3) uint8; unlike anything the project draws."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [np.sin(2 * np.pi * (a * xx + b * yy) + c) for a, b, c in rng.uniform(1, 5, (3, 3))]
    ground = 110 + 35 * np.stack(waves, -1)
    patch = rng.uniform(0, 255, (9, 9, 3)).repeat(4, 0).repeat(4, 1)
    start, speed = rng.uniform(20, 40, 2), rng.uniform(-0.7, 0.7, 2)
    frames = []
    for t in range(LENGTH):
        frame = ground.copy()
        y, x = np.clip(np.round(start + speed * t), 0, SIZE - 36).astype(int)
        disc = np.hypot(*np.mgrid[-18:18, -18:18]) < 17
        frame[y : y + 36, x : x + 36][disc] = patch[disc]
        frames.append(frame)
    return np.clip(frames, 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_from_ten_videos_to_a_reward(tmp_path):
    footage = tmp_path / "footage"
    footage.mkdir()
    for k in range(NUM_VIDEOS):
        write_video(footage / f"{k}.mp4", moving_texture(k), 16)
    annotations = corrupt_folder(footage, tmp_path / "data", per_video=1, kinds=[AnomalyType.OBJECT], seed=0)
    assert not validate_annotations(annotations).errors
    statuses = [r.truth.status for r in read_annotations(annotations)]
    assert statuses.count("normal") == statuses.count("abnormal") >= 3

    common = ["--data", str(annotations), "--max_steps", "3", "--save_steps", "3", "--disable_tqdm", "true"]
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    for name, start, output in (("stage1", ROOT / "assets" / "cac-mini", first), ("stage2", first, second)):
        config = ["--config", str(ROOT / "recipes" / "configs" / name / "mini_own.yaml")]
        given = [*config, "--model_name_or_path", str(start), "--output_dir", str(output), *common]
        given += ["--reading_warmup_steps", "2"] if name == "stage2" else []
        run_stage(name, *parse_stage(given, options=MINI.options), MINI)

    reward = CaCReward(second, device="cpu")
    (score,) = reward([footage / "0.mp4"], ["a textured disc drifts"])
    assert score is not None and math.isfinite(score) and 0 <= score <= 1
