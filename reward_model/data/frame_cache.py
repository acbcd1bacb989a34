"""Frames of annotated videos, decoded once.

The frames a training ever shows of a video are known beforehand (its scan and zoom grids), so a video is decoded once,
reduced to them, and kept: a few videos in memory, all of them in a folder if one is given.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.digests import text_digest
from reward_model.files import atomic
from reward_model.video.clip import VideoError, load_video
from reward_model.video.framing import FrameFit, Framing

log = logging.getLogger(__name__)


class FrameCache:
    """Selected frames of video files.

    Args:
        folder: where reduced videos are kept as .npy between runs (uint8, uncompressed: the 41 frames of five seconds
            at 8 fps and 480x832 are 49 MB); None keeps none.
        frame_size: side of the square frames are shown in, as the judge does; None keeps their size.
        frame_fit: how they fit into it (:class:`reward_model.video.framing.Framing`).
        max_videos: videos held in memory.

    A cache goes to data-loader workers without its frames. When the folder cannot be written (disk full), frames come
    from memory or are decoded again, and the log says so once.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        frame_size: int | None = None,
        frame_fit: FrameFit = "squeeze",
        max_videos: int = 8,
    ) -> None:
        self.folder = Path(folder) if folder else None
        self.frame_size, self.frame_fit = frame_size, frame_fit
        self.max_videos = max_videos
        self.decoded = 0
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def frames(self, path: Path, indices: Sequence[int], kept: Sequence[int], num_frames: int) -> np.ndarray:
        """The native frames ``indices`` of a video file, (len(indices), H, W, 3) uint8.

        Args:
            path: the video file.
            indices: wanted frames; all of them among ``kept``.
            kept: sorted native frames worth keeping of this video; the same at every call.
            num_frames: length the annotation gives; a file that is shorter than ``kept`` needs is an error.

        Raises:
            VideoError: if the file is missing, broken or too short.
        """
        places = np.searchsorted(kept, indices)
        return np.ascontiguousarray(self._video(Path(path), kept, num_frames)[places])

    def _video(self, path: Path, kept: Sequence[int], num_frames: int) -> np.ndarray:
        key = self._key(path, kept)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        frames = self._load(key)
        if frames is None:
            frames = self._decode(path, kept, num_frames)
            self._save(key, frames)
        self._kept[key] = frames
        while len(self._kept) > self.max_videos:
            self._kept.popitem(last=False)
        return frames

    def _key(self, path: Path, kept: Sequence[int]) -> str:
        """Changes with the file, its date and size, the frames kept, their size and their fit."""
        try:
            stat = path.stat()
        except OSError as error:
            raise VideoError(f"no video file at {str(path)!r} ({error.strerror}); fix the annotation file") from error
        text = f"{path.resolve()}\0{stat.st_mtime_ns}\0{stat.st_size}\0{list(kept)}\0{self.frame_size}"
        if self.frame_size is not None and self.frame_fit != "squeeze":  # folders of former runs stay of use
            text += f"\0{self.frame_fit}"
        return text_digest(text.encode("utf-8", "surrogateescape"))[:24]

    def _decode(self, path: Path, kept: Sequence[int], num_frames: int) -> np.ndarray:
        video = load_video(path, fps=1)  # frames are asked for by their number: any rate will do
        self.decoded += 1
        if kept[-1] >= video.num_frames:
            raise VideoError(
                f"{str(path)!r} has {video.num_frames} frames, but its annotation says {num_frames}; "
                "annotate this file, or restore the file that was annotated"
            )
        framing = Framing(video.size, self.frame_size, self.frame_fit)
        return framing.pad(video.take(kept, framing.inner))

    def _load(self, key: str) -> np.ndarray | None:
        if self.folder is None or not (self.folder / f"{key}.npy").is_file():
            return None
        return np.load(self.folder / f"{key}.npy", mmap_mode="r", allow_pickle=False)

    def _save(self, key: str, frames: np.ndarray) -> None:
        if self.folder is None:
            return
        try:
            with atomic(self.folder / f"{key}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, frames, allow_pickle=False)
        except OSError as error:
            log.warning("frames are no longer kept in %s: %s", self.folder, error)
            self.folder = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}
