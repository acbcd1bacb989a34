"""Any common form of one video, files included, as a :class:`~reward_model.video.clip.Video`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.video.clip import LazyFrames, Video, check_fps, to_frames
from reward_model.video.frames import open_file
from reward_model.video.reading import read_facts


def load_video(video: Any, fps: float | None = None) -> Video:
    """Any common form of one video.

    Args:
        video: a path; a list of PIL images or (H, W, 3) arrays; numpy (T, H, W, C) uint8 or float in [0, 1]; torch (T,
            C, H, W) or (1, C, T, H, W) uint8 or float in [0, 1]; a :class:`Video`; or a diffusers output with one video
            in ``.frames``.
        fps: frames per second. A file brings its own rate, which an explicit value overrides.

    Raises:
        VideoError: missing or corrupt file, fewer than two frames, a wrong shape, dtype or range, or no usable fps.
    """
    if isinstance(video, Video):
        lazy = isinstance(video.frames, LazyFrames)
        return Video(video.frames if lazy else to_frames(video.frames), check_fps(video.fps if fps is None else fps))
    if isinstance(video, str | os.PathLike):
        return open_file(Path(video), None if fps is None else check_fps(fps))
    rate = check_fps(fps)
    return Video(to_frames(video), rate)


def read_file(path: str | Path) -> tuple[np.ndarray, float | None]:
    """All frames of a video file, (T, H, W, 3) uint8, and its frame rate.

    Raises:
        VideoError: the file is missing, is not a video, breaks off, or its frames take more memory than is allowed.
    """
    fps = read_facts(path).fps
    return np.asarray(open_file(path, fps or 1.0).frames), fps
