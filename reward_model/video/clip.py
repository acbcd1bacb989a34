"""One video, its frames (T, H, W, 3) uint8 RGB and their rate: in memory, or a file that is decoded when its frames are
asked for; and which of its frames are looked at: stride grids, windows on them, the clip of turn two.

Grids are inclusive strides, so 81 frames at 16 fps give the paper's 21 frames at 4 fps (0, 4, ..., 80; section 3.2);
other samplers give 20.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from reward_model.schema import FrameRange
from reward_model.video.container import (
    ENCODE,
    MAX_FPS,
    VideoError,
    VideoFormError,
    allocate,
    broken_off,
    faults,
    open_container,
    repair_command,
    use_threads,
)
from reward_model.video.layouts import FramesLike, to_frames
from reward_model.video.reading import Facts, Upright, facts_and_frames, read_facts, webp_pictures

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = [
    "FileFrames",
    "FileVideo",
    "LazyFrames",
    "Video",
    "VideoError",
    "VideoFormError",
    "VideoLike",
    "check_fps",
    "load_video",
    "native_window",
    "open_file",
    "read_file",
    "resize_frames",
    "sample_indices",
    "shrunk_size",
    "thinned",
    "zoom_indices",
]

#: Frames per second of the two turns (the paper's) and the fewest and most frames of turn two's clip (this project's):
#: the defaults of judges and data tools alike; a checkpoint's ``judge.json`` may say otherwise.
SCAN_FPS, ZOOM_FPS = 4.0, 8.0
MIN_ZOOM_FRAMES, MAX_ZOOM_FRAMES = 4, 48

#: Up to here decoding on is faster than jumping to a key frame.
NEAR = 24


class LazyFrames(ABC):
    """Frames (T, H, W, 3) uint8 that read like an array and are decoded when they are asked for."""

    @abstractmethod
    def take(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """The frames at ``indices``, (N, H, W, 3) uint8, resampled to ``size`` = (height, width) if it is given."""


class Video:
    """Frames and their rate in frames per second.

    Args:
        frames: (T, H, W, 3) uint8: an array, or :class:`LazyFrames`.
        fps: frames per second.
        drawn_size: height and width that a frame had before it was enlarged for players; None: those that it has.
    """

    def __init__(self, frames: Any, fps: float, drawn_size: tuple[int, int] | None = None) -> None:
        self.frames: np.ndarray = frames
        self.fps = fps
        self._drawn_size = drawn_size

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        height, width = self.frames.shape[1:3]
        return height, width

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Height and width that a frame had before it was enlarged for players."""
        return self.size if self._drawn_size is None else self._drawn_size

    def take(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """The frames at ``indices``, (N, H, W, 3) uint8; resampled to ``size`` = (height, width) if it is given.

        Raises:
            VideoError: if the file they come from cannot be decoded there.
        """
        if isinstance(self.frames, LazyFrames):
            return self.frames.take(indices, size)
        picked = self.frames[list(indices)]
        return picked if size is None else resize_frames(picked, size)

    def in_memory(self) -> Video:
        """The same video with all of its frames decoded; errors as of :meth:`take`."""
        return Video(np.asarray(self.frames), self.fps, self.drawn_size)


#: One video in any common form, see :func:`load_video`.
VideoLike: TypeAlias = "str | os.PathLike[str] | Video | FramesLike"


def load_video(video: VideoLike, fps: float | None = None) -> Video:
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
        frames = video.frames if lazy else to_frames(video.frames)
        return Video(frames, check_fps(video.fps if fps is None else fps), video.drawn_size)
    if isinstance(video, str | os.PathLike):
        return open_file(Path(video), None if fps is None else check_fps(fps))
    rate = check_fps(fps)
    return Video(to_frames(video), rate)


def read_file(path: str | Path) -> tuple[np.ndarray, float | None]:
    """All frames of a video file, (T, H, W, 3) uint8, and its frame rate.

    Raises:
        VideoError: if the file is missing, is not a video, breaks off, or its frames take more memory than is allowed.
    """
    fps = read_facts(path).fps
    return np.asarray(open_file(path, fps or 1.0).frames), fps


def check_fps(fps: Any) -> float:
    """``fps`` as a float above zero.

    Raises:
        VideoError: if it is absent, not a number, NaN, infinite, zero or negative.
    """
    if fps is None:
        raise VideoError(
            "fps is required: frames alone carry no time. "
            "Pass fps=..., for instance 16 for Wan-2.1, 24 for LTX, 8 for CogVideoX"
        )
    try:
        value = float(fps)
    except (TypeError, ValueError):
        raise VideoError(f"fps={fps!r} is not a number; pass frames per second, for instance fps=16") from None
    if not math.isfinite(value) or value <= 0:
        raise VideoError(f"fps={fps!r} must be a finite number above zero, for instance fps=16")
    return value


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames resampled to ``size`` = (height, width), area-averaged when shrinking; unchanged if they already have that
    size.
    """
    from PIL import Image

    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    shrinks = frames.shape[1] >= height and frames.shape[2] >= width
    method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), method)) for f in frames])


def shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """A (height, width) in proportion whose shorter side is at most ``side``."""
    factor = min(1.0, side / min(size))
    return round(size[0] * factor), round(size[1] * factor)


# --- which frames are looked at --------------------------------------------------------------------------------------


def sample_indices(num_frames: int, fps: float, target_fps: float) -> list[int]:
    """Native indices of the inclusive stride grid at ``target_fps``: 0, s, 2s, ... with s = fps / target_fps, never
    less than 1.

    >>> len(sample_indices(81, 16, 4)), sample_indices(81, 16, 4)[-1]
    (21, 80)
    """
    if num_frames < 1:
        raise VideoError(f"num_frames={num_frames} must be at least 1")
    stride = max(check_fps(fps) / check_fps(target_fps), 1.0)  # native frames for each sampled one, seldom whole
    # Both ends count: 80 / 4 = 20 strides give 21 frames. In floats 125 / (25 / 3) is just below 15: hence the epsilon.
    count = math.floor((num_frames - 1) / stride + 1e-9) + 1
    return [min(round(k * stride), num_frames - 1) for k in range(count)]


def native_window(
    window: FrameRange, indices: Sequence[int], num_frames: int | None = None, *, margin: str = "half"
) -> FrameRange:
    """The native frames a window of sampled frames stands for.

    Args:
        window: sampled frames, inside ``range(len(indices))``.
        indices: the grid the window was seen on.
        num_frames: length of the video; by default the grid's last frame ends it.
        margin: ``"none"``: from its first frame to its last, the crop of the paper; ``"half"``: from half a stride
            before the first to half a stride after the last, where what was seen may have begun and ended.
    """
    if window.end >= len(indices):
        raise ValueError(f"window {window} is outside a clip of {len(indices)} frames")
    if margin not in ("half", "none"):
        raise ValueError(f"margin={margin!r} must be 'half' or 'none'")
    half = (indices[1] - indices[0]) // 2 if margin == "half" and len(indices) > 1 else 0
    last = (num_frames or indices[-1] + 1) - 1
    return FrameRange(max(indices[window.start] - half, 0), min(indices[window.end] + half, last))


def zoom_indices(
    window: FrameRange,
    num_frames: int,
    fps: float,
    target_fps: float = ZOOM_FPS,
    *,
    min_frames: int = MIN_ZOOM_FRAMES,
    max_frames: int = MAX_ZOOM_FRAMES,
) -> list[int]:
    """Native indices of the clip turn two looks at: the ``target_fps`` grid inside a native window.

    The window is snapped to the grid (at least one frame), widened evenly until it holds ``min_frames`` of them (or the
    video ends), and thinned evenly to ``max_frames``, first and last kept.
    """
    if not 1 <= min_frames <= max_frames:
        raise ValueError(f"zoom needs 1 <= min_frames <= max_frames, got {min_frames} and {max_frames}")
    grid = sample_indices(num_frames, fps, target_fps)
    inside = [k for k, n in enumerate(grid) if n in window]
    if not inside:
        middle = (window.start + window.end) / 2
        inside = [min(range(len(grid)), key=lambda k: abs(grid[k] - middle))]
    first, last = inside[0], inside[-1]
    while last - first + 1 < min(min_frames, len(grid)):
        if last + 1 < len(grid):
            last += 1
        if last - first + 1 < min_frames and first > 0:
            first -= 1
    return thinned(grid[first : last + 1], max_frames)


def thinned(indices: Sequence[int], max_frames: int | None) -> list[int]:
    """At most ``max_frames`` of ``indices``, evenly spread, first and last kept; None: all.

    >>> thinned(range(0, 101, 10), 3)
    [0, 50, 100]
    """
    if max_frames is None or len(indices) <= max_frames:
        return list(indices)
    return [indices[round(i)] for i in np.linspace(0, len(indices) - 1, max_frames)]


# --- a file -----------------------------------------------------------------------------------------------------------


def open_file(path: str | Path, fps: float | None = None) -> FileVideo:
    """A video file, decoded and kept if it is small (:data:`KEEP_BYTES`), else decoded when its frames are asked for.

    Args:
        fps: frames per second, in place of the file's own.

    Raises:
        VideoError: as :func:`read_facts`; the file holds fewer than two frames, cannot be decoded, or states no rate
            while none is given.
    """
    facts, frames = facts_and_frames(path, pixels=True)
    if facts.num_frames < 2:
        raise VideoError(
            f"{str(facts.path)!r} is a still picture: it holds {facts.num_frames} frame(s), and at least 2 are needed "
            "to judge motion; give the video it is from"
        )
    if fps is None and facts.fps is None:
        said = "no frame rate" if facts.stated_fps is None else f"{facts.stated_fps:g} frames per second"
        raise VideoError(
            f"{str(facts.path)!r} states {said}; expected more than 0 and at most {MAX_FPS:g}. Pass fps=..., or write "
            f"the rate into it: {repair_command(facts.path, '-vf', 'setpts=N/16/TB', '-r', '16', *ENCODE)}"
        )
    return FileVideo(facts, check_fps(facts.fps if fps is None else fps), frames)


class FileVideo(Video):
    """A video file as a :class:`~reward_model.video.clip.Video`; the decoded frames of a small one are kept."""

    def __init__(self, facts: Facts, fps: float, frames: np.ndarray | None = None) -> None:
        drawn = None if facts.drawn_size is None else facts.drawn_size[::-1]
        super().__init__(FileFrames(facts) if frames is None else frames, fps, drawn)
        self.facts = facts

    def at(self, fps: float) -> FileVideo:
        """The same frames at another rate."""
        video = FileVideo.__new__(FileVideo)
        Video.__init__(video, self.frames, fps, self.drawn_size)
        video.facts = self.facts
        return video


class FileFrames(LazyFrames):
    """The frames (T, H, W, 3) uint8 of a file too large to be kept, decoded when they are asked for.

    Reads like an array: ``len``, ``shape``, ``nbytes``, an index, a slice or a list of indices, iteration. Whatever
    else an array can do decodes all of it first, within the limit of memory.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._cursor = _Cursor(facts)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self._facts.num_frames, self._facts.height, self._facts.width, 3

    @property
    def nbytes(self) -> int:
        return self._facts.num_frames * self._facts.frame_bytes

    @property
    def size(self) -> int:
        return self.nbytes

    def __len__(self) -> int:
        return self._facts.num_frames

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is None or any(k is Ellipsis for k in (first, *rest)):
            return np.asarray(self)[key]
        places = np.arange(len(self))[first]
        frames = self.take(np.atleast_1d(places).ravel().tolist()) if np.ndim(places) < 2 else np.asarray(self)[first]
        picked = frames if np.ndim(places) else frames[0]
        return picked[(slice(None),) * np.ndim(places) + tuple(rest)] if rest else picked

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self.take(range(len(self))).astype(dtype or np.uint8, copy=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __reduce__(self) -> tuple[type[FileFrames], tuple[object, ...]]:
        return FileFrames, (self._facts,)

    def take(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Some frames, (N, H, W, 3) uint8, resampled to ``size`` = (height, width) one by one if it is given.

        Raises:
            VideoError: if the file cannot be decoded there, or the frames would take more memory than is allowed.
        """
        facts = self._facts
        wanted = [range(facts.num_frames)[k] for k in indices]
        stored = wanted if facts.shown is None else [int(facts.shown[k]) for k in wanted]
        height, width = size or (facts.height, facts.width)
        out = allocate(facts.path, len(wanted), height, width)
        places: dict[int, list[int]] = {}
        for place, k in enumerate(stored):
            places.setdefault(k, []).append(place)
        with faults(facts.path):
            for k, picture in self._cursor.pictures(sorted(places)):
                shown = picture if size is None else resize_frames(picture[None], size)[0]
                for place in places[k]:
                    out[place] = shown
        return out


class _Cursor:
    """A place in a file that moves forwards, and jumps to the key frame before where that is shorter."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._lock = threading.Lock()
        self._coming: Iterator[tuple[int, Callable[[], np.ndarray]]] = iter(())
        self._next = facts.stored + 1
        self._last: tuple[int, np.ndarray] | None = None

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Stored frames by ascending index."""
        with self._lock:
            for k in wanted:
                if self._last is None or self._last[0] != k:
                    self._last = k, self._advance(k)
                yield self._last

    def _advance(self, wanted: int) -> np.ndarray:
        keys = self.facts.keys
        key = keys[bisect_right(keys, wanted) - 1] if keys and keys[0] <= wanted else 0
        if self._next > wanted or key > self._next + NEAR:
            self._coming = _decode(self.facts, key)
            self._next = key
        for k, picture in self._coming:
            self._next = k + 1
            if k == wanted:
                return picture()
            if k > wanted:
                if not key:
                    return picture()  # a frame that the file never shows: the one after it
                break
        if key > 0:  # The jump landed behind the frame: read from the beginning, which always finds it.
            self.facts = replace(self.facts, keys=())
            self._next = self.facts.stored + 1
            return self._advance(wanted)
        raise VideoError(broken_off(self.facts.path, f"{self.facts.stored} frames", f"{wanted} of them"))


def _decode(facts: Facts, first: int) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Stored frames from ``first``, a key frame, to the end: index, and what makes the picture of it."""
    if facts.stream < 0:
        yield from webp_pictures(facts.path)
        return
    with open_container(facts.path) as container:
        stream = container.streams[facts.stream]
        use_threads(stream.codec_context)
        order, upright = facts.order, Upright(facts)
        if first and order is not None:
            container.seek(order[first], stream=stream)
        for k, frame in enumerate(container.decode(stream)):
            place = k if order is None or frame.pts is None else bisect_right(order, frame.pts) - 1
            if place >= first:  # what is seen before the key frame is not whole without the frames before it
                yield place, partial(upright, frame)
