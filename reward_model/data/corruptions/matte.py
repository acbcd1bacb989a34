"""Separation of a thing from its background within a region: colour statistics, then edges.

A colour that is common inside and rare around is the thing's; an edge-preserving (guided) filter moves the border of
the answer onto the border in the picture.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from reward_model.data.corruptions.base import Rect, clip_rect
from reward_model.data.corruptions.blend import enlarge, soft_mask
from reward_model.data.corruptions.track import Track

BINS = 12
COARSE_SIDE = 112


def thing_matte(track: Track, index: int, grow: float = 1.5) -> tuple[Rect, np.ndarray]:
    """Opacity of the thing in each pixel around the region, (h, w) in [0, 1], and the rectangle it covers."""
    from PIL import Image

    rect = track.rect(index, grow)
    frame = Image.fromarray(track.footage.frames[index][rect.slices])
    factor = min(1.0, COARSE_SIDE / max(rect.width, rect.height))
    size = max(4, round(rect.width * factor)), max(4, round(rect.height * factor))
    crop = np.asarray(frame.resize(size, Image.Resampling.BOX), np.float32)
    prior = np.asarray(Image.fromarray(_prior(track, index, rect)).resize(size, Image.Resampling.BOX))
    belief = np.clip(prior, 0.02, 0.98)
    for _ in range(3):
        belief = ndimage.gaussian_filter(_posterior(crop, belief, prior), 1.0)
    # Twice as fine is enough for the outline; what is finer is left to the linear enlargement.
    fine = min(rect.width, 2 * size[0]), min(rect.height, 2 * size[1])
    grey = np.asarray(frame.convert("L").resize(fine, Image.Resampling.BOX), np.float32)
    outline = guided(grey, enlarge(belief, fine[1], fine[0]), 3)
    return rect, np.clip((enlarge(outline, rect.height, rect.width) - 0.35) / 0.35, 0, 1)


def guided(guide: np.ndarray, picture: np.ndarray, radius: int, epsilon: float = 40.0) -> np.ndarray:
    """``picture`` smoothed along, not across, the edges of ``guide`` (a local linear model; He et al. 2010)."""
    mean_g, mean_p = (ndimage.uniform_filter(v, 2 * radius + 1) for v in (guide, picture))
    cross = ndimage.uniform_filter(guide * picture, 2 * radius + 1) - mean_g * mean_p
    power = ndimage.uniform_filter(guide * guide, 2 * radius + 1) - mean_g**2
    slope = cross / (power + epsilon)
    base = mean_p - slope * mean_g
    return ndimage.uniform_filter(slope, 2 * radius + 1) * guide + ndimage.uniform_filter(base, 2 * radius + 1)


def _prior(track: Track, index: int, rect: Rect) -> np.ndarray:
    """Likely inside the region, unlikely at the rim; likelier where it moves by itself."""
    mask = soft_mask(rect, track.centre[index], 1.15 * track.size, 0.9)
    motion = track.footage.motion(index)
    if not track.moving or not motion.any():
        return mask
    sx, sy = track.footage.scale
    part = clip_rect(rect.left * sx, rect.top * sy, rect.right * sx, rect.bottom * sy, (0, *motion.shape, 1))
    local = ndimage.grey_closing(motion[part.slices], 5)
    moving = enlarge(local / max(float(np.percentile(local, 95)), 1.0), rect.height, rect.width)
    return np.clip(0.6 * mask + 0.5 * mask * np.clip(moving, 0, 1), 0, 1)


def _posterior(crop: np.ndarray, belief: np.ndarray, prior: np.ndarray) -> np.ndarray:
    cell = np.minimum((crop / 256 * BINS).astype(int), BINS - 1)
    flat = (cell[..., 0] * BINS + cell[..., 1]) * BINS + cell[..., 2]
    thing, ground = (_histogram(flat, weight)[flat] for weight in (belief, 1 - belief))
    place = np.clip(prior, 0.03, 0.97)
    return place * thing / (place * thing + (1 - place) * ground)


def _histogram(flat: np.ndarray, weight: np.ndarray) -> np.ndarray:
    counts = np.bincount(flat.ravel(), weight.ravel(), minlength=BINS**3).reshape(BINS, BINS, BINS)
    smooth = ndimage.gaussian_filter(counts, 0.7) + 0.02
    return (smooth / smooth.sum()).ravel()
