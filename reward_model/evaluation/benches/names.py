"""Benches by a short text, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_model.evaluation.benches.bench import Bench, MainBench, OodBench, WorldBench
from reward_model.evaluation.benches.hard import HardBench
from reward_model.evaluation.benches.records import JsonlBench, VifCotBench
from reward_model.world.cells import CELLS

_WORLD: dict[str, type[WorldBench]] = {"main": MainBench, "ood": OodBench, "world": WorldBench}
BENCHES = (*_WORLD, "hard")


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
    """Name and bench of ``main``, ``hard``, ``ood``, ``world``, ``vif=FILE.json`` or ``[NAME=]FILE.jsonl``.

    Args:
        text: what to open.
        videos: how many, in place of the bench's own number.
        seed, setting: seed and setting of the ``world`` bench only; the others keep their reserved seeds and play
            everywhere.
        kinds, size: kinds and size of procedural benches.
        video_root: where the videos of a file lie.
        video_pattern: how the videos of a ViF-CoT file are named.

    Raises:
        ValueError: if there is no such bench or file, or its number of videos cannot be.
    """
    options: dict[str, Any] = {"kinds": tuple(kinds) if kinds else None, "size": size}
    if text == "hard":
        if videos is not None and (videos < len(CELLS) or videos % len(CELLS)):
            raise ValueError(f"videos={videos} of the hard bench must be a multiple of its {len(CELLS)} cells")
        options["num_per_cell"] = None if videos is None else videos // len(CELLS)
        return text, HardBench(**_given(options))
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


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if v is not None}
