"""What a video file is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Facts:
    """What a video file is, found without decoding more than its first picture.

    Attributes:
        path: the file.
        num_frames: frames at ``fps``.
        fps: frames per second; None where the file states none, or one that nobody believes.
        stated_fps: what its header says.
        width, height: pixels as they are shown.
        shown: which stored frame is seen at each frame of constant rate; None: each at its own, one after the other.
        stored: frames that the file holds.
        order: time stamp of each stored frame in ascending order, in units of the stream; None without time stamps.
        keys: stored frames that decoding can begin at.
        stream: the index of the video stream; -1: Pillow reads the file.
        as_stored: a reader that shows each frame of the first video stream as it is stored, at the stated rate, gives
            the same: nothing is turned, widened, hidden or shown for longer than the others.
        pixel_aspect: width of a stored pixel over its height; 1: stored pixels are shown as they are.
        stored_size: width and height, upright, of pictures whose pixels are not square; None: those that are shown.
    """

    path: Path
    num_frames: int
    fps: float | None
    stated_fps: float | None
    width: int
    height: int
    shown: np.ndarray | None
    stored: int
    order: tuple[int, ...] | None
    keys: tuple[int, ...]
    stream: int
    as_stored: bool = False
    pixel_aspect: float = 1.0
    stored_size: tuple[int, int] | None = None

    @property
    def frame_bytes(self) -> int:
        """One frame of 8-bit RGB."""
        return self.width * self.height * 3
