"""The only place that knows frame layouts and time.

Every video becomes (T, H, W, 3) uint8 RGB. Grids are inclusive strides, so 81 frames at 16 fps give the paper's 21
frames at 4 fps (0, 4, ..., 80; F-57); other samplers give 20.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.schema import FrameRange


class VideoError(ValueError):
    """The video cannot be read, or its frames or its fps make no sense. The message names the value and the remedy."""


class VideoFormError(VideoError):
    """What was passed is not of a form that :func:`load_video` reads: a mistake of the caller, not of the video."""


class Video:
    """Frames and their rate in frames per second.

    Args:
        frames: (T, H, W, 3) uint8: an array, or :class:`~reward_model.video.frames.FileFrames`, which reads like one.
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
            VideoError: the file they come from cannot be decoded there.
        """
        from reward_model.video.frames import FileFrames

        if isinstance(self.frames, FileFrames):
            return self.frames.take(indices, size)
        picked = self.frames[list(indices)]
        return picked if size is None else resize_frames(picked, size)


def check_fps(fps: Any) -> float:
    """``fps`` as a float above zero.

    Raises:
        VideoError: it is absent, not a number, NaN, infinite, zero or negative.
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
        from reward_model.video.frames import FileFrames

        lazy = isinstance(video.frames, FileFrames)
        return Video(video.frames if lazy else to_frames(video.frames), check_fps(video.fps if fps is None else fps))
    if isinstance(video, str | os.PathLike):
        from reward_model.video.frames import open_file

        return open_file(Path(video), None if fps is None else check_fps(fps))
    rate = check_fps(fps)
    return Video(to_frames(video), rate)


def to_frames(video: Any) -> np.ndarray:
    """The frames of an in-memory video as contiguous (T, H, W, 3) uint8; layouts as in :func:`load_video`."""
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
    if len(items) == 1 and not hasattr(items[0], "size"):
        return to_frames(items[0])
    if len(items) == 1 and getattr(items[0], "ndim", 0) in (4, 5):
        return to_frames(items[0])
    if hasattr(items[0], "detach"):
        shapes = {tuple(t.shape) for t in items}
        arrays = [t.detach().cpu().numpy() for t in items]
        arrays = [a.transpose(1, 2, 0) if a.ndim == 3 else a for a in arrays]
    else:
        arrays = [np.asarray(i.convert("RGB")) if hasattr(i, "convert") else np.asarray(i) for i in items]
        shapes = {a.shape for a in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 3:
        raise VideoFormError(f"the frames of one video must share one (H, W, C) shape, got {sorted(map(str, shapes))}")
    return np.stack(arrays)


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


def read_file(path: str | Path) -> tuple[np.ndarray, float | None]:
    """All frames of a video file, (T, H, W, 3) uint8, and its frame rate.

    Raises:
        VideoError: the file is missing, is not a video, breaks off, or its frames take more memory than is allowed.
    """
    from reward_model.video.frames import open_file
    from reward_model.video.reading import read_facts

    fps = read_facts(path).fps
    return np.asarray(open_file(path, fps or 1.0).frames), fps


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


def sample_indices(num_frames: int, fps: float, target_fps: float) -> list[int]:
    """Native indices of the inclusive stride grid at ``target_fps``: 0, s, 2s, ... with s = fps / target_fps, never
    less than 1.

    >>> len(sample_indices(81, 16, 4)), sample_indices(81, 16, 4)[-1]
    (21, 80)
    """
    if num_frames < 1:
        raise VideoError(f"num_frames={num_frames} must be at least 1")
    stride = max(check_fps(fps) / check_fps(target_fps), 1.0)
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
    target_fps: float = 8.0,
    *,
    min_frames: int = 4,
    max_frames: int = 24,
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
