"""Finding a patch again in another picture: weighted correlation, to a fraction of a pixel."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def match(
    picture: np.ndarray, template: np.ndarray, weight: np.ndarray, guess: np.ndarray, reach: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """Best position of the template near ``guess`` as (x, y) to a fraction of a pixel, its weighted correlation, and
    the pixels there.
    """
    height, width = template.shape
    limit = np.array([picture.shape[1] - width, picture.shape[0] - height])
    low = np.clip(np.round(guess).astype(int) - reach, 0, limit)
    high = np.clip(np.round(guess).astype(int) + reach, 0, limit)
    area = picture[low[1] : high[1] + height, low[0] : high[0] + width]
    windows = sliding_window_view(area, (height, width)).reshape(-1, height * width)
    flat = weight.ravel()
    centred = template.ravel() - flat @ template.ravel()
    mean, power = windows @ flat, (windows**2) @ flat
    spread = np.sqrt(np.maximum(power - mean**2, 0.25) * max(float(flat @ centred**2), 0.25))
    scores = ((windows @ (flat * centred)) / spread).reshape(high[1] - low[1] + 1, high[0] - low[0] + 1)
    y, x = (int(v) for v in np.unravel_index(int(scores.argmax()), scores.shape))
    fine = np.array([_peak(scores[y], x), _peak(scores[:, x], y)])
    seen = area[y : y + height, x : x + width]
    return low + fine, float(scores[y, x]), seen


def _peak(line: np.ndarray, k: int) -> float:
    """The top of the parabola through the best value and its neighbours."""
    if not 0 < k < len(line) - 1:
        return float(k)
    a, b, c = (float(v) for v in line[k - 1 : k + 2])
    bend = a - 2 * b + c
    return k + (0.5 * (a - c) / bend if bend < 0 else 0.0)


def bell(shape: tuple[int, ...]) -> np.ndarray:
    """The middle of a region is likelier to be the thing than its corners: a broad bell, summing to one."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    bell = np.exp(-(x[None] ** 2 + y[:, None] ** 2))
    return (bell / bell.sum()).astype(np.float32)
