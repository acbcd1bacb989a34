"""Frames to files that every browser plays."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np

from reward_model.video.writing import PAGE, write_video

#: Below this many pixels on its shorter side a video is enlarged, by repeating pixels, for players to show it well.
MIN_SIDE = 256


def display_scale(height: int, width: int) -> int:
    """The whole factor a tiny video is enlarged by in the saved file; 1 for any video of 256 pixels or more."""
    return max(1, math.ceil(MIN_SIDE / min(height, width)))


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> int:
    """Writes H.264 in MP4, playable in browsers, whole or not at all.

    Args:
        path: the file.
        frames: (T, H, W, 3) uint8. An odd height or width is completed by repeating its last row or column: yuv420p
            needs even sizes.
        fps: frames per second.

    Returns:
        The factor the picture was enlarged by, see :func:`display_scale`.
    """
    scale = display_scale(*frames.shape[1:3])
    write_video(path, (_even(picture.repeat(scale, 0).repeat(scale, 1)) for picture in frames), fps, PAGE)
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
