"""Frames to H.264, so nearly lossless that the codec hides no anomaly and adds none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reward_model.files import atomic
from reward_model.video.writing import stream_rate

#: Constant rate factor: at 12 the error of 8-bit video is about that of its conversion to 4:2:0.
CRF = 12


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Writes (T, H, W, 3) uint8 frames as H.264 in MP4 (yuv420p, BT.601), whole or not at all.

    An odd height or width loses its last row or column, because yuv420p needs even sizes.
    """
    import av

    height, width = (side - side % 2 for side in frames.shape[1:3])
    # With x264's macroblock tree, equal frames now and then gave other bytes, depending on what the memory held before.
    options = {"crf": str(CRF), "preset": "veryfast", "bf": "0", "threads": "1", "mbtree": "0"}
    with (
        atomic(path) as temporary,
        av.open(str(temporary.absolute()), "w", options={"movflags": "+faststart"}) as container,
    ):
        rate = stream_rate(fps)
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.color_range, stream.codec_context.colorspace = 1, 6
        for k, picture in enumerate(frames):
            cropped = np.ascontiguousarray(picture[:height, :width])
            frame = av.VideoFrame.from_ndarray(cropped, format="rgb24")
            frame.pts, frame.time_base = k, 1 / rate  # stated, so that the same frames give the same file
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
