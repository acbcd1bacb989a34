"""Putting new pixels into a frame without a seam: soft masks, a smooth correction of colour, matched grain.

What must show is the anomaly, not the cut around it: a judge that learns cuts learns nothing about generated video.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import Edit, Rect

#: Share of a mask's radius over which it fades out.
FEATHER = 0.3


def soft_mask(rect: Rect, centre: np.ndarray, size: np.ndarray, feather: float = FEATHER) -> np.ndarray:
    """A rounded rectangle (a superellipse) that is one inside and fades to zero at its rim, (h, w) float32 on ``rect``.

    Args:
        centre, size: its middle and its full width and height, in pixels of the frame.
        feather: share of the radius over which it fades.
    """
    x = (np.arange(rect.left, rect.right) + 0.5 - centre[0]) / (size[0] / 2)
    y = (np.arange(rect.top, rect.bottom) + 0.5 - centre[1]) / (size[1] / 2)
    radius = (np.abs(x[None, :]) ** 3 + np.abs(y[:, None]) ** 3) ** (1 / 3)
    return smooth_step((1 - radius) / feather)


def smooth_step(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a curve without corners between."""
    v = np.clip(value, 0, 1).astype(np.float32)
    return v * v * (3 - 2 * v)


def blend_edit(
    frames: np.ndarray,
    index: int,
    rect: Rect,
    content: np.ndarray,
    mask: np.ndarray,
    rng: np.random.Generator,
    *,
    level: bool = True,
    grain: bool = True,
) -> Edit:
    """The frame with ``content`` (h, w, 3) float laid over it where ``mask`` (h, w) says, as an edit.

    Args:
        level: shift the content's colours by a smooth field so that they meet the frame's at the rim of the mask.
        grain: add noise where the content is smoother than the frame around it.
    """
    old = frames[index][rect.slices].astype(np.float32)
    if level:
        content = content + level_field(old - content, mask)
    if grain:
        content = content + missing_grain(old, content, mask, rng)
    mixed = old + mask[..., None] * (content - old)
    pixels = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return Edit(index, rect, np.where(mask[..., None] > 0, pixels, frames[index][rect.slices]))


def rim_error(old: np.ndarray, content: np.ndarray, mask: np.ndarray) -> float:
    """Misfit of ``content`` to the frame on the fading rim of ``mask``: the root mean square difference in grey levels
    after a common shift of colour is removed. High if the rim cuts through a thing.
    """
    rim = (mask > 0.02) & (mask < 0.7)
    if not rim.any():
        return float("inf")
    gap = (content - old)[rim]
    return float(np.sqrt(((gap - np.median(gap, axis=0)) ** 2).mean()))


def level_field(difference: np.ndarray, mask: np.ndarray, limit: float = 40.0) -> np.ndarray:
    """A smooth field (h, w, 3) that equals ``difference`` around the mask and continues it inside (a membrane: the
    solution of Laplace's equation, on a coarse grid).

    Args:
        difference: frame minus content.
        limit: largest correction in grey levels; a difference beyond it is an object at the rim, not another light.
    """
    height, width = mask.shape
    rows, columns = (min(32, max(4, n // 4)) for n in (height, width))
    known = _cells((mask < 0.35).astype(np.float32), rows, columns)
    total = np.stack([_cells(difference[..., c] * (mask < 0.35), rows, columns) for c in range(3)], -1)
    rim = known > 0.02
    if not rim.any():
        return np.zeros_like(difference)
    values = np.clip(np.where(rim[..., None], total / np.maximum(known, 0.02)[..., None], 0), -limit, limit)
    nearest = ndimage.distance_transform_edt(~rim, return_distances=False, return_indices=True)
    field = values[tuple(nearest)]
    for _ in range(2 * max(rows, columns)):
        padded = np.pad(field, ((1, 1), (1, 1), (0, 0)), mode="edge")
        spread = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        field = np.where(rim[..., None], values, spread)
    return enlarge(field, height, width)


def enlarge(field: np.ndarray, height: int, width: int) -> np.ndarray:
    """A coarse field (r, c, 3) or (r, c) drawn out to (height, width), linearly."""
    from PIL import Image

    planes = field[..., None] if field.ndim == 2 else field
    size, method = (width, height), Image.Resampling.BILINEAR
    grown = [
        np.asarray(Image.fromarray(planes[..., c].astype(np.float32)).resize(size, method))
        for c in range(planes.shape[-1])
    ]
    return grown[0] if field.ndim == 2 else np.stack(grown, -1)


def missing_grain(
    old: np.ndarray, content: np.ndarray, mask: np.ndarray, rng: np.random.Generator
) -> np.ndarray | float:
    """Noise that brings the content's finest detail up to that of the frame, (h, w, 1), or 0.0 if none is missing.

    Both are measured on the flat half of the pixels, where fine detail is noise.
    """
    inside = mask > 0.5
    if inside.sum() < 64:
        return 0.0
    before, after = (noise_level(picture.mean(-1)) for picture in (old, content))
    lack = float(np.sqrt(max(before**2 - after**2, 0.0)))
    if lack < 0.3:
        return 0.0
    # The high-pass of unit white noise has the level below; sqrt(3) because channels share the noise only in part.
    return (rng.standard_normal((*mask.shape, 1)) * min(lack, 8.0)).astype(np.float32)


def noise_level(grey: np.ndarray) -> float:
    """Standard deviation of white noise in a picture (h, w), estimated from its second differences, robustly."""
    kernel = grey[1:-1, 1:-1] * 4 - 2 * (grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:])
    kernel = kernel + grey[:-2, :-2] + grey[:-2, 2:] + grey[2:, :-2] + grey[2:, 2:]
    size = np.abs(kernel)
    return float(np.median(size[size <= np.median(size) + 1e-6]) / (6 * 0.3186)) if size.size else 0.0


def _cells(plane: np.ndarray, rows: int, columns: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(plane.astype(np.float32)).resize((columns, rows), Image.Resampling.BOX))
