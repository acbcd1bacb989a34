"""Frames in an mp4 that decodes to the same bytes: what the package scores is then what we hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cac_align.files import atomic
from reward_model.video.writing import stream_rate

if TYPE_CHECKING:
    import numpy as np


def write_lossless(path: Path, frames: np.ndarray, fps: float) -> Path:
    """Writes H.264 in RGB at quantiser 0; large, and no browser plays it.

    Args:
        path: ends in ``.mp4``.
        frames: (T, H, W, 3) uint8, of any size.
        fps: frames per second, kept to a thousandth.
    """
    import av

    with atomic(path) as temporary, av.open(str(temporary.absolute()), "w") as container:
        options = {"qp": "0", "preset": "ultrafast", "bf": "0"}
        stream = container.add_stream("libx264rgb", rate=stream_rate(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def same_video(one: Path, other: Path) -> bool:
    """Whether two files show the same frames at the same rate."""
    from reward_model.video.clip import VideoError, load_video

    try:
        a, b = load_video(one), load_video(other)
    except VideoError:
        return False
    if a.frames.shape != b.frames.shape or abs(a.fps / b.fps - 1) > 1e-3:
        return False
    return all((x == y).all() for x, y in zip(a.frames, b.frames, strict=True))
