"""Drawing surface of actors: pixel coordinates of some frames, anti-aliased coverage, and the layers they hand in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from reward_model.schema import Box


@dataclass(frozen=True)
class Canvas:
    """Coordinates of ``N`` frames as fractions of the picture: ``x`` (N, 1, W) to the right, ``y`` (N, H, 1) down.

    The unit is the shorter side, ``size`` pixels; a longer one reaches as far below 0 as above 1. ``zoom`` (N,) is how
    much larger than usual everything looks, None: as usual.
    """

    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: int
    softness: float
    outlined: bool = False
    zoom: np.ndarray | None = None
    contour: float = 0.0

    @classmethod
    def open(
        cls,
        index: np.ndarray,
        size: int | tuple[int, int],
        camera: np.ndarray,
        softness: float,
        *,
        outlined: bool = False,
        zoom: np.ndarray | None = None,
        contour: float = 0.0,
    ) -> Canvas:
        """The canvas of the native frames ``index`` under a camera path (T, 2).

        Args:
            size: height and width in pixels, or one number for both.
            softness: width of the soft rim of what is drawn.
            outlined: whether only outlines are drawn.
            zoom: (T,) how much larger than usual everything looks.
            contour: width of the dark rim inside things, 0: none.
        """
        height, width = (size, size) if isinstance(size, int) else size
        side = min(height, width)
        down, across = _axis(height, side)[None, :, None], _axis(width, side)[None, None, :]
        seen, finest = None, float(side)
        if zoom is not None:
            seen, finest = zoom[index].astype(np.float32), side * float(zoom.min())
            down, across = (0.5 + (axis - 0.5) / seen[:, None, None] for axis in (down, across))
        shift = camera[index].astype(np.float32)
        x = across + shift[:, 0, None, None]
        y = down + shift[:, 1, None, None]
        return cls(index, x, y, side, max(softness, 0.6 / finest), outlined, seen, contour)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels."""
        return len(self.index), self.y.shape[1], self.x.shape[2]

    @property
    def pitch(self) -> float | np.ndarray:
        """Side of a pixel as a fraction of the picture: one number, or (N, 1, 1)."""
        return 1 / self.size if self.zoom is None else 1 / (self.size * self.zoom[:, None, None])

    def at(self, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates relative to a centre that moves along ``path`` (T, 2)."""
        centre = path[self.index].astype(np.float32)
        return self.x - centre[:, 0, None, None], self.y - centre[:, 1, None, None]

    def fill(self, distance: np.ndarray) -> np.ndarray:
        """Coverage in [0, 1] of the inside of a signed distance."""
        return np.clip(0.5 - distance / np.float32(self.softness), 0, 1)

    def ink(self, distance: np.ndarray) -> np.ndarray:
        """Opacity of the paint inside: filled, or an outline with a faint filling."""
        if not self.outlined:
            return self.fill(distance)
        line = np.clip(0.5 - (np.abs(distance + 0.02) - 0.02) / np.float32(self.softness), 0, 1)
        return np.maximum(line, 0.3 * self.fill(distance))

    def contoured(self, distance: np.ndarray, cover: np.ndarray, color: np.ndarray) -> list[Layer]:
        """The paint ``cover`` of the inside of a signed distance, on a dark rim of the canvas's ``contour``."""
        if not self.contour:
            return [Layer(cover, color)]
        return [Layer(cover, np.zeros(3, np.float32)), Layer(cover * self.fill(distance + self.contour), color)]

    def where(self, flags: np.ndarray) -> np.ndarray:
        """Values or flags (T,) of the shown frames as (N, 1, 1)."""
        return flags[self.index][:, None, None]


@dataclass(frozen=True)
class Layer:
    """One colour laid over what is below it.

    Args:
        cover: (N, H, W) opacity in [0, 1].
        color: (3,) or (N, 1, 1, 3) RGB levels.
    """

    cover: np.ndarray
    color: np.ndarray


class Actor(Protocol):
    """Something in a scene. ``regions`` are the masks (N, H, W) to be boxed when the actor is what is wrong."""

    @property
    def name(self) -> str: ...

    def layers(self, canvas: Canvas) -> list[Layer]: ...

    def regions(self, canvas: Canvas) -> list[np.ndarray]: ...


def segment(canvas: Canvas, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of every pixel to a moving line segment with ends (N, 2), as (N, H, W)."""
    ax, ay = (start[:, k, None, None].astype(np.float32) for k in (0, 1))
    dx, dy = (end[:, k, None, None].astype(np.float32) - a for k, a in ((0, ax), (1, ay)))
    px, py = canvas.x - ax, canvas.y - ay
    along = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, 1e-9), 0, 1)
    return np.hypot(px - along * dx, py - along * dy)


def picture_shape(size: int, aspect: float = 1.0) -> tuple[int, int]:
    """Height and width in pixels of a picture whose shorter side is ``size`` and whose width is ``aspect`` times its
    height; the longer side is even, as codecs need it.
    """
    longer = 2 * round(size * max(aspect, 1 / aspect) / 2)
    if aspect == 1:
        return size, size
    return (size, longer) if aspect > 1 else (longer, size)


def _axis(count: int, side: int) -> np.ndarray:
    """Coordinates (count,) of the pixels along one side; those of the shorter ``side`` lie in [0, 1]."""
    middles = np.arange(count) + 0.5
    return ((middles if count == side else middles - (count - side) / 2) / side).astype(np.float32)


def mask_box(mask: np.ndarray) -> Box | None:
    """The box around the pixels of (H, W) that are more covered than not; None if there are none."""
    height, width = mask.shape
    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    if not len(rows):
        return None
    return Box.from_pixels(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, width, height)
