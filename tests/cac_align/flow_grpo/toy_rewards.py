"""Rewards that read pixels, in a module that child processes import in no time."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np


def brightness(videos: Any, prompts: Any = None, *, fps: float, **kwargs: Any) -> list[float]:
    """Mean brightness, 0 to 1."""
    return [float(np.asarray(v, dtype=np.float64).mean()) / 255 for v in videos]


def contrast(videos: Any, prompts: Any = None, *, fps: float, **kwargs: Any) -> list[float]:
    """Standard deviation of the brightness, 0 to 1/2."""
    return [float(np.asarray(v, dtype=np.float64).std()) / 255 for v in videos]


def hanging(videos: Any, prompts: Any = None, *, fps: float, **kwargs: Any) -> list[float]:
    """0.5, and for a video of grey level 10 nothing, ever."""
    if videos[0].mean() == 10:
        time.sleep(600)
    return [0.5] * len(videos)


class Guarded:
    """Mean brightness, for whoever brings the keys in ``$TOY_KEYS``."""

    def __init__(self, api_key: str, server: dict[str, str]) -> None:
        if [api_key, server["hf_token"]] != os.environ["TOY_KEYS"].split():
            raise ValueError("the server does not take this key")

    def __call__(self, videos: Any, prompts: Any = None, *, fps: float, **kwargs: Any) -> list[float]:
        return brightness(videos, fps=fps)
