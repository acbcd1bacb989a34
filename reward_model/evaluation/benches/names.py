"""Benches by a short text, for the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_model.evaluation.benches.bench import (
    DEV_DEMANDING_SEED,
    DEV_SECOND_LOOK_SEED,
    DEV_SHIFT_SEED,
    Bench,
    DevBench,
    MainBench,
    OodBench,
    WorldBench,
)
from reward_model.evaluation.benches.demanding import CELLS as DEMANDING_CELLS
from reward_model.evaluation.benches.demanding import DemandingBench
from reward_model.evaluation.benches.hard import HardBench
from reward_model.evaluation.benches.records import JsonlBench, VifCotBench
from reward_model.evaluation.benches.second_look import SecondLookBench
from reward_model.evaluation.benches.shift import ShiftBench
from reward_model.world import SHIFTS
from reward_model.world.cells import CELLS

_WORLD: dict[str, type[WorldBench]] = {"main": MainBench, "ood": OodBench, "dev": DevBench, "world": WorldBench}
#: Seed of each bench in parts, those for choices and those to be reported; None: its own.
_SHIFT = {"shift": None, "dev-shift": DEV_SHIFT_SEED}
_DEMANDING = {"demanding": None, "dev-demanding": DEV_DEMANDING_SEED}
_SECOND_LOOK = {"second-look": None, "dev-second-look": DEV_SECOND_LOOK_SEED}
_IN_PARTS = {**_SHIFT, **_DEMANDING, **_SECOND_LOOK}
BENCHES = (*_WORLD, "hard", *_IN_PARTS)


def open_bench(
    text: str,
    *,
    videos: int | None = None,
    seed: int | None = None,
    kinds: Sequence[str] | None = None,
    size: int | None = None,
    setting: str | None = None,
    video_root: str | Path | None = None,
    video_pattern: str | None = None,
) -> tuple[str, Bench]:
    """Name and bench of one of :data:`BENCHES`, ``vif=FILE.json`` or ``[NAME=]FILE.jsonl``.

    Args:
        text: what to open.
        videos: how many, in place of the bench's own number.
        seed, setting: seed and setting of the ``world`` bench only; the others keep their reserved seeds and play
            everywhere.
        kinds, size: kinds and size of procedural benches; ``shift`` and ``second-look`` have sizes of their own,
            ``demanding`` its kinds.
        video_root: where the videos of a file lie.
        video_pattern: how the videos of a ViF-CoT file are named.

    Raises:
        ValueError: if there is no such bench or file, or its number of videos cannot be.
    """
    options: dict[str, Any] = {"kinds": tuple(kinds) if kinds else None, "size": size}
    if text == "hard":
        options["num_per_cell"] = _each(text, videos, len(CELLS), "cells")
        return text, HardBench(**_given(options))
    if text in _IN_PARTS:
        return text, _in_parts(text, videos, options)
    if text in _WORLD:
        own = {"seed": seed, "setting": setting} if text == "world" else {}
        options |= {"num_videos": videos, **own}
        return text, _WORLD[text](**_given(options))
    name, separator, file = text.rpartition("=")
    if name == "vif":
        if video_root is None or video_pattern is None:
            raise ValueError("the bench vif=FILE.json needs the folder of its videos and the pattern of their names")
        vif = VifCotBench(file, video_root=video_root, video_pattern=video_pattern, num_videos=videos)
        return vif.name, vif
    if not file.endswith(".jsonl"):
        raise ValueError(
            f"no bench {text!r}; there are {', '.join(BENCHES)}, vif=FILE.json, or an annotation file ending in .jsonl"
        )
    bench = JsonlBench(file, name=name if separator else None, limit=videos, video_root=video_root)
    return bench.name if separator else Path(file).stem, bench


def _in_parts(text: str, videos: int | None, options: Mapping[str, Any]) -> Bench:
    """A bench of procedural videos that is reported in parts."""
    named = {"seed": _IN_PARTS[text], "kinds": options["kinds"]}
    if text in _SHIFT:
        each = _each(text, videos, 2 * len(SHIFTS), "shifts, normal and abnormal")
        return ShiftBench(**_given({"num_per_shift": None if each is None else 2 * each, **named}))
    if text in _DEMANDING:
        each = _each(text, videos, 2 * len(DEMANDING_CELLS), "parts, normal and abnormal")
        return DemandingBench(**_given({"num_per_cell": each, "seed": named["seed"], "size": options["size"]}))
    return SecondLookBench(**_given({"num_videos": videos, **named}))


def _each(bench: str, videos: int | None, parts: int, what: str) -> int | None:
    """Videos of each part of a bench.

    Raises:
        ValueError: if the parts could not be equal.
    """
    if videos is not None and (videos < parts or videos % parts):
        raise ValueError(f"videos={videos} of the {bench} bench must be a multiple of its {parts} {what}")
    return None if videos is None else videos // parts


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if v is not None}
