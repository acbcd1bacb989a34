"""Procedural videos as an annotated data set on disk, so that the synthesis runs offline on what it would run on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reward_model.data.annotations import write_annotations
from reward_model.data.records import GENERATED, MAKER_KEY, ORIGIN_KEY, Record
from reward_model.files import atomic
from reward_model.video.writing import stream_rate
from reward_model.world import KINDS, make_video

#: Seeds of training videos lie below 100,000.
FIRST_SEED = 40_000


def write_world_records(folder: str | Path, count: int, *, seed: int = FIRST_SEED, kinds: tuple[str, ...] = ()) -> Path:
    """Writes ``count`` videos, normal and anomalous in turn, and their ``annotations.jsonl``; returns its path.

    Videos are stored without loss. Existing files of the same names are replaced.

    Args:
        kinds: of anomalies, taken in turn; by default all there are.

    Raises:
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    folder, kinds, records = Path(folder), kinds or tuple(KINDS), []
    for k in range(count):
        frames, truth = make_video(seed + k, kinds[k // 2 % len(kinds)] if k % 2 else None)
        name = f"videos/{k:05d}.mkv"
        write_lossless(folder / name, frames, truth.fps)
        records.append(Record(name, truth, extra={ORIGIN_KEY: GENERATED, MAKER_KEY: "the procedural world"}))
    return write_annotations(folder / "annotations.jsonl", records)


def write_lossless(path: Path, frames: np.ndarray, fps: float) -> None:
    """Frames (T, H, W, 3) uint8 as FFV1 in Matroska, which gives every pixel back."""
    import av

    with atomic(path) as temporary, av.open(str(temporary.absolute()), "w") as container:
        stream = container.add_stream("ffv1", rate=stream_rate(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
