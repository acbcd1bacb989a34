"""A video with the judge's findings drawn into it, for places where no page can be shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cac_align.report.view import boxes_by_frame, hold_frames, windows_of
from reward_model.schema import Box
from reward_model.video.writing import display_scale, write_mp4

if TYPE_CHECKING:
    from reward_model.schema import Verdict

BOX, WINDOW, GROUND, HEAD = (255, 59, 36), (242, 193, 78), (40, 43, 49), (255, 255, 255)
BAR = 12


def draw_overlay(frames: np.ndarray, verdict: Verdict) -> np.ndarray:
    """Boxes on the frames they belong to, and below the picture a bar with the suspicious window and the current
    moment.

    Args:
        frames: (T, H, W, 3) uint8; a tiny video is enlarged first, by repeating pixels.
        verdict: the judge's decision about these frames.

    Returns:
        (T, H', W', 3) uint8 with H' = scale * H + 12.
    """
    return np.stack(list(_pictures(frames, verdict)))


def write_overlay(path: Path, frames: np.ndarray, verdict: Verdict, fps: float) -> Path:
    """Writes :func:`draw_overlay` as an MP4, picture by picture, and returns its path.

    Raises:
        VideoError: if frames that are decoded only now cannot be.
    """
    write_mp4(path, _pictures(frames, verdict), fps)
    return path


def _pictures(frames: np.ndarray, verdict: Verdict) -> Iterator[np.ndarray]:
    from PIL import Image, ImageDraw

    scale = display_scale(*frames.shape[1:3])
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    line = max(2, min(height, width) // 160)
    boxes, hold, windows = boxes_by_frame(verdict), hold_frames(verdict), windows_of(verdict)
    for k, frame in enumerate(frames):
        picture = Image.new("RGB", (width, height + BAR), GROUND)
        picture.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST))
        pen = ImageDraw.Draw(picture)
        shown = max((j for j in map(int, boxes) if j <= k < j + hold), default=None)
        for item in boxes.get(str(shown), []):
            x0, y0, x1, y1 = Box(*item["box"]).to_pixels(width, height)
            pen.rectangle((round(x0), round(y0), round(x1) - 1, round(y1) - 1), outline=BOX, width=line)
        for window in windows:
            ends = (window.start / len(frames) * width, (window.end + 1) / len(frames) * width)
            pen.rectangle((round(ends[0]), height + 3, round(ends[1]) - 1, height + BAR - 4), fill=WINDOW)
        now = round((k + 0.5) / len(frames) * width)
        pen.rectangle((now - 1, height, now, height + BAR), fill=HEAD)
        yield np.asarray(picture)
