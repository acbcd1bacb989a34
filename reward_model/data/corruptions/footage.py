"""A video prepared for editing: a small grey copy, the camera's path, and what moves by itself.

Everything that searches works on the small copy (192 pixels on its longer side); only the pixels that change are
touched at full size.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import CorruptionError, Rect
from reward_model.data.corruptions.camera import fit_motion, warp_grey
from reward_model.video.clip import check_fps

SMALL_SIDE = 192


class Footage:
    """Frames (T, H, W, 3) uint8 at ``fps``, and what the operators need to know about them (computed when asked).

    Raises:
        CorruptionError: another shape or dtype, fewer than 8 frames, or a side below 16 pixels.
    """

    def __init__(self, frames: np.ndarray, fps: float) -> None:
        if not isinstance(frames, np.ndarray) or frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise CorruptionError(
                f"frames have shape {np.shape(frames)} and dtype {getattr(frames, 'dtype', '?')}; "
                "expected (T, H, W, 3) uint8. reward_model.video.to_frames converts any common form"
            )
        if len(frames) < 8 or min(frames.shape[1:3]) < 16:
            raise CorruptionError(
                f"the video has {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} pixels; an anomaly needs at"
                " least 8 frames and 16 pixels a side. Use a longer or larger one"
            )
        self.frames, self.fps = frames, check_fps(fps)
        self._fits: dict[tuple[int, int], np.ndarray] = {}
        self._motions: dict[int, np.ndarray] = {}
        #: What :func:`reward_model.data.corruptions.own_motion.own_motion` has measured.
        self.own_motions: dict[tuple[int, tuple[float, ...]], tuple[float, float, float, int]] = {}

    @cached_property
    def small(self) -> np.ndarray:
        """Grey copy (T, h, w) float32."""
        from PIL import Image

        height, width = self.frames.shape[1:3]
        factor = min(1.0, SMALL_SIDE / max(height, width))
        size = max(8, round(width * factor)), max(8, round(height * factor))
        grey = (Image.fromarray(f).convert("L") for f in self.frames)
        box = Image.Resampling.BOX
        return np.stack([np.asarray(g.resize(size, box, reducing_gap=2.0), np.float32) for g in grey])

    @property
    def scale(self) -> np.ndarray:
        """(2,) small pixels per full pixel, along x and y."""
        return np.array([self.small.shape[2] / self.frames.shape[2], self.small.shape[1] / self.frames.shape[1]])

    @cached_property
    def path(self) -> np.ndarray:
        """(T, 3, 3): where the background of frame 0 is in frame t, small pixels."""
        path = [np.eye(3)]
        for before, after in zip(self.small[:-1], self.small[1:], strict=True):
            path.append(fit_motion(before, after) @ path[-1])
        return np.stack(path)

    def camera(self, source: int, target: int) -> np.ndarray:
        """(3, 3): where the background of frame ``source`` is in frame ``target``, small pixels; refined on the two
        frames themselves, so that a long path gathers no drift.
        """
        key = (source, target)
        if key not in self._fits:
            chained = self.path[target] @ np.linalg.inv(self.path[source])
            self._fits[key] = (
                np.eye(3) if source == target else fit_motion(self.small[source], self.small[target], chained)
            )
        return self._fits[key]

    def full_camera(self, source: int, target: int) -> np.ndarray:
        """:meth:`camera` in full pixels."""
        sx, sy = self.scale
        to_small = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
        return np.linalg.inv(to_small) @ self.camera(source, target) @ to_small

    def view(self, source: int, target: int, rect: Rect) -> np.ndarray:
        """Pixels that frame ``source`` shows where frame ``target`` has ``rect``, (h, w, 3) float32: the background
        stays in place although the camera moved.
        """
        motion = self.full_camera(target, source)
        return sample_rect(self.frames[source], motion, rect)

    def motion(self, index: int) -> np.ndarray:
        """Own motion of each small pixel of a frame, (h, w): differences to an earlier *and* a later frame after the
        camera's motion is removed, above the picture's own noise.
        """
        if index not in self._motions:
            best = np.zeros_like(self.small[0])
            for seconds in (0.12, 0.3):
                lag = max(1, round(seconds * self.fps))
                sides = [self._difference(index, k) for k in (index - lag, index + lag) if 0 <= k < len(self.small)]
                if len(sides) == 2:
                    best = np.maximum(best, np.minimum(*sides))
            self._motions[index] = np.maximum(best - 2.5 - 1.8 * float(np.median(best)), 0)
        return self._motions[index]

    def _difference(self, index: int, other: int) -> np.ndarray:
        seen = warp_grey(self.small[other], self.camera(index, other))
        return ndimage.gaussian_filter(np.abs(seen - self.small[index]), 1.0)


def sample_rect(frame: np.ndarray, motion: np.ndarray, rect: Rect) -> np.ndarray:
    """``frame`` at ``motion @ (x, y, 1)`` for the pixels of ``rect``, (h, w, C) float32; exact if nothing moves."""
    if np.array_equal(motion, np.eye(3)):
        return frame[rect.slices].astype(np.float32)
    matrix = motion[:2, :2]
    offset = (matrix @ np.array([rect.left, rect.top]) + motion[:2, 2])[::-1]
    # Only the part that is read is converted to float: whole frames would cost ten times the work.
    corners = np.array([[x, y] for x in (0, rect.width - 1) for y in (0, rect.height - 1)]) @ matrix.T + offset[::-1]
    low = np.clip(np.floor(corners.min(0)).astype(int) - 2, 0, np.array(frame.shape[1::-1]) - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 3, low + 1, np.array(frame.shape[1::-1]))
    part = frame[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    swapped, shape = matrix[::-1, ::-1], (rect.height, rect.width)
    read = [
        ndimage.affine_transform(part[..., c], swapped, offset - low[::-1], shape, order=1, mode="nearest")
        for c in range(part.shape[-1])
    ]
    return np.stack(read, -1)
