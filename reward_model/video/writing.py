"""Frames to files and pages: the one writer of video files, the encodings that the parts of the house need, and what
every browser shows.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.files import atomic
from reward_model.video.container import VideoError, enlarged_tag


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

#: Below this many pixels on its shorter side a video is enlarged, by repeating pixels, for players to show it well.
MIN_SIDE = 256


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    fps: float,
    encoding: Encoding = H264,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a video file, whole or not at all; the same frames give the same file.

    Args:
        path: the file; its suffix names the container.
        frames: pictures (H, W, 3) uint8 of one size. With ``yuv420p``, which needs even sizes, an odd height or width
            loses its last row or column.
        fps: frames per second.
        metadata: tags of the container.

    Raises:
        VideoError: if there is no frame.
    """
    import av

    first, pictures = _begun(path, frames)
    even = 2 if encoding.pixels == "yuv420p" else 1
    height, width = (side - side % even for side in first.shape[:2])
    rate = stream_rate(fps)
    options = {"movflags": "+faststart"} if encoding.faststart else {}
    with atomic(path) as temporary, av.open(str(temporary.absolute()), "w", options=options) as container:
        container.metadata.update(metadata or {})
        stream: Any = container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
        stream.width, stream.height, stream.pix_fmt = width, height, encoding.pixels
        if encoding.colour:
            stream.codec_context.color_range, stream.codec_context.colorspace = 1, 6
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            if encoding.pixels == "bgr0":
                frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return Path(path)


def _begun(path: str | Path, frames: Iterable[np.ndarray]) -> tuple[np.ndarray, Iterator[np.ndarray]]:
    """The first frame, and all of them."""
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise VideoError(f"{str(path)!r}: a video needs at least one frame to be written, got 0")
    return first, chain([first], pictures)


def stream_rate(fps: float) -> Fraction:
    """A rate as containers store it: 23.976 is 24000/1001, one frame in three seconds 1/3.

    >>> stream_rate(24000 / 1001), stream_rate(16), stream_rate(0.3)
    (Fraction(24000, 1001), Fraction(16, 1), Fraction(3, 10))
    """
    return Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)


# --- for browsers -----------------------------------------------------------------------------------------------------


def display_scale(height: int, width: int) -> int:
    """The whole factor a tiny video is enlarged by in the saved file; 1 for any video of 256 pixels or more."""
    return max(1, math.ceil(MIN_SIDE / min(height, width)))


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes H.264 in MP4, playable in browsers, whole or not at all; an enlarged one states its size as it was.

    Args:
        path: the file.
        frames: (T, H, W, 3) uint8, or such pictures one by one. An odd height or width is completed by repeating its
            last row or column: yuv420p needs even sizes.
        fps: frames per second.

    Returns:
        The factor the picture was enlarged by, see :func:`display_scale`.
    """
    first, pictures = _begun(path, frames)
    height, width = first.shape[:2]
    scale = display_scale(height, width)
    enlarged = (_even(picture.repeat(scale, 0).repeat(scale, 1)) for picture in pictures)
    write_video(path, enlarged, fps, PAGE, enlarged_tag(width, height, scale))
    return scale


def _even(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address that needs no file: ``data_uri(png, "image/png")``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail_uri(frame: np.ndarray, height: int) -> str:
    """One frame (H, W, 3) uint8 as an inline picture at most ``height`` pixels tall; tiny frames stay exact, as PNG."""
    from PIL import Image

    picture, buffer = Image.fromarray(frame), io.BytesIO()
    if picture.height <= height:
        picture.save(buffer, "PNG", optimize=True)
        return data_uri(buffer.getvalue(), "image/png")
    width = max(1, round(picture.width * height / picture.height))
    picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=82)
    return data_uri(buffer.getvalue(), "image/jpeg")
