"""Training samples of unified-mini: rows that name a video, its prompt and its damage, and the answer that follows.

A row is a few numbers; frames are drawn when they are asked for, so a data set of any size costs no disk and the same
row always gives the same sample. The truth is exact:

* alignment: 1 + the slots of the prompt (colour, thing, action, background) that the video agrees with; of an
  action in slow motion a part counts, and at half its pace nothing;
* physics: 5 - 4 x roughness, the smoothness in time of the frames that are shown (:mod:`.unified_damage`);
* style: 5 - 4 x the strength of blur, noise or blocks.

Half of the rows have a wrong prompt, half a damaged time, half damaged pictures, drawn independently. Anomalies never
occur: a thing that is squashed or vanishes is what a general reward is not trained to see.

Early in training many rows ask for the prompt instead of the scores. A full-size judge starts from a model that can
describe a video; this one starts from noise, and three numbers a video say little about what words mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms.v2 import functional

from cac_align.minis.unified_captions import agreement, change_slots, read_caption
from cac_align.minis.unified_damage import (
    PICTURE_KINDS,
    TIME_KINDS,
    Timing,
    brighten,
    damage_pictures,
    draw_timing,
    roughness,
)
from cac_align.minis.unified_tokenizer import DESCRIBE, ApsScores, write_answer
from reward_model.conversation import Message
from reward_model.data.example import Example
from reward_model.unified.protocols import APS
from reward_model.world import make_scene
from reward_model.world.kinds import SETTINGS
from reward_model.world.scene import Scene
from reward_model.world.video import SIZE, render

#: Seeds of the world that no other training and no bench uses; the second range is kept for measuring.
TRAIN_SEEDS, TEST_SEEDS = range(2_000_000, 2_800_000), range(2_900_000, 3_000_000)
#: Videos with anomalies and their twins are drawn from here on, for measuring only.
FIRST_ANOMALY_SEED = 3_000_000
#: Side in pixels of the mini generator's videos.
SMALL_SIZE = 32
#: Share of videos of the mini generator's setting, one thing on a plain background.
SINGLE = 0.7
#: How often 1, 2, 3 or 4 slots of a wrong prompt are wrong, and how often it is the prompt of another scene.
WRONG = (0.4, 0.25, 0.2, 0.15)
ELSEWHERE = 0.1
NUM_FRAMES = 81
#: Share of slow motion among damages of time. The first round of training has none. A generator finds slowness by
#: itself, as little goes wrong with things that hardly move, so it must cost something.
SLOW = 0.4
#: Share of rows that ask for the prompt: at first, and the share of training after which there are none.
DESCRIBED, DESCRIBED_UNTIL = 0.8, 0.6

Row = dict[str, Any]


def draw_score_rows(count: int, *, seed: int, seeds: range = TEST_SEEDS, single: float = SINGLE) -> Dataset:
    """Rows that ask for scores; a function of the arguments alone.

    Args:
        count: how many.
        seed: seed of the draw.
        seeds: seeds of the world's videos.
        single: share of videos of the mini generator's setting.
    """
    rng = np.random.default_rng([seed, 41])
    return Dataset.from_list([_draw_row(rng, seeds, single, SLOW) for _ in range(count)])


def first_rows(count: int, *, seed: int) -> Dataset:
    """Rows of the first round in the order of training: fewer and fewer of them ask for the prompt, none is slow."""
    rng = np.random.default_rng([seed, 42])
    shares = DESCRIBED * np.maximum(0, 1 - np.arange(count) / max(DESCRIBED_UNTIL * count, 1))
    asked = np.where(rng.random(count) < shares, "describe", "rate")
    rows = [{**_draw_row(rng, TRAIN_SEEDS, SINGLE, slow=0), "task": str(task)} for task in asked]
    return Dataset.from_list(rows)


def second_rows(count: int, *, seed: int) -> Dataset:
    """Rows of the second round: all ask for scores, and slow motion is among the damages."""
    rng = np.random.default_rng([seed, 44])
    return Dataset.from_list([_draw_row(rng, TRAIN_SEEDS, SINGLE, SLOW) for _ in range(count)])


def _draw_row(rng: np.random.Generator, seeds: range, single: float, slow: float) -> Row:
    setting = "single" if rng.random() < single else str(rng.choice(SETTINGS[1:]))
    row = {
        "task": "rate",
        "seed": int(rng.integers(seeds.start, seeds.stop)),
        "setting": setting,
        "size": SMALL_SIZE if rng.random() < (0.8 if setting == "single" else 0.2) else SIZE,
        "num_frames": int(4 * rng.integers(8, 25) + 1) if rng.random() < 0.1 else NUM_FRAMES,
        "num_wrong": int(rng.choice(4, p=WRONG)) + 1 if rng.random() < 0.5 else 0,
        "elsewhere": -1,
        "time": "",
        "time_strength": float(rng.random()),
        "picture": str(rng.choice(PICTURE_KINDS)) if rng.random() < 0.5 else "",
        "picture_strength": float(rng.random()),
        "draw": int(rng.integers(2**31)),
    }
    if row["num_wrong"] and rng.random() < ELSEWHERE:
        row["elsewhere"] = int(rng.integers(seeds.start, seeds.stop))
    if rng.random() < 0.5:
        row["time"] = _draw_time(rng, slow) if _moves(undamaged_scene(row)) else "flicker"
    return row


def _draw_time(rng: np.random.Generator, slow: float) -> str:
    """A kind of damage to time; slow motion with its own share, the others alike."""
    others = TIME_KINDS[:-1]
    if not slow:
        return str(rng.choice(others))
    return str(rng.choice(TIME_KINDS, p=[*[(1 - slow) / len(others)] * len(others), slow]))


def _moves(scene: Scene) -> bool:
    """True if its main actor shows that the order of the frames is wrong."""
    action = read_caption(scene.prompt).action
    return action != "stands" and not action.startswith("that reads")


def undamaged_scene(row: Mapping[str, Any]) -> Scene:
    """The undamaged scene of a row."""
    return make_scene(row["seed"], setting=row["setting"], num_frames=row["num_frames"])


def prompt_of(row: Mapping[str, Any]) -> str:
    """Prompt of a row's video."""
    right = read_caption(undamaged_scene(row).prompt)
    if row["elsewhere"] >= 0:
        return make_scene(row["elsewhere"]).prompt
    return str(change_slots(right, row["num_wrong"], np.random.default_rng([row["draw"], 1])))


def timing_of(row: Mapping[str, Any]) -> Timing:
    """Timing of a row's video."""
    rng = np.random.default_rng([row["draw"], 2])
    return draw_timing(row["time"], row["time_strength"], row["num_frames"], rng)


def video_of(row: Mapping[str, Any], shown: Sequence[int] | None = None) -> np.ndarray:
    """Frames of a row's video, (N, size, size, 3) uint8.

    Args:
        shown: numbers of the frames; None: all.
    """
    index = np.arange(row["num_frames"]) if shown is None else np.asarray(shown)
    timing = timing_of(row)
    frames = brighten(render(undamaged_scene(row), timing.order[index].tolist(), row["size"]), timing.gain[index])
    return damage_pictures(frames, row["picture"], row["picture_strength"], seed=row["draw"], index=index)


def true_scores(row: Mapping[str, Any]) -> ApsScores:
    """The scores a row deserves."""
    shown, asked = read_caption(undamaged_scene(row).prompt), read_caption(prompt_of(row))
    agreed = float(agreement(shown, asked))
    timing = timing_of(row)
    if shown.action == asked.action:
        agreed -= timing.loss
    rough = roughness(timing, np.asarray(APS.pick(row["num_frames"])))
    return ApsScores(1 + agreed, 5 - 4 * rough, 5 - 4 * row["picture_strength"] if row["picture"] else 5.0)


def make_score_example(row: Mapping[str, Any], side: int = SIZE) -> Example:
    """The question about a row's video and the answer it deserves, or :data:`DESCRIBE` and the right prompt.

    Args:
        side: side of the pictures the model gets, in pixels; smaller frames are enlarged as its processor does.
    """
    frames = enlarge_frames(video_of(row, APS.pick(row["num_frames"])), side)
    if row["task"] == "describe":
        return Example((Message("user", (*frames, DESCRIBE)),), undamaged_scene(row).prompt)
    return Example(_SHOWN.conversation(frames, prompt_of(row)), write_answer(true_scores(row)))


#: The protocol on frames that have been picked already.
_SHOWN = replace(APS, pick=lambda count: list(range(count)))


def enlarge_frames(frames: np.ndarray, side: int) -> np.ndarray:
    """(N, side, side, 3) uint8, by the bicubic interpolation of ``Qwen2VLImageProcessor``."""
    if frames.shape[1:3] == (side, side):
        return frames
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).movedim(-1, 1)
    mode = functional.InterpolationMode.BICUBIC
    return functional.resize(pictures, [side, side], interpolation=mode, antialias=True).movedim(1, -1).numpy()
