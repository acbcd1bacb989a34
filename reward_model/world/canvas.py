"""Drawing surface of actors: pixel coordinates of some frames, anti-aliased coverage, and the layers they hand in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from reward_model.schema import Box


@dataclass(frozen=True)
class Canvas:
    """Coordinates of ``N`` frames as fractions of the picture: ``x`` (N, 1, S) to the right, ``y`` (N, S, 1) down."""

    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: int
    softness: float
    outlined: bool = False

    @classmethod
    def open(
        cls, index: np.ndarray, size: int, camera: np.ndarray, softness: float, *, outlined: bool = False
    ) -> Canvas:
        """The canvas of the native frames ``index`` under a camera path (T, 2)."""
        axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
        shift = camera[index].astype(np.float32)
        x = axis[None, None, :] + shift[:, 0, None, None]
        y = axis[None, :, None] + shift[:, 1, None, None]
        return cls(index, x, y, size, max(softness, 0.6 / size), outlined)

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

    def where(self, flags: np.ndarray) -> np.ndarray:
        """Per-frame flags (T,) of the shown frames as (N, 1, 1)."""
        return flags[self.index][:, None, None]


@dataclass(frozen=True)
class Layer:
    """One colour laid over what is below it.

    Args:
        cover: (N, S, S) opacity in [0, 1].
        color: (3,) or (N, 1, 1, 3) RGB levels.
    """

    cover: np.ndarray
    color: np.ndarray


class Actor(Protocol):
    """Something in a scene. ``regions`` are the masks (N, S, S) to be boxed when the actor is what is wrong."""

    @property
    def name(self) -> str: ...

    def layers(self, canvas: Canvas) -> list[Layer]: ...

    def regions(self, canvas: Canvas) -> list[np.ndarray]: ...


def segment(canvas: Canvas, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of every pixel to a moving line segment with ends (N, 2), as (N, S, S)."""
    ax, ay = (start[:, k, None, None].astype(np.float32) for k in (0, 1))
    dx, dy = (end[:, k, None, None].astype(np.float32) - a for k, a in ((0, ax), (1, ay)))
    px, py = canvas.x - ax, canvas.y - ay
    along = np.clip((px * dx + py * dy) / np.maximum(dx * dx + dy * dy, 1e-9), 0, 1)
    return np.hypot(px - along * dx, py - along * dy)


def mask_box(mask: np.ndarray) -> Box | None:
    """The box around the pixels of (S, S) that are more covered than not; None if there are none."""
    size = mask.shape[0]
    rows, columns = np.flatnonzero((mask > 0.5).any(1)), np.flatnonzero((mask > 0.5).any(0))
    if not len(rows):
        return None
    return Box.from_pixels(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1, size, size)
