"""The one writer of video files, and the encodings that the parts of the house need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.files import atomic
from reward_model.video.clip import VideoError


@dataclass(frozen=True)
class Encoding:
    """An encoding: a codec of FFmpeg, the form of its pixels, and its options.

    Attributes:
        colour: stated BT.601, limited range, as players assume of small videos; without it RGB is stored as it is.
        faststart: the index comes first, so that a browser can begin to play before it has the whole file.
    """

    codec: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    colour: bool = False
    faststart: bool = False


#: Nearly lossless H.264: at a rate factor of 12 the error of 8-bit video is about that of its conversion to 4:2:0, so
#: the codec hides no anomaly and adds none. With x264's macroblock tree, equal frames now and then gave other bytes,
#: depending on what the memory held before.
H264 = Encoding(
    "libx264",
    "yuv420p",
    {"crf": "12", "preset": "veryfast", "bf": "0", "threads": "1", "mbtree": "0"},
    colour=True,
    faststart=True,
)
#: For pages. Without B-frames the time stamp of frame k is exactly k / fps, which the boxes of a page go by.
PAGE = Encoding("libx264", "yuv420p", {"crf": "15", "preset": "veryfast", "bf": "0"}, colour=True, faststart=True)
#: Gives every pixel back; large, and no browser plays it.
LOSSLESS_H264 = Encoding("libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast", "bf": "0"})
#: Gives every pixel back; in Matroska (``.mkv``).
FFV1 = Encoding("ffv1", "bgr0")


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float, encoding: Encoding = H264) -> Path:
    """Writes a video file, whole or not at all; the same frames give the same file.

    Args:
        path: the file; its suffix names the container.
        frames: pictures (H, W, 3) uint8 of one size. With ``yuv420p``, which needs even sizes, an odd height or width
            loses its last row or column.
        fps: frames per second.

    Raises:
        VideoError: if there is no frame.
    """
    import av

    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise VideoError(f"{str(path)!r}: a video needs at least one frame to be written, got 0")
    even = 2 if encoding.pixels == "yuv420p" else 1
    height, width = (side - side % even for side in first.shape[:2])
    rate = stream_rate(fps)
    options = {"movflags": "+faststart"} if encoding.faststart else {}
    with atomic(path) as temporary, av.open(str(temporary.absolute()), "w", options=options) as container:
        stream: Any = container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
        stream.width, stream.height, stream.pix_fmt = width, height, encoding.pixels
        if encoding.colour:
            stream.codec_context.color_range, stream.codec_context.colorspace = 1, 6
        picture: np.ndarray | None = first
        number = 0
        while picture is not None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            if encoding.pixels == "bgr0":
                frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
            picture, number = next(pictures, None), number + 1
        container.mux(stream.encode())
    return Path(path)


def stream_rate(fps: float) -> Fraction:
    """A rate as containers store it: 23.976 is 24000/1001, one frame in three seconds 1/3.

    >>> stream_rate(24000 / 1001), stream_rate(16), stream_rate(0.3)
    (Fraction(24000, 1001), Fraction(16, 1), Fraction(3, 10))
    """
    return Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
