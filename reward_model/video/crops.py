"""Parts of a frame: a region enlarged, and a region marked by a rectangle."""

from __future__ import annotations

import numpy as np

from reward_model.schema import Box
from reward_model.video.clip import resize_frames


def enlarged(frame: np.ndarray, box: Box, *, margin: float, side: int) -> np.ndarray:
    """The box of a frame (H, W, 3) uint8 with a margin, a share of its width and height on each side, brought to
    ``side`` pixels on its longer side.
    """
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box.to_pixels(width, height)
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    left, top = int(max(x0 - dx, 0)), int(max(y0 - dy, 0))
    right, bottom = int(min(np.ceil(x1 + dx), width)), int(min(np.ceil(y1 + dy), height))
    part = frame[top:bottom, left:right]
    scale = side / max(part.shape[:2])
    size = (max(round(part.shape[0] * scale), 1), max(round(part.shape[1] * scale), 1))
    return resize_frames(part[None], size)[0]


def marked(frame: np.ndarray, box: Box, color: tuple[int, int, int] = (255, 0, 0)) -> np.ndarray:
    """A copy of a frame (H, W, 3) uint8 with a rectangle around a box: just outside of it, where the frame has room, so
    that nothing in the box is painted over. Its line is a pixel wide for each 200 of the longer side, and at least one.
    """
    height, width = frame.shape[:2]
    line = max(1, round(max(height, width) / 200))
    x0, y0, x1, y1 = box.to_pixels(width, height)
    left, top, right, bottom = int(x0), int(y0), int(np.ceil(x1)), int(np.ceil(y1))
    out_left, out_top = max(left - line, 0), max(top - line, 0)
    out_right, out_bottom = min(right + line, width), min(bottom + line, height)
    picture = frame.copy()
    picture[out_top : out_top + line, out_left:out_right] = color
    picture[out_bottom - line : out_bottom, out_left:out_right] = color
    picture[out_top:out_bottom, out_left : out_left + line] = color
    picture[out_top:out_bottom, out_right - line : out_right] = color
    return picture
