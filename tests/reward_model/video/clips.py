"""Tiny video files of every kind, written by PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np


def numbered(count: int = 20, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames (T, H, W, 3) whose brightness tells their number (10 k), white in the upper left quarter."""
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = (np.arange(count) * 10 % 200)[:, None, None, None]
    frames[:, : height // 2, : width // 2] = 255
    return frames


def number(frames: np.ndarray) -> list[int]:
    """The numbers that :func:`numbered` wrote, read in the lower right."""
    return [round(float(f[-6:-2, -6:-2].mean()) / 10) for f in frames]


def write(
    path: Path,
    frames: np.ndarray | Sequence[np.ndarray],
    fps: Any = 16,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: Iterable[int] | None = None,
    time_base: Fraction | None = None,
    turn: dict[str, Any] | None = None,
    before: np.ndarray | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Writes a video.

    Args:
        times: time stamp of each frame in units of ``time_base``.
        turn: arguments of the display matrix.
        before: one picture, written as a stream of its own before the video.
    """
    import av

    with av.open(str(path.absolute()), "w", options=container or {}) as out:
        cover = None
        if before is not None:
            cover = out.add_stream("libx264", rate=1)
            cover.height, cover.width = before.shape[:2]
            cover.pix_fmt = "yuv420p"
        given = {"qp": "8", "sc_threshold": "0"} if codec == "libx264" else {}
        stream = out.add_stream(codec, rate=fps, options={**given, **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if turn is not None:
            stream.set_display_rotation(**turn)
        if cover is not None:
            out.mux(cover.encode(av.VideoFrame.from_ndarray(before, format="rgb24")))
            out.mux(cover.encode())
        stamps = list(times) if times is not None else None
        for k, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[k], time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path
