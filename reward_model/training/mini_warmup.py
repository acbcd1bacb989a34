"""A stand-in for a pretrained vision tower: it first learns to describe single frames through throw-away heads.

The full-size recipe starts from a tower that has seen billions of images; the mini starts from noise. The heads sit on
every visual token (so that any single token knows what the frame holds) and are dropped afterwards. This is not part of
the paper's recipe.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss
from torch.utils.data import DataLoader, Dataset

from reward_model.training.mini_batch import MiniCollator, use_equal_images
from reward_model.training.mini_config import fourier
from reward_model.training.mini_data import CLEAR, SMALL_SIZE, TRAIN_SEEDS
from reward_model.video import resize_frames
from reward_model.world.canvas import Canvas, mask_box
from reward_model.world.kinds import KINDS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.nuisance import degrade
from reward_model.world.palette import COLORS, SHAPES, WORDS
from reward_model.world.scene import Scene, make_scene
from reward_model.world.signs import Sign, spell
from reward_model.world.things import Thing
from reward_model.world.video import SIZE, render

log = logging.getLogger(__name__)

#: What the heads tell of a frame. ``none`` is never a target: that head is not asked about such a frame.
STATES = ("normal", *SINGLE_FRAME)
STAGES = ("things", "person", "physics", "sign")
GAINS = ("dark", "usual", "bright")
HEADS = {"state": STATES, "stage": STAGES, "color": tuple(COLORS), "shape": SHAPES, "word": WORDS, "gain": GAINS}
NONE = -100


def warm_up_vision(
    model: Any,
    collator: MiniCollator,
    *,
    steps: int,
    batch: int = 96,
    learning_rate: float = 2e-3,
    seed: int = 0,
    num_workers: int = 0,
) -> float:
    """Trains ``model.model.visual`` in place; returns the share of frames whose state the heads get right at the end.

    Args:
        model: the mini judge.
        collator: lays out the frames as the tower takes them.
        steps: optimiser steps of ``batch`` frames, with a one-cycle learning rate that peaks at ``learning_rate``.
        seed: of the frames and the heads.
        num_workers: processes that draw frames ahead (0: this one); the result does not depend on it.
    """
    tower, width = model.model.visual, model.config.text_config.hidden_size
    torch.manual_seed(seed)
    sizes = {**{name: len(values) for name, values in HEADS.items()}, "shown": 2, "boxes": 8}
    init_vision(model, collator, draw_frames(8 * batch, np.random.default_rng([seed, 13]))[0])
    towers = 1 + len(tower.deepstack_merger_list)
    heads = nn.ModuleList(nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()}) for _ in range(towers))
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.05)
    drawn = DataLoader(_Draws(steps, batch, seed), batch_size=None, num_workers=num_workers)
    right = 0.0
    tower.train()
    with use_equal_images(model):
        for step, (frames, target) in enumerate(drawn):
            inputs = collator.vision_inputs(frames)
            out = model.model.get_image_features(**inputs, return_dict=True)
            tokens = [torch.stack(out.pooler_output), *(torch.stack(f) for f in out.deepstack_features)]
            losses = [_loss(head, t, target) for head, t in zip(heads, tokens, strict=True)]
            loss = losses[0][0] + 0.3 * sum(other for other, _ in losses[1:])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            right += 0.05 * (losses[0][1] - right)
            if step % 50 == 0 or step == steps - 1:
                log.info("vision warm-up step %d/%d: loss %.3f, state right %.3f", step, steps, loss.item(), right)
    tower.eval()
    return right


class _Draws(Dataset):
    """Batch ``k`` of the warm-up, a function of the seed and k."""

    def __init__(self, steps: int, batch: int, seed: int) -> None:
        self.steps, self.batch, self.seed = steps, batch, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        return draw_frames(self.batch, np.random.default_rng([self.seed, 11, step]))


def init_vision(model: Any, collator: MiniCollator, frames: np.ndarray) -> None:
    """Starts the tower on whitened patches and Fourier positions.

    The patch embedding becomes the first principal components of the patches of ``frames``, each at unit variance: the
    mean brightness of a patch is a hundred times as strong as its edges, and a tower that starts on raw pixels takes
    three times as many steps to see them. Positions start as loud as contents, not a tenth of it.
    """
    tower = model.model.visual
    pixels = collator.vision_inputs(frames)["pixel_values"].double()
    mean = pixels.mean(0)
    values, axes = torch.linalg.eigh((pixels - mean).T @ (pixels - mean) / len(pixels))
    width = tower.patch_embed.proj.out_channels
    values, axes = values.flip(0)[:width], axes.flip(1)[:, :width]
    basis = (axes / (values + 0.02 * values[1]).sqrt()).T
    table = tower.pos_embed.weight
    side = collator.num_grid_per_side
    half = table.shape[1] // 2
    with torch.no_grad():
        tower.patch_embed.proj.weight.copy_(basis.reshape(tower.patch_embed.proj.weight.shape))
        tower.patch_embed.proj.bias.copy_(-(basis @ mean))
        for k in range(len(table)):
            table[k] = 0.7 * torch.cat([fourier(k // side / side, half), fourier(k % side / side, half)])


def _loss(heads: Any, tokens: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Summed loss of all heads on tokens (N, 4, width), and the share of right states."""
    per_frame = tokens.shape[1]
    loss = torch.zeros(())
    for name in (*HEADS, "shown"):
        labels = target[name]
        logits = heads[name](tokens)
        if (labels != NONE).any():
            loss = loss + WEIGHTS.get(name, 1.0) * cross_entropy(
                logits.flatten(0, 1), labels[:, None].expand(-1, per_frame).flatten(), ignore_index=NONE
            )
        if name == "state":
            right = (logits.argmax(-1) == labels[:, None])[labels != NONE].float().mean().item()
    shown = target["shown"] == 1
    boxes = heads["boxes"](tokens)[shown]
    return loss + 8 * l1_loss(boxes, target["boxes"][shown, None].expand_as(boxes)), right


#: The state is what the judge is asked for, the rest helps it to see.
WEIGHTS = {"state": 2.0, "color": 0.5, "shape": 0.5, "stage": 0.5, "gain": 0.5}


def draw_frames(count: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Single frames (N, 48, 48, 3) uint8 of all settings and states, with one label per head (:data:`NONE` where a
    head has nothing to say) and the corners of the first and last region of the main actor in [0, 1].
    """
    frames: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    while len(frames) < count:
        kind = str(rng.choice([*KINDS, *SINGLE_FRAME]))
        setting = str(rng.choice(SETTINGS_OF[kind]))
        abnormal = rng.random() < 0.65
        scene = make_scene(
            int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop)),
            kind if abnormal else None,
            setting=setting,
            strength=rng.uniform(CLEAR, 2.1) if abnormal and kind == "squash" else None,
        )
        # Two frames of the anomaly and one of any kind: the same scene, right and wrong.
        inside = scene.fault.frames.frames() if scene.fault else range(scene.num_frames)
        indices = [*rng.choice(inside, 2), rng.integers(scene.num_frames)][: count - len(frames)]
        small = rng.random() < (0.5 if setting == "single" else 0.1)
        pictures = degrade(render(scene, indices, SMALL_SIZE if small else SIZE), rng)
        frames += list(resize_frames(pictures, (SIZE, SIZE)) if small else pictures)
        rows += [describe_frame(scene, int(index)) for index in indices]
    target = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    return np.stack(frames), target


def describe_frame(scene: Scene, index: int) -> dict[str, Any]:
    """The labels of one frame."""
    kind = scene.fault.kind if scene.fault and index in scene.fault.frames else "normal"
    focus, words = scene.focus, scene.prompt.split()
    thing = focus if isinstance(focus, Thing) else None
    gain = 1.0 if thing is None or thing.gain is None else float(thing.gain[index])
    canvas = Canvas.open(np.array([index]), SIZE, scene.camera, scene.weather.softness)
    boxes = [box for mask in focus.regions(canvas) if (box := mask_box(mask[0])) is not None]
    corners = [v / 1000 for box in (boxes[0], boxes[-1]) for v in box.as_list()] if boxes else [0.0] * 8
    legible = kind in ("normal", "change") and scene.setting == "sign"
    shown_word = _word(scene, index) if legible else None
    color = focus.name.split()[0]
    return {
        "state": STATES.index(kind) if kind in STATES else STATES.index("normal"),
        "stage": STAGES.index(scene.setting if scene.setting in STAGES else "things"),
        "color": list(COLORS).index(color) if boxes and gain == 1 else NONE,
        "shape": SHAPES.index(thing.shape) if thing and boxes else NONE,
        "word": WORDS.index(shown_word) if shown_word else NONE,
        "gain": 1 + int(np.sign(gain - 1)) if thing and boxes else NONE,
        "shown": int(bool(boxes)) if words[2] not in ("person", "sign") else 1,
        "boxes": corners,
    }


def _word(scene: Scene, index: int) -> str:
    """What the sign reads in a frame."""
    sign = scene.focus
    assert isinstance(sign, Sign)
    shown = sign.texts[sign.which[index]]
    return next(word for word in WORDS if (spell(word) == shown).all())
