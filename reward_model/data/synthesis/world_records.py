"""Procedural videos as an annotated data set on disk, so that the synthesis runs offline on what it would run on."""

from __future__ import annotations

from pathlib import Path

from reward_model.data.annotations import write_annotations
from reward_model.data.records import GENERATED, MAKER_KEY, ORIGIN_KEY, Record
from reward_model.video.writing import FFV1, write_video
from reward_model.world import KINDS, make_video

#: Seeds of training videos lie below 100,000.
FIRST_SEED = 40_000


def write_world_records(folder: str | Path, count: int, *, seed: int = FIRST_SEED, kinds: tuple[str, ...] = ()) -> Path:
    """Writes ``count`` videos, normal and anomalous in turn, and their ``annotations.jsonl``; returns its path.

    Videos are stored without loss. Existing files of the same names are replaced.

    Args:
        kinds: kinds of anomalies, taken in turn; by default all.

    Raises:
        ValueError: if ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    folder, kinds, records = Path(folder), kinds or tuple(KINDS), []
    for k in range(count):
        frames, truth = make_video(seed + k, kinds[k // 2 % len(kinds)] if k % 2 else None)
        name = f"videos/{k:05d}.mkv"
        write_video(folder / name, frames, truth.fps, FFV1)
        records.append(Record(name, truth, extra={ORIGIN_KEY: GENERATED, MAKER_KEY: "the procedural world"}))
    return write_annotations(folder / "annotations.jsonl", records)
