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

from reward_model.training.mini_batch import MiniCollator, use_equal_images
from reward_model.training.mini_data import CLEAR, TRAIN_SEEDS
from reward_model.world.narration import anomaly_kind
from reward_model.world.nuisance import degrade
from reward_model.world.scene import COLORS, KINDS, SHAPES, make_scene
from reward_model.world.video import make_annotation, render

log = logging.getLogger(__name__)
STATES = ("normal", *KINDS)


def warm_up_vision(
    model: Any, collator: MiniCollator, *, steps: int, batch: int = 96, learning_rate: float = 3e-3, seed: int = 0
) -> float:
    """Trains ``model.model.visual`` in place; returns the share of frames whose state the heads get right at the end.

    Args:
        model: the mini judge.
        collator: lays out the frames as the tower takes them.
        steps: optimiser steps of ``batch`` frames, with a one-cycle learning rate that peaks at ``learning_rate``.
        seed: of the frames and the heads.
    """
    tower, width = model.model.visual, model.config.text_config.hidden_size
    torch.manual_seed(seed)
    sizes = {"state": len(STATES), "shape": len(SHAPES), "color": len(COLORS), "boxes": 8}
    towers = 1 + len(tower.deepstack_merger_list)
    heads = nn.ModuleList(nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()}) for _ in range(towers))
    optimizer = torch.optim.AdamW([*tower.parameters(), *heads.parameters()], lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.1)
    rng, right = np.random.default_rng([seed, 11]), 0.0
    tower.train()
    with use_equal_images(model):
        for step in range(steps):
            frames, target = draw_frames(batch, rng)
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


def _loss(heads: Any, tokens: torch.Tensor, target: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Summed loss of all heads on tokens (N, 4, width), and the share of right states."""
    per_frame = tokens.shape[1]
    loss = torch.zeros(())
    seen = target["state"] != STATES.index("vanish")
    for name in ("state", "shape", "color"):
        logits = heads[name](tokens)
        keep = torch.ones_like(seen) if name == "state" else seen
        labels = target[name][keep, None].expand(-1, per_frame)
        loss = loss + cross_entropy(logits[keep].flatten(0, 1), labels.flatten())
        if name == "state":
            right = (logits.argmax(-1) == target["state"][:, None]).float().mean().item()
    boxes = heads["boxes"](tokens)[seen]
    return loss + 8 * l1_loss(boxes, target["boxes"][seen, None].expand_as(boxes)), right


def draw_frames(count: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Single frames (N, 32, 32, 3) uint8 in every state, with state, shape, colour and the corners of one or two
    boxes in [0, 1].
    """
    frames, rows = [], []
    for _ in range(count):
        state = str(rng.choice(STATES, p=[0.4, 0.25, 0.25, 0.1]))
        strength = rng.uniform(CLEAR, 2.1) if state == "squash" else None
        scene = make_scene(
            int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop)),
            None if state == "normal" else state,
            strength=strength,
        )
        index = int(rng.choice(scene.fault.frames.frames() if scene.fault else range(scene.num_frames)))
        frames.append(degrade(render(scene, [index]), rng)[0])
        rows.append(
            (STATES.index(state), SHAPES.index(scene.shape), list(COLORS).index(scene.color), _boxes(scene, index))
        )
    names = ("state", "shape", "color", "boxes")
    target = {name: torch.tensor(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return np.stack(frames), target


def _boxes(scene: Any, index: int) -> list[float]:
    """Corners of the first and the last piece at a frame; for a normal frame from where the object is."""
    anomalies = make_annotation(scene).anomalies
    if anomalies and anomaly_kind(anomalies[0]) != "vanish":
        boxes = anomalies[0].boxes[index]
        return [v / 1000 for box in (boxes[0], boxes[-1]) for v in box.as_list()]
    x, y = (float(v) for v in scene.path[index])
    r = scene.radius
    return [x - r, y - r, x + r, y + r] * 2
