"""Videos in TensorBoard: animated pictures, encoded by Pillow (``SummaryWriter.add_video`` would need moviepy)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Frames lower than the first are enlarged by a whole number, frames larger than the second are reduced.
MIN_HEIGHT, MAX_SIDE = 144, 320
#: Longer videos are thinned evenly and keep their length in seconds.
MAX_FRAMES = 32


def add_gif(board: SummaryWriter, tag: str, gif: bytes, step: int) -> None:
    """Writes an animated GIF as it is to a ``SummaryWriter``."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = gif_size(gif)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
    board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def encode_gif(frames: Sequence[np.ndarray] | np.ndarray, fps: float) -> bytes:
    """An endless GIF of frames (T, H, W, 3) uint8, in the video's own time.

    Raises:
        ValueError: if there is no frame, or ``fps`` is not positive.
    """
    from PIL import Image

    if len(frames) == 0 or not fps > 0:
        raise ValueError(f"a video needs at least one frame and a positive rate, got {len(frames)} frames at {fps} fps")
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)
    height, width = frames[0].shape[:2]
    factor = min(float(max(1, -(-MIN_HEIGHT // height))), MAX_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    pictures = [Image.fromarray(np.asarray(frames[k])).resize(size, how) for k in chosen]
    file = io.BytesIO()
    # GIF counts in hundredths of a second.
    duration = max(20, 10 * round(100 * len(frames) / fps / len(chosen)))
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False)
    return file.getvalue()


def gif_size(gif: bytes) -> tuple[int, int]:
    """Height and width in pixels."""
    return int.from_bytes(gif[8:10], "little"), int.from_bytes(gif[6:8], "little")
