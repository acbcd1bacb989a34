"""Any common form of one video: frames in memory, in the layouts that libraries hand over, all brought to (T, H, W, 3)
uint8 RGB; or a file, decoded when its frames are asked for.
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
from typing import Any

import numpy as np

from reward_model.video.container import (
    ENCODE,
    MAX_FPS,
    VideoError,
    VideoFormError,
    allocate,
    broken_off,
    faults,
    open_container,
    repair,
    use_threads,
)
from reward_model.video.reading import Facts, Upright, facts_and_frames, read_facts, webp_pictures

__all__ = [
    "FileFrames",
    "FileVideo",
    "LazyFrames",
    "Video",
    "VideoError",
    "VideoFormError",
    "check_fps",
    "load_video",
    "open_file",
    "read_file",
    "resize_frames",
    "to_frames",
]

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
    """

    def __init__(self, frames: Any, fps: float) -> None:
        self.frames: np.ndarray = frames
        self.fps = fps

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def take(self, indices: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """The frames at ``indices``, (N, H, W, 3) uint8; resampled to ``size`` = (height, width) if it is given.

        Raises:
            VideoError: if the file they come from cannot be decoded there.
        """
        if isinstance(self.frames, LazyFrames):
            return self.frames.take(indices, size)
        picked = self.frames[list(indices)]
        return picked if size is None else resize_frames(picked, size)


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


# --- frames in memory -------------------------------------------------------------------------------------------------


def to_frames(video: Any) -> np.ndarray:
    """The frames of an in-memory video as contiguous (T, H, W, 3) uint8; layouts as in
    :func:`~reward_model.video.load_video`."""
    if hasattr(video, "frames") and not isinstance(video, np.ndarray):
        video = video.frames
    if hasattr(video, "detach"):
        array = _from_torch(video)
    elif isinstance(video, np.ndarray):
        array = video
    elif isinstance(video, Sequence) and not isinstance(video, str | bytes):
        array = _from_list(video)
    elif hasattr(video, "__array__"):
        array = np.asarray(video)
    else:
        raise VideoFormError(
            f"cannot read a video from {type(video).__name__}; "
            "pass a path, a list of images, a numpy array or a torch tensor"
        )
    if array.ndim == 5 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        raise VideoFormError(
            f"frames have shape {array.shape}; expected (T, H, W, C) with C of 1, 3 or 4 "
            "(torch: (T, C, H, W) or (1, C, T, H, W))"
        )
    if array.shape[0] < 2:
        raise VideoError(f"the video has {array.shape[0]} frame(s); at least 2 are needed to judge motion")
    if 0 in array.shape:
        raise VideoFormError(f"frames have an empty axis: shape {array.shape}")
    array = _to_uint8(array)
    array = np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array[..., :3]
    return np.ascontiguousarray(array)


def _from_torch(tensor: Any) -> np.ndarray:
    array = tensor.detach().cpu()
    array = (array.float() if array.is_floating_point() else array).numpy()
    if array.ndim == 5 and array.shape[0] == 1 and array.shape[1] in (1, 3, 4):
        array = array[0].transpose(1, 0, 2, 3)
    elif array.ndim == 5 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4):
        raise VideoFormError(
            f"torch video has shape {tuple(tensor.shape)}; expected (T, C, H, W) or (1, C, T, H, W) with C of 1, 3 or 4"
        )
    return array.transpose(0, 2, 3, 1)


def _from_list(items: Sequence[Any]) -> np.ndarray:
    if not items:
        raise VideoError("the video has 0 frame(s); at least 2 are needed to judge motion")
    if len(items) == 1 and (not hasattr(items[0], "size") or getattr(items[0], "ndim", 0) in (4, 5)):
        return to_frames(items[0])  # a batch of one video
    arrays = [_picture(item) for item in items]
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 3:
        raise VideoFormError(f"the frames of one video must share one (H, W, C) shape, got {sorted(map(str, shapes))}")
    return np.stack(arrays)


def _picture(item: Any) -> np.ndarray:
    """One frame: a tensor (C, H, W), an image of Pillow, or an array (H, W, C)."""
    if hasattr(item, "detach"):
        array = item.detach().cpu().numpy()
        return array.transpose(1, 2, 0) if array.ndim == 3 else array
    return np.asarray(item.convert("RGB") if hasattr(item, "convert") else item)


def _to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise VideoFormError(f"frames have dtype {array.dtype}; expected uint8 (0-255) or float (0-1)")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise VideoError(
            "frames hold NaN or infinite values: the sampler diverged, or half precision overflowed in the VAE"
        )
    if low < -0.01 or high > 1.01:
        raise VideoFormError(
            f"float frames span [{low:.3g}, {high:.3g}]; expected [0, 1]. Rescale them, or convert to uint8"
        )
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


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
            f"the rate into it: {repair(facts.path, '-vf', 'setpts=N/16/TB', '-r', '16', *ENCODE)}"
        )
    return FileVideo(facts, check_fps(facts.fps if fps is None else fps), frames)


class FileVideo(Video):
    """A video file as a :class:`~reward_model.video.clip.Video`; the decoded frames of a small one are kept."""

    def __init__(self, facts: Facts, fps: float, frames: np.ndarray | None = None) -> None:
        super().__init__(FileFrames(facts) if frames is None else frames, fps)
        self.facts = facts

    def at(self, fps: float) -> FileVideo:
        """The same frames at another rate."""
        video = FileVideo.__new__(FileVideo)
        Video.__init__(video, self.frames, fps)
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
        found = self.take(np.atleast_1d(places).ravel().tolist()) if np.ndim(places) < 2 else np.asarray(self)[first]
        picked = found if np.ndim(places) else found[0]
        return picked[(slice(None),) * np.ndim(places) + tuple(rest)] if rest else picked

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.take(range(len(self))).astype(dtype or np.uint8, copy=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __reduce__(self) -> Any:
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
        self._found: Iterator[tuple[int, Callable[[], np.ndarray]]] = iter(())
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
            self._found = _decode(self.facts, key)
            self._next = key
        for k, picture in self._found:
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
