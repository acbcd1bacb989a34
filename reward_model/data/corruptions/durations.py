"""Length of an anomaly: drawn once for all attempts, from the half below a second or the half above it.

Drawn anew for each try, short ones would be lost: in half a second little has moved, the try is refused for showing too
little, and the next one is likelier to be long. Stage 2 cuts its clips around anomalies shorter than a second, so a set
must hold both halves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

MIN_SECONDS, HALF_SECONDS, MAX_SECONDS, MIN_FRAMES = 0.4, 1.0, 1.6, 3


def num_frames(seconds: float, fps: float) -> int:
    """Frames that last about ``seconds``: three at least."""
    return max(MIN_FRAMES, round(seconds * fps))


def draw_seconds(rng: np.random.Generator, fps: float, *, short: bool) -> float:
    """A length from 0.4 s to below 1 s if ``short``, else from 1 to 1.6 s; in whole frames it lies in its half too."""
    low, high = (MIN_SECONDS, HALF_SECONDS) if short else (HALF_SECONDS, MAX_SECONDS)
    count, below = num_frames(float(rng.uniform(low, high)), fps), math.ceil(HALF_SECONDS * fps) - 1
    return (max(MIN_FRAMES, min(count, below)) if short else max(count, below + 1)) / fps


def draw_both(rng: np.random.Generator, fps: float, *, short: bool | None = None) -> Iterator[float]:
    """A length from the short or the long half, chosen at random unless ``short`` is given, then one from the other
    half, for videos where nothing fits the first.
    """
    first = bool(rng.random() < 0.5) if short is None else short
    yield draw_seconds(rng, fps, short=first)
    yield draw_seconds(rng, fps, short=not first)
