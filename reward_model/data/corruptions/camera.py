"""Camera motion between frames: a robust affine fit of the whole picture, coarse to fine.

Moving things are outliers to the fit, so what does not follow it moves by itself.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

#: Motions that move no corner by this many pixels of the small copy are noise of the fit: the camera stands still.
STILL = 0.12


def fit_motion(a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """The affine motion of the background from picture ``a`` to ``b``, both (h, w) float grey.

    Args:
        start: a first guess; without one, the shift with the highest phase correlation.

    Returns:
        (3, 3): the point ``(x, y)`` of ``a`` is at ``M @ (x, y, 1)`` in ``b``. The identity where nothing moved.
    """
    if standing(a, b):
        return np.eye(3)
    motion = np.eye(3) if start is None else start.copy()
    if start is None:
        motion[:2, 2] = _shift(a, b)
        if _cost(a, b, np.eye(3)) <= _cost(a, b, motion):
            motion = np.eye(3)
    for level in (4, 2, 1):
        if min(a.shape) // level < 12:
            continue
        scale = np.diag([1 / level, 1 / level, 1.0])
        motion = (
            np.linalg.inv(scale)
            @ _refine(_shrink(a, level), _shrink(b, level), scale @ motion @ np.linalg.inv(scale))
            @ scale
        )
    if corner_shift(motion, a.shape) < STILL or not _helps(a, b, motion):
        return np.eye(3)
    return motion


def corner_shift(motion: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance that ``motion`` moves any corner of an (h, w) picture, in pixels."""
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float).T
    return float(np.abs(motion @ corners - corners)[:2].max())


def warp_grey(picture: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """``picture`` seen from where ``motion`` starts: the result at x is ``picture`` at ``M x``; edges repeat. The very
    picture where nothing moves.
    """
    if np.array_equal(motion, np.eye(3)):
        return picture
    matrix = motion[:2, :2][::-1, ::-1]
    return ndimage.affine_transform(picture, matrix, motion[:2, 2][::-1], order=1, mode="nearest")


def standing(a: np.ndarray, b: np.ndarray) -> bool:
    """True if the camera stands still: most of the picture is the same, its grain smoothed away. No fit improves on
    that.
    """
    return float(np.median(np.abs(ndimage.gaussian_filter(a - b, 1.5)))) < 0.6


def _helps(a: np.ndarray, b: np.ndarray, motion: np.ndarray) -> bool:
    """True if the motion explains most parts of the picture better than standing still does. On an even ground a fit
    follows the one thing there is: it helps there and nowhere else, and is not the camera's.
    """
    a, b = ndimage.gaussian_filter(a, 1.0), ndimage.gaussian_filter(b, 1.0)
    before, after = (_cells(np.abs(warp_grey(b, m) - a)) for m in (np.eye(3), motion))
    better, worse = int((after < 0.75 * before).sum()), int((after > 1.1 * before).sum())
    return better >= 5 and worse <= 2


def _cells(picture: np.ndarray) -> np.ndarray:
    height, width = (n // 3 * 3 for n in picture.shape)
    return picture[:height, :width].reshape(3, height // 3, 3, width // 3).mean((1, 3))


def _cost(a: np.ndarray, b: np.ndarray, motion: np.ndarray) -> float:
    return float(np.minimum(np.abs(warp_grey(b, motion) - a), 20).mean())


def _shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    fa, fb = np.fft.rfft2((a - a.mean()) * window), np.fft.rfft2((b - b.mean()) * window)
    cross = np.conj(fa) * fb
    peak = np.fft.irfft2(cross / (np.abs(cross) + 1e-6), a.shape)
    y, x = np.unravel_index(int(peak.argmax()), a.shape)
    wrapped = [v - n if v > n // 2 else v for v, n in ((x, a.shape[1]), (y, a.shape[0]))]
    return np.array(wrapped, float)


def _shrink(picture: np.ndarray, level: int) -> np.ndarray:
    if level == 1:
        return ndimage.gaussian_filter(picture, 0.7)
    height, width = (n // level * level for n in picture.shape)
    return picture[:height, :width].reshape(height // level, level, width // level, level).mean((1, 3))


def _refine(a: np.ndarray, b: np.ndarray, motion: np.ndarray, steps: int = 5) -> np.ndarray:
    """Gauss-Newton on the affine parameters; each residual is weighted down by how far it is out (Cauchy)."""
    height, width = a.shape
    y, x = np.mgrid[:height, :width]
    u, v = ((x - width / 2) / width)[2:-2, 2:-2].ravel(), ((y - height / 2) / height)[2:-2, 2:-2].ravel()
    basis = np.stack([u, v, np.ones_like(u)], 1)
    to_pixels = np.array([[1 / width, 0, -0.5], [0, 1 / height, -0.5], [0, 0, 1]])
    for _ in range(steps):
        seen = warp_grey(b, motion)
        gy, gx = np.gradient(seen)
        error = (seen - a)[2:-2, 2:-2].ravel()
        spread = 1.5 * float(np.median(np.abs(error))) + 0.5
        weight = 1 / (1 + (error / spread) ** 2)
        jacobian = np.concatenate([basis * gx[2:-2, 2:-2].reshape(-1, 1), basis * gy[2:-2, 2:-2].reshape(-1, 1)], 1)
        normal = jacobian.T @ (jacobian * weight[:, None]) + 1e-3 * np.eye(6)
        step = -np.linalg.solve(normal, jacobian.T @ (weight * error)).reshape(2, 3)
        update = np.eye(3)
        update[:2] += step @ to_pixels
        motion = motion @ update
        if np.abs(step).max() < 0.01:
            break
    return motion
