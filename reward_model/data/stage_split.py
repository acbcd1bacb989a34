"""The annotated videos that a training stage may use: disjoint between stages (paper, C.2), never the held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from reward_model.data.records import Record
from reward_model.data.splits import STAGE_PROPORTIONS, split_records
from reward_model.data.splits import held_out as is_held_out

Stage = Literal["stage1", "stage2", "stage3"]
HELD_OUT = ("val", "validation", "test")


def stage_records(
    records: Sequence[Record], stage: Stage, *, disjoint: bool = False, held_out: float = 0.0, seed: int = 0
) -> tuple[list[Record], list[Record]]:
    """(training, held-out) records of a stage.

    Lines whose split is ``val``, ``validation`` or ``test`` are held out. If any line names a stage (``stage1``,
    ``stage2``, ``stage3``), a stage takes its own lines; otherwise it takes all lines, or with ``disjoint`` its share
    of them, 20:35:7.5. Footage is dealt by :attr:`Record.group`, so that a video and its altered twin stay together.

    Args:
        held_out: share of the footage to hold out where no line is marked so.
        seed: seed of the split; all stages must use the same.

    Raises:
        ValueError: if ``held_out`` is not a share.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out={held_out} must be a share from 0 to below 1, for instance 0.05")
    rest, held = _without_held_out(records, held_out, seed)
    if any(r.split in STAGE_PROPORTIONS for r in rest):
        return [r for r in rest if r.split == stage], held
    if not disjoint or not rest:
        return rest, held
    dealt = split_records(rest, STAGE_PROPORTIONS, balance="keep", seed=seed).records
    return [r for r, d in zip(rest, dealt, strict=True) if d.split == stage], held


def _without_held_out(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """(all others, held-out records): the marked ones, or where none is marked a share of the footage.

    Balancing is left to the views, which know what each stage can use of a video.
    """
    held = [r.split in HELD_OUT for r in records]
    if not any(held) and share:
        held = [is_held_out(r.group, share, seed, "val") for r in records]
    return [r for r, h in zip(records, held, strict=True) if not h], [
        r for r, h in zip(records, held, strict=True) if h
    ]
