"""A stand-in for a pretrained vision tower: it first learns to describe single frames through throw-away heads.

The full-size recipe starts from a tower that has seen billions of images; the mini starts from noise. Two kinds of
heads are dropped afterwards: labels of the frame on every visual token (so that any single token knows what the frame
holds), and, on every patch, the outline of the main actor as it is and as it would be in the normal twin of the video.
The second is what makes limbs and letters learnable: an anomaly is the difference of the two. This is not part of the
paper's recipe.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from reward_model.engine.checkpoints import fingerprint
from reward_model.engine.muon import MuonAdamW
from reward_model.minis.collator import MiniCollator, use_equal_images
from reward_model.minis.frames import HEADS, NONE, Frames, draw_frames
from reward_model.minis.gradients import average_gradients, share_of
from reward_model.minis.model import fourier
from reward_model.minis.warm_up_state import WarmupState

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention, Qwen3VLVisionModel

log = logging.getLogger(__name__)

#: Share of the steps during which nuisances grow from none to all.
CURRICULUM = 0.4
#: Learning rate of the tower's weight matrices (Muon); everything else takes ``learning_rate`` (AdamW).
MATRIX_RATE = 0.02
#: Weight of the outlines against the labels.
OUTLINES = 10.0
#: The state is what the judge is asked for, the rest helps it to see.
WEIGHTS = {"state": 2.0, "color": 0.5, "shape": 0.5, "stage": 0.5, "gain": 0.5}


def warm_up_vision(
    model: PreTrainedModel,
    collator: MiniCollator,
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 2e-3,
    seed: int = 0,
    sample: int = 512,
    shifted: float = 0.0,
    num_workers: int = 0,
    state_file: Path | None = None,
    progress: bool = False,
) -> float:
    """Trains ``model.model.visual`` in place; returns the share of frames whose state the heads get right at the end.

    Where ``torch.distributed`` is set up, processes share the batch, each draws its own, and gradients are averaged.

    Args:
        model: the mini judge.
        collator: lays out the frames as the tower takes them.
        steps: optimiser steps; rates rise for 3 % of them, stay, and fall to zero from 40 % on.
        batch: frames of a step, of all processes together.
        seed: seed of the frames and the heads.
        sample: frames whose patches the tower's first layer is fitted to before the first step.
        shifted: share of the frames that are shown under a drawn shift.
        num_workers: processes that draw frames ahead (0: this one); the result does not depend on it.
        state_file: where the state is kept now and then; a stopped warm-up continues from it, bit for bit on a CPU.
        progress: show a bar with the time left.
    """
    tower, (rank, batch) = model.model.visual, share_of(batch)
    run = {"steps": steps, "batch": batch, "seed": seed, "rate": learning_rate, "start": fingerprint(tower)}
    run |= {"shifted": shifted} if shifted else {}
    torch.manual_seed(seed)
    heads = WarmupHeads(tower, model.config.text_config.hidden_size)
    optimizer, schedule = _optimizer(tower, heads, learning_rate, steps)
    state = WarmupState(state_file, {"tower": tower, "heads": heads}, [optimizer], [schedule], run)
    first, right = state.load()
    if not first:
        init_vision(model, collator, draw_frames(sample, np_rng(seed, 13), shifted=shifted).pictures)
    draws = _Draws(steps, batch, seed, rank, shifted)
    drawn = DataLoader(draws, batch_size=None, sampler=range(first, steps), num_workers=num_workers)
    bar = tqdm(drawn, "vision warm-up", total=steps, initial=first, disable=not progress or rank != 0)
    tower.train()
    with use_equal_images(model), logging_redirect_tqdm():
        for step, frames in enumerate(bar, first):
            inputs = collator.vision_inputs(frames.pictures)
            loss, share = heads.loss(model.model.get_image_features(**inputs, return_dict=True), frames)
            optimizer.zero_grad()
            loss.backward()
            average_gradients([*tower.parameters(), *heads.parameters()])
            nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            right += 0.05 * (share - right)
            if rank == 0 and (step % 50 == 0 or step == steps - 1):
                log.info("vision warm-up step %d/%d: loss %.3f, state right %.3f", step, steps, loss.item(), right)
            state.keep(step + 1, right)
    heads.remove()
    tower.eval()
    return right


def np_rng(*seeds: int) -> np.random.Generator:
    """A separate generator for each list of numbers."""
    return np.random.default_rng(list(seeds))


def _optimizer(tower: Qwen3VLVisionModel, heads: nn.Module, rate: float, steps: int) -> tuple[MuonAdamW, Any]:
    """Muon for the matrices of the blocks, AdamW for the rest: half the steps to the same loss."""
    matrices = [p for name, p in tower.named_parameters() if p.ndim == 2 and "blocks" in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in [*tower.parameters(), *heads.parameters()] if id(p) not in chosen]
    optimizer = MuonAdamW(
        [
            {"params": matrices, "lr": MATRIX_RATE, "weight_decay": 0.01, "matrix": True},
            {"params": rest, "lr": rate, "weight_decay": 0.01, "matrix": False},
        ]
    )

    def factor(step: int) -> float:
        done = (step + 1) / max(steps, 1)
        return min(1.0, done / 0.03) * min(1.0, max(0.0, 1 - done) / 0.6)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class _Draws(Dataset):
    """Batch ``k`` of the warm-up on process ``rank``, a function of the seed, k and the rank."""

    def __init__(self, steps: int, batch: int, seed: int, rank: int, shifted: float) -> None:
        self.steps, self.batch, self.seed, self.rank, self.shifted = steps, batch, seed, rank, shifted

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Frames:
        nuisance = min(1.0, step / (CURRICULUM * self.steps))
        # Shifts come with the other nuisances: the plain world is learned first.
        shifted = self.shifted * nuisance
        return draw_frames(self.batch, np_rng(self.seed, 11, step, self.rank), nuisance=nuisance, shifted=shifted)


# --- the start --------------------------------------------------------------------------------------------------------


def init_vision(model: PreTrainedModel, collator: MiniCollator, frames: np.ndarray) -> None:
    """Starts the tower on whitened patches, Fourier positions and attention to neighbouring patches.

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
        for block, offsets in zip(tower.blocks, OFFSETS, strict=False):
            _look_at(block.attn, offsets)


#: Rows and columns each of four heads looks away from its patch at the start, block by block.
OFFSETS = (
    ((1, 0), (-1, 0), (0, 1), (0, -1)),
    ((1, 1), (-1, -1), (1, -1), (-1, 1)),
    ((2, 0), (-2, 0), (0, 2), (0, -2)),
)


def _look_at(attention: Qwen3VLVisionAttention, offsets: tuple[tuple[int, int], ...], sharpness: float = 4.0) -> None:
    """Biases of queries and keys that, turned by the rotary positions, score ``sharpness * cos(distance)`` along each
    axis from a patch ``offsets`` away: the attention starts as a convolution and learns on from there.
    """
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = weight.shape[1]
    dim = width // len(offsets)
    loud = math.sqrt(sharpness * dim**0.5)
    weight[: 2 * width] *= 0.5
    for head, offset in enumerate(offsets):
        # The first quarter of a head's dimensions turns with rows, the second with columns, fastest first.
        for first, distance in zip((head * dim, head * dim + dim // 4), offset, strict=True):
            bias[first], bias[first + dim // 2] = loud * math.cos(distance), loud * math.sin(distance)
            bias[width + first] = loud


# --- the heads --------------------------------------------------------------------------------------------------------


class WarmupHeads(nn.Module):
    """Heads of the tower for its warm-up: labels on the merged tokens of each of its outputs (the last one and the
    deepstack ones), outlines on the patches that are merged.
    """

    def __init__(self, tower: Qwen3VLVisionModel, width: int) -> None:
        super().__init__()
        sizes = {**{name: len(values) for name, values in HEADS.items()}, "shown": 2, "boxes": 8}
        mergers = [tower.merger, *tower.deepstack_merger_list]
        patches, area = tower.config.hidden_size, tower.config.patch_size**2
        self.labels = nn.ModuleList(nn.ModuleDict({k: nn.Linear(width, n) for k, n in sizes.items()}) for _ in mergers)
        self.outlines = nn.ModuleList(nn.Linear(patches, 2 * area) for _ in mergers)
        self.merge, self.patch = tower.config.spatial_merge_size, tower.config.patch_size
        self._patches: dict[int, torch.Tensor] = {}
        self._hooks = [m.register_forward_pre_hook(self._keep(k)) for k, m in enumerate(mergers)]

    def _keep(self, output: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self._patches[output] = args[0]

        return hook

    def remove(self) -> None:
        """Takes the hooks off the tower again."""
        for hook in self._hooks:
            hook.remove()

    def loss(self, out: Any, frames: Frames) -> tuple[torch.Tensor, float]:
        """Loss of all heads, outputs before the last one at 0.3, and the share of right states at the last one."""
        tokens = [torch.stack(out.pooler_output), *(torch.stack(f) for f in out.deepstack_features)]
        outlines = torch.stack([self._cut(frames.actual), self._cut(frames.normal)], dim=1)
        known = frames.has_normal.repeat_interleave(len(outlines) // len(frames.has_normal))
        total, right = torch.zeros(()), 0.0
        for k, (labels, outline) in enumerate(zip(self.labels, self.outlines, strict=True)):
            loss, share = _loss(labels, tokens[k], frames.labels)
            right = share if k == 0 else right
            guess = outline(self._patches[k].flatten(0, -2)).view_as(outlines)
            error = binary_cross_entropy_with_logits(guess, outlines, reduction="none").mean(-1)
            twins = 2 * (error[:, 1] * known).sum() / known.sum().clamp(min=1)
            total = total + (1.0 if k == 0 else 0.3) * (loss + OUTLINES * (error[:, 0].mean() + twins))
        return total, right

    def _cut(self, masks: torch.Tensor) -> torch.Tensor:
        """(N, S, S) -> (N * patches, patch * patch) in the order of the tower's patches."""
        merge, patch = self.merge, self.patch
        side = masks.shape[1] // patch // merge
        parts = masks.view(len(masks), side, merge, patch, side, merge, patch)
        return parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, patch * patch)


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
