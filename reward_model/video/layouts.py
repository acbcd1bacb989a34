"""Frames in memory: the layouts that libraries and pipelines hand over, all brought to (T, H, W, 3) uint8 RGB."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from reward_model.video.container import VideoError, VideoFormError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class HasFrames(Protocol):
    """The output of a diffusers pipeline: one video in ``frames``."""

    @property
    def frames(self) -> Any: ...


#: Frames in memory, see :func:`~reward_model.video.load_video`.
FramesLike: TypeAlias = "np.ndarray | torch.Tensor | Sequence[np.ndarray | torch.Tensor | Image] | HasFrames"


def to_frames(video: FramesLike) -> np.ndarray:
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


def split_frames(output: Any, count: int) -> list[np.ndarray]:
    """The videos in a pipeline's output, each (T, H, W, 3) uint8.

    Raises:
        ValueError: if there are no frames, or not ``count`` videos of at least two frames.
    """
    frames = getattr(output, "frames", None)
    if frames is None and isinstance(output, tuple | list) and output:
        frames = output[0]
    if frames is None or isinstance(frames, str | bytes):
        raise ValueError(
            f"the pipeline returned {type(output).__name__} without frames; "
            "use a video pipeline, whose output has .frames"
        )
    if getattr(frames, "ndim", 5) == 4:
        frames = [frames]
    if len(frames) != count:
        raise ValueError(f"the pipeline returned {len(frames)} videos where {count} were asked for; try batch_size=1")
    try:
        return [to_frames(video) for video in frames]
    except VideoError as error:
        raise VideoError(f"the pipeline's output is not a usable video: {error}") from error


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
