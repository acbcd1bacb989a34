"""Frames through a lossy codec and back, in memory: what compression does to a video, for training and for benches."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from reward_model.video.writing import H264, stream_rate


def round_trip(frames: np.ndarray, fps: float, crf: int) -> np.ndarray:
    """Frames as a player shows them after H.264 at a constant rate factor; the same frames give the same result.

    Args:
        frames: (T, H, W, 3) uint8. An odd side is stretched by its last row or column for the codec.
        fps: frames per second.
        crf: rate factor, 0 (best) to 51.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        ValueError: if ``crf`` is out of its range.
    """
    import av

    if not 0 <= crf <= 51:
        raise ValueError(f"crf={crf} must be between 0 (best) and 51")
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    options = {**H264.options, "crf": str(crf)}
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(H264.codec, rate=stream_rate(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = padded.shape[1], padded.shape[2], H264.pixels
        for picture in padded:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as stored:
        decoder = stored.streams.video[0]
        decoder.thread_type = "NONE"
        shown = [frame.to_ndarray(format="rgb24") for frame in stored.decode(decoder)]
    return np.stack(shown)[:, :height, :width]
