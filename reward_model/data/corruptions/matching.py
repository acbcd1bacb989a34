"""Finding a patch again in another picture: weighted correlation, to a fraction of a pixel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TemplateMatch(NamedTuple):
    """Best fit of a template: its corner (x, y) to a fraction of a pixel, the weighted correlation there, the pixels
    there, and the correlation at the place that was ``guessed``.
    """

    corner: np.ndarray
    score: float
    seen: np.ndarray
    guessed: float


def match(
    picture: np.ndarray, template: np.ndarray, weight: np.ndarray, guess: np.ndarray, reach: int
) -> TemplateMatch:
    """The best position of the template up to ``reach`` pixels from the corner ``guess`` (x, y) in each direction."""
    height, width = template.shape
    x0, left, right = _span(float(guess[0]), reach, picture.shape[1] - width)
    y0, top, bottom = _span(float(guess[1]), reach, picture.shape[0] - height)
    area = np.ascontiguousarray(picture[top : bottom + height, left : right + width])
    shape = (bottom - top + 1, right - left + 1)
    # All windows as rows; sliding_window_view would take longer to be called than small areas take to be searched.
    windows = np.ndarray((*shape, height, width), area.dtype, area, strides=area.strides * 2)
    windows = windows.reshape(-1, height * width)
    flat = weight.ravel()
    centred = template.ravel() - flat @ template.ravel()
    mean, power = windows @ flat, (windows**2) @ flat
    spread = np.sqrt(np.maximum(power - mean**2, 0.25) * max(float(flat @ centred**2), 0.25))
    scores = ((windows @ (flat * centred)) / spread).reshape(shape)
    y, x = divmod(int(scores.argmax()), shape[1])
    corner = np.array([left + _peak(scores[y], x), top + _peak(scores[:, x], y)])
    seen = area[y : y + height, x : x + width]
    return TemplateMatch(corner, float(scores[y, x]), seen, float(scores[y0 - top, x0 - left]))


def _span(guess: float, reach: int, limit: int) -> tuple[int, int, int]:
    """The nearest whole pixel to ``guess``, and the first and last that are tried, all within 0 to ``limit``."""
    middle = round(guess)
    low, high = (min(max(v, 0), limit) for v in (middle - reach, middle + reach))
    return min(max(middle, low), high), low, high


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
