"""Rows of whole stages of the minis: which tasks take turns, in which order, and how often a row comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from reward_model.minis.rows import draw_rows, scene_of
from reward_model.world.kinds import KINDS
from reward_model.world.scripts import PLAIN

#: Share of stage 2 during which scans grow from a few frames to whole videos.
CURRICULUM = 0.15


def order_by_length(rows: Dataset, batch: int, *, window: int = 16) -> Dataset:
    """Rows sorted by expected length within each ``window`` batches, so that little is padded.

    The batches of a window are shuffled again; which rows train in which window does not change.
    """
    rng = np.random.default_rng([len(rows), batch])
    order: list[int] = []
    lengths = np.array([_expected_length(row) for row in rows])
    for start in range(0, len(rows), window * batch):
        block = start + np.argsort(lengths[start : start + window * batch], kind="stable")
        batches = [block[k : k + batch] for k in range(0, len(block), batch)]
        order += [int(i) for k in rng.permutation(len(batches)) for i in batches[k]]
    return rows.select(order)


def _expected_length(row: Mapping[str, Any]) -> int:
    """About how many tokens prompt and answer have."""
    if row["task"] != "zoom":
        return {"frame": 40, "clip": 80, "splice": 200, "scan": 220}[row["task"]]
    if not row["kind"] or row.get("story", PLAIN) != PLAIN:
        return 110
    fault = scene_of(row).fault
    assert fault is not None
    per_frame = {"split": 20, "vanish": 9, "appear": 9}.get(row["kind"], 14)
    return 40 + per_frame * (len(fault.frames) // 2 + 2)


def stage1_rows(
    steps: int,
    batch: int,
    *,
    seed: int,
    stories: Mapping[str, float] | None = None,
    kinds: Sequence[str] = tuple(KINDS),
) -> Dataset:
    """Stage 1: single frames and short clips, a quarter each, and splices, in turns."""
    turns = ("frame", "splice", "clip", "splice")
    return draw_rows([turns[k % 4] for k in range(batch * steps)], seed=seed, stories=stories, kinds=kinds)


def box_rows(
    steps: int,
    batch: int,
    *,
    seed: int,
    stories: Mapping[str, float] | None = None,
    kinds: Sequence[str] = tuple(KINDS),
) -> Dataset:
    """Rows for localisation: short clips and single frames, four in five with an anomaly to draw boxes around."""
    turns = ("clip", "clip", "clip", "frame")
    tasks = [turns[k % 4] for k in range(batch * steps)]
    return draw_rows(tasks, seed=seed, abnormal=0.8, stories=stories, kinds=kinds)


def stage2_rows(
    steps: int,
    batch: int,
    *,
    seed: int,
    stories: Mapping[str, float] | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    people: bool = False,
    replay: bool = True,
    curriculum: float = CURRICULUM,
) -> Dataset:
    """Stage 2: whole videos and clips jointly, with splices and single frames replayed.

    Every step is two half batches, first scans and splices, then clips and frames of similar length: train with
    ``gradient_accumulation_steps=2`` and a sequential sampler. The first scans are a curriculum: videos grow from 6 to
    21 sampled frames.

    Args:
        steps, batch: optimiser steps, and rows of each.
        seed: seed of the draw.
        stories, kinds, people: as :func:`~reward_model.minis.rows.draw_rows` takes them.
        replay: with splices and single frames; their truth is exact whoever annotates the videos.
        curriculum: share of the scans that grow; they are plain.
    """
    half = batch // 2
    again = max(1, half // 4) if replay else 0
    climb = int(half * steps * curriculum)
    grown = 4 * np.random.default_rng([seed, 79]).integers(5, 6 + 15 * np.arange(climb) // max(climb, 1)) + 1
    tasks = ["splice" if replay and k % half % 3 == 1 else "scan" for k in range(half * steps)]
    options: dict[str, Any] = {"kinds": kinds, "people": people}
    scans = draw_rows(tasks[climb:], seed=seed, stories=stories, **options)
    if climb:
        early = draw_rows(tasks[:climb], seed=seed + 2, num_frames=list(grown), **options)
        scans = concatenate_datasets([early, scans])
    short = draw_rows(
        (["zoom"] * (half - again) + ["frame"] * again) * steps, seed=seed + 1, stories=stories, **options
    )
    short = order_by_length(short, half)
    order = np.arange(2 * half * steps).reshape(2, steps, half).transpose(1, 0, 2).ravel()
    return concatenate_datasets([scans, short]).select(order)


def repeated(rows: Dataset, batch: int, steps: int, *, seed: int) -> Dataset:
    """``steps`` batches out of fewer: all of them in a new order, as often as it takes. Within a batch rows keep their
    order.

    Raises:
        ValueError: if the rows are not whole batches.
    """
    num = len(rows) // batch
    if not num or len(rows) % batch:
        raise ValueError(f"{len(rows)} rows are not whole batches of {batch}")
    rng = np.random.default_rng([seed, 80])
    passes = [rng.permutation(num) for _ in range(-(-steps // num))]
    order = np.concatenate(passes)[:steps]
    return rows.select((order[:, None] * batch + np.arange(batch)).ravel())
