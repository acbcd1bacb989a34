"""The reading warm-up on annotated videos: from a mini that knows its drawn world to one that looks at other footage.

A mini spells what people write about their footage letter by letter, so that one token in a hundred of its answers says
whether anything is wrong, and stage 2 alone learns the words without looking. Here every mark says whether its frame
lies within an anomaly and of which type, and the verdict before any reasoning, from which ``direct`` and ``log_odds``
are read, is asked for behind the video: nothing else weighs in the loss. Few videos are seen many times, so they are
shown mirrored, moved, in other colours and from another frame on. This is not part of the paper's recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.data.annotations import Record, video_path
from reward_model.data.frame_cache import FrameCache
from reward_model.digests import json_digest
from reward_model.minis.collator import MiniCollator
from reward_model.minis.warm_up_reading import MarkedBatch, Marks, Rates, mark_tokens, marked_batch
from reward_model.parsing import forced_prefix
from reward_model.prompts import load_prompts
from reward_model.schema import AnomalyType, VideoAnnotation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Types in the order of a mark's labels, from 1 on; 0 is a frame outside any anomaly.
TYPES = tuple(AnomalyType)
#: Pixels by which frames are moved at most, of the mini's 48; share of their contrast and brightness that changes.
MOST_PIXELS, MOST_LIGHT = 4, 0.1


@dataclass(frozen=True)
class AnnotatedMarks:
    """Annotated videos as the reading warm-up takes them.

    Args:
        records: annotated videos, abnormal and normal ones.
        jsonl: the annotation file they come from.
        judge: settings of the judge that is trained: rate, frame size, wording.
        cache: folder for reduced videos; None keeps them in memory.

    Raises:
        ValueError: if a status is missing.
    """

    records: Sequence[Record]
    jsonl: str | Path
    judge: JudgeConfig
    cache: str | Path | None = None

    #: Slower than from scratch: what the mini knows already should stay.
    rates: ClassVar[Rates] = Rates(matrices=0.006, rest=1e-3, tower=0.2)
    batch: ClassVar[int] = 16
    num_labels: ClassVar[int] = 1 + len(TYPES)

    def __post_init__(self) -> None:
        for status in ("normal", "abnormal"):
            if not self._of(status):
                raise ValueError(
                    f"{self.jsonl} holds no {status} video to warm up on; add some, or set reading_warmup_steps: 0"
                )

    @property
    def run(self) -> Mapping[str, Any]:
        """The facts that must be equal for a stopped warm-up to be continued."""
        return {"annotations": json_digest([r.to_dict() for r in self.records])}

    def batches(self, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int) -> AnnotatedPrompts:
        """Batches of a process, as a function of the seed, the step and the rank."""
        return AnnotatedPrompts(self, collator, steps, batch, seed, rank)

    def _of(self, status: str) -> list[int]:
        return [k for k, record in enumerate(self.records) if record.truth.status == status]

    @cached_property
    def pairs(self) -> list[tuple[int, list[int]]]:
        """Each abnormal video with the normal ones to compare it with: its twin where there is one, else those of its
        footage, else any.
        """
        normal = self._of("normal")

        def like(k: int, *keys: str) -> list[int]:
            wanted = [_told(self.records[k], key) for key in keys]
            return [n for n in normal if [_told(self.records[n], key) for key in keys] == wanted and all(wanted)]

        return [(k, like(k, "group", "seed") or like(k, "group") or normal) for k in self._of("abnormal")]

    @cached_property
    def mirrors(self) -> bool:
        """True if frames may be shown mirrored: not where letters count."""
        return not any(a.type == AnomalyType.CHARACTER for r in self.records for a in r.truth.anomalies)


def _told(record: Record, key: str) -> str:
    return record.group if key == "group" else str(record.extra.get(key, ""))


class AnnotatedPrompts(Dataset):
    """Batch ``k`` of process ``rank``: abnormal videos, each beside a normal one that is shown in the same way."""

    def __init__(
        self, source: AnnotatedMarks, collator: MiniCollator, steps: int, batch: int, seed: int, rank: int
    ) -> None:
        self.source, self.collator, self.steps = source, collator, steps
        self.pairs_of_a_batch, self.seed, self.rank = max(1, batch // 2), seed, rank
        judge = source.judge
        self.prompts, self.marks = load_prompts(judge.prompts), mark_tokens(collator.processor.tokenizer)
        self.grids = [question_grids(record.truth, judge) for record in source.records]
        self.cache = FrameCache(
            source.cache,
            frame_size=judge.frame_size,
            frame_fit=judge.frame_fit,
            max_videos=8 if source.cache else len(source.records),
        )

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> MarkedBatch:
        rng = np.random.default_rng([self.seed, step, self.rank])
        conversations, labels = [], []
        for place in range(self.pairs_of_a_batch):
            abnormal, normal = self._pair(step * self.pairs_of_a_batch + place, rng)
            grid, variation = self._grid(abnormal, rng), draw_variation(rng, mirrors=self.source.mirrors)
            for k in (abnormal, normal):
                shown = grid if grid in self.grids[k] else self._grid(k, rng)
                truth = self.source.records[k].truth
                conversations.append(self.prompts.scan(vary(self._frames(k, shown), variation), truth.prompt))
                labels.append(frame_labels(truth, shown))
        batch = marked_batch(self.collator, self.marks, conversations, labels, rng, before=forced_prefix())
        return batch._replace(said=self._said(batch.inputs, labels))

    def _pair(self, number: int, rng: np.random.Generator) -> tuple[int, int]:
        """Pair ``number`` of the warm-up: every abnormal video comes once before any comes again."""
        pairs = self.source.pairs
        round_, place = divmod(number, len(pairs))
        order = np.random.default_rng([self.seed, round_, self.rank, 81]).permutation(len(pairs))
        abnormal, normal = pairs[order[place]]
        return abnormal, int(rng.choice(normal))

    def _grid(self, k: int, rng: np.random.Generator) -> list[int]:
        showing = [g for g in self.grids[k] if any(frame_labels(self.source.records[k].truth, g))]
        chosen = showing or self.grids[k]
        return chosen[rng.integers(len(chosen))]

    def _frames(self, k: int, indices: Sequence[int]) -> np.ndarray:
        record = self.source.records[k]
        kept = sorted({n for grid in self.grids[k] for n in grid})
        return self.cache.frames(video_path(record, self.source.jsonl), indices, kept, record.truth.num_frames)

    def _said(self, inputs: Mapping[str, torch.Tensor], labels: Sequence[Sequence[int]]) -> Marks:
        """The last token before each verdict, and the verdict's first token."""
        tokenizer = self.collator.processor.tokenizer
        last = _ids(tokenizer, forced_prefix())[-1]
        words = [_ids(tokenizer, word)[0] for word in ("normal", "abnormal")]
        return Marks(inputs["input_ids"] == last, torch.tensor([words[any(found)] for found in labels]))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def question_grids(truth: VideoAnnotation, judge: JudgeConfig) -> list[list[int]]:
    """Native frames of every question about a video, from the first frame on and from half a stride later."""
    found: list[list[int]] = []
    for grid in scan_grids(truth.num_frames, truth.fps, judge):
        half = (grid[1] - grid[0]) // 2 if len(grid) > 1 else 0
        found += [[n + shift for n in grid if n + shift < truth.num_frames] for shift in (0, half)]
    return found


def frame_labels(truth: VideoAnnotation, indices: Sequence[int]) -> list[int]:
    """Label of each shown frame: 0, or 1 + the place in :data:`TYPES` of the first anomaly it lies in."""
    kinds = ((TYPES.index(a.type) + 1 for a in truth.anomalies if n in a.frames) for n in indices)
    return [next(found, 0) for found in kinds]


@dataclass(frozen=True)
class Variation:
    """A way to show frames: mirrored, moved by (rows, columns), with channels in another order and another light."""

    mirrored: bool
    shift: tuple[int, int]
    channels: tuple[int, ...]
    gain: tuple[float, ...]
    bias: tuple[float, ...]


def draw_variation(rng: np.random.Generator, *, mirrors: bool) -> Variation:
    """A variation drawn at random; ``mirrors``: half of them mirrored."""
    rows, columns = rng.integers(-MOST_PIXELS, MOST_PIXELS + 1, 2)
    return Variation(
        mirrored=bool(rng.random() < 0.5) and mirrors,
        shift=(int(rows), int(columns)),
        channels=tuple(int(k) for k in rng.permutation(3)),
        gain=tuple(float(x) for x in rng.uniform(1 - 2 * MOST_LIGHT, 1 + 2 * MOST_LIGHT, 3)),
        bias=tuple(float(x) for x in 255 * rng.uniform(-MOST_LIGHT, MOST_LIGHT, 3)),
    )


def vary(frames: np.ndarray, variation: Variation) -> np.ndarray:
    """Frames (N, H, W, 3) uint8 in that variation; what moves in is the rim's own colour."""
    rim, (down, right) = MOST_PIXELS, variation.shift
    height, width = frames.shape[1:3]
    wide = np.pad(frames, ((0, 0), (rim, rim), (rim, rim), (0, 0)), mode="edge")
    moved = wide[:, rim - down : rim - down + height, rim - right : rim - right + width]
    moved = (moved[:, :, ::-1] if variation.mirrored else moved)[..., list(variation.channels)]
    return np.clip((moved - 128.0) * variation.gain + 128 + variation.bias, 0, 255).astype(np.uint8)
