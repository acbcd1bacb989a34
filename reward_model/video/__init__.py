"""Videos: what a file is, its frames as a player shows them, and which frames are looked at.

Reading order: ``clip`` (one video, in memory or a file; grids and windows), ``framing`` (the square a frame is shown
in), ``layouts`` (frames as libraries hand them over), ``reading`` (a file's facts and pictures), ``container`` (a file
opened safely), ``writing``, ``round_trip`` (frames through a codec). Where a file's frames do not follow each other at
a constant rate, it is read as one of constant rate that shows at every moment what a player would show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "Video": "reward_model.video.clip",
    "VideoError": "reward_model.video.clip",
    "VideoFormError": "reward_model.video.clip",
    "VideoHeader": "reward_model.video.reading",
    "check_fps": "reward_model.video.clip",
    "load_video": "reward_model.video.clip",
    "native_window": "reward_model.video.clip",
    "read_file": "reward_model.video.clip",
    "resize_frames": "reward_model.video.clip",
    "sample_indices": "reward_model.video.clip",
    "thinned": "reward_model.video.clip",
    "to_frames": "reward_model.video.layouts",
    "write_video": "reward_model.video.writing",
    "zoom_indices": "reward_model.video.clip",
}

__all__ = [
    "Video",
    "VideoError",
    "VideoFormError",
    "VideoHeader",
    "check_fps",
    "load_video",
    "native_window",
    "read_file",
    "resize_frames",
    "sample_indices",
    "thinned",
    "to_frames",
    "write_video",
    "zoom_indices",
]

if TYPE_CHECKING:
    from reward_model.video.clip import (
        Video,
        VideoError,
        VideoFormError,
        check_fps,
        load_video,
        native_window,
        read_file,
        resize_frames,
        sample_indices,
        thinned,
        zoom_indices,
    )
    from reward_model.video.layouts import to_frames
    from reward_model.video.reading import VideoHeader
    from reward_model.video.writing import write_video

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
