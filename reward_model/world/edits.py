"""The effect of a shift on finished pictures and on their truth: colours, light, blur, noise, mirror image and bars."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reward_model.schema import BOX_SCALE, Anomaly, Box, FrameRange, VideoAnnotation
from reward_model.world.palette import BACKGROUNDS, COLORS
from reward_model.world.shift import Shift

#: Weights of red, green and blue in the grey of a colour (BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def inner_shape(shift: Shift) -> tuple[int, int]:
    """Height and width in pixels of the picture between the bars."""
    height, width = shift.shape
    return _inside(height, shift.letterbox), _inside(width, shift.pillarbox)


def _inside(side: int, share: float) -> int:
    return side - 2 * round(side * share / 2)


def edit_frames(
    frames: np.ndarray, indices: Sequence[int], shift: Shift, seed: int, grey: np.ndarray = LUMA
) -> np.ndarray:
    """Drawn pictures as the shift shows them.

    Args:
        frames: (N, h, w, 3) uint8 of the :func:`inner_shape`.
        indices: native index of each: noise is a function of it and of the seed, whatever else is drawn.
        shift: what is done.
        seed: seed of the video.
        grey: (3,) what red, green and blue add to the grey of a colour, see :func:`grey_filter`.

    Returns:
        (N, H, W, 3) uint8.
    """
    picture = _relit(_recolored(frames, shift, grey), shift)
    if shift.blur:
        picture = _blurred(picture, shift.blur * min(shift.shape))
    if shift.noise:
        picture = _noisy(picture, indices, shift, seed)
    if shift.mirror:
        picture = picture[:, :, ::-1]
    (height, width), (h, w) = shift.shape, frames.shape[1:3]
    top, left = (height - h) // 2, (width - w) // 2
    around = ((0, 0), (top, height - h - top), (left, width - w - left), (0, 0))
    return np.ascontiguousarray(np.pad(picture, around))


def grey_filter(colors: np.ndarray) -> np.ndarray:
    """(3,): the filter before a black-and-white film that keeps two colours (2, 3) furthest apart: as the eye sees
    them, or through a red, green or blue glass. Without it a red thing on a grey ground could be gone.
    """
    glasses = np.stack([LUMA, *(0.8 * np.eye(3, dtype=np.float32) + 0.2 / 3)])
    return np.asarray(glasses[np.abs(glasses @ (colors[0] - colors[1])).argmax()], np.float32)


def _recolored(frames: np.ndarray, shift: Shift, weights: np.ndarray) -> np.ndarray:
    """Frames in other colours."""
    if shift.channels != (0, 1, 2):
        frames = frames[..., list(shift.channels)]
    if not shift.hue and shift.saturation == 1:
        return frames
    grey = np.broadcast_to(weights, (3, 3))
    pale = grey + np.float32(shift.saturation) * (np.eye(3, dtype=np.float32) - grey)
    picture = frames.reshape(-1, 3).astype(np.float32) @ (pale @ _hue_rotation(shift.hue)).T
    return _levels(picture).reshape(frames.shape)


def _relit(frames: np.ndarray, shift: Shift) -> np.ndarray:
    """Frames in another light."""
    if shift.contrast == 1 and not shift.brightness:
        return frames
    # About the middle of a usual picture, not of these frames: a frame must look the same in any selection.
    return _levels((np.arange(256) - 110) * shift.contrast + 110 + shift.brightness)[frames]


def _blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    from PIL import Image, ImageFilter

    kernel = ImageFilter.GaussianBlur(sigma)
    return np.stack([np.asarray(Image.fromarray(frame).filter(kernel)) for frame in frames])


def _noisy(frames: np.ndarray, indices: Sequence[int], shift: Shift, seed: int) -> np.ndarray:
    """Frames with noise: another crop of one tile for each native frame, as the grain of the world has it."""
    height, width = frames.shape[1:3]
    rng = np.random.default_rng([seed, 9])
    tile = rng.standard_normal((2 * height, 2 * width, 3), np.float32) * np.float32(shift.noise)
    corners = rng.integers(0, (height, width), size=(shift.num_frames, 2))[list(indices)]
    return _levels(frames + np.stack([tile[a : a + height, b : b + width] for a, b in corners]))


def _levels(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _hue_rotation(degrees: float) -> np.ndarray:
    """(3, 3): a rotation about the axis of greys."""
    if not degrees:
        return np.eye(3, dtype=np.float32)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)) / np.sqrt(3)
    third = (1 - cos) / 3
    return np.array(
        [
            [cos + third, third - sin, third + sin],
            [third + sin, cos + third, third - sin],
            [third - sin, third + sin, cos + third],
        ],
        np.float32,
    )


def edit_truth(truth: VideoAnnotation, first: int, shift: Shift) -> VideoAnnotation:
    """The truth of a drawn scene in the geometry, time and words of the shift; ``first`` is shown as frame 0."""
    height, width = shift.shape
    return replace(
        truth,
        video_id=f"{truth.video_id}-{shift.name.replace(' ', '-')}",
        num_frames=shift.num_frames,
        fps=shift.fps,
        width=width,
        height=height,
        prompt=words_of(truth.prompt, shift),
        anomalies=tuple(_edit_anomaly(a, truth, first, shift) for a in truth.anomalies),
    )


def _edit_anomaly(anomaly: Anomaly, truth: VideoAnnotation, first: int, shift: Shift) -> Anomaly:
    last = shift.num_frames - 1
    return replace(
        anomaly,
        frames=FrameRange(anomaly.frames.start - first, anomaly.frames.end - first),
        boxes={
            n - first: tuple(_edit_box(box, truth, shift) for box in boxes)
            for n, boxes in anomaly.boxes.items()
            if 0 <= n - first <= last
        },
        objects=tuple(words_of(name, shift) for name in anomaly.objects),
        reason=words_of(anomaly.reason, shift),
        region=words_of(anomaly.region, shift),
    )


def _edit_box(box: Box, truth: VideoAnnotation, shift: Shift) -> Box:
    if shift.mirror:
        box = Box(BOX_SCALE - box.xmax, box.ymin, BOX_SCALE - box.xmin, box.ymax)
    height, width = shift.shape
    if (height, width) == (truth.height, truth.width):
        return box
    left, top = (width - truth.width) // 2, (height - truth.height) // 2
    # Corners lie on pixels, which rounding outwards on the grid of boxes has left by less than half a pixel.
    x0, y0, x1, y1 = (round(v) for v in box.to_pixels(truth.width, truth.height))
    return Box.from_pixels(x0 + left, y0 + top, x1 + left, y1 + top, width, height)


def words_of(text: str, shift: Shift) -> str:
    """Words that are true of the new picture: directions exchanged in a mirror, no colours where they have changed."""
    if shift.mirror:
        other = {"left": "right", "right": "left"}
        text = re.sub(r"\b(left|right)\b", lambda found: other[found[1]], text)
    if shift.changes_colors:
        text = re.sub(rf"\b({'|'.join((*COLORS, *BACKGROUNDS))}) ", "", text)
    return text
