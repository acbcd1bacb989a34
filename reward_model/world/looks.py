"""Looks of a style beyond its colours: patterns on the ground and on things, contours, soft shadows.

A pattern is a factor on colours. The ground's lies in the world, so that a moving camera moves it; a thing's goes with
the thing. Neither changes what an actor covers, so boxes stay exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: Patterns that a ground or a thing can have.
PATTERNS = ("stripes", "dots", "noise", "gradient")


@dataclass(frozen=True)
class Pattern:
    """A pattern of repeats of ``period`` (fraction of the picture) at an ``angle`` (radians).

    Colours are multiplied by 1 - ``depth`` to 1 + ``depth``; ``phase`` (radians) moves the pattern.
    """

    name: str
    period: float
    angle: float
    phase: float
    depth: float

    def factor(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The factor (N, H, W) at columns ``x`` (N, 1, W) and rows ``y`` (N, H, 1)."""
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        pitch = 2 * np.pi / self.period
        if self.name == "gradient":
            wave = np.clip(x * np.float32(2 * cos / self.period) + y * np.float32(2 * sin / self.period), -1, 1)
        elif self.name == "stripes":
            wave = np.clip(3 * _wave(x, y, pitch * cos, pitch * sin, self.phase), -1, 1)
        elif self.name == "dots":
            one, other = (_wave(x, y, pitch * a, pitch * b, self.phase) for a, b in ((cos, sin), (-sin, cos)))
            wave = np.clip(4 * one * other - 1, -1, 1)
        else:
            # Waves whose directions and lengths have nothing in common: clouds that never repeat in a picture.
            ways = ((0.83, 0.41), (-0.52, 1.13), (0.31, -0.67))
            wave = sum(_wave(x, y, pitch * a, pitch * b, self.phase * k) for k, (a, b) in enumerate(ways, 1))
            wave = wave / np.float32(2.2)
        return 1 + np.float32(self.depth) * wave


def _wave(x: np.ndarray, y: np.ndarray, across: float, down: float, phase: float) -> Any:
    """sin(across x + down y + phase) by the sum of angles: sines of rows and columns, none of pixels."""
    a, b = x * np.float32(across), y * np.float32(down) + np.float32(phase)
    return np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b)


@dataclass(frozen=True)
class Look:
    """The look of one scene.

    ``ground`` and ``things`` are patterns; ``shadow`` is the opacity of the shadows that things cast and ``sun`` how
    far to the right and down they fall; ``contour`` is the width of the dark rim inside things (fraction of the
    picture).
    """

    ground: Pattern | None = None
    things: Pattern | None = None
    shadow: float = 0.0
    sun: tuple[float, float] = (0.0, 0.0)
    contour: float = 0.0


@dataclass(frozen=True)
class LookBook:
    """The looks a style draws from: names of patterns (``""``: none), and the darkest shadow and widest contour."""

    ground: tuple[str, ...] = ("",)
    things: tuple[str, ...] = ("",)
    shadow: float = 0.0
    contour: float = 0.0

    def draw(self, rng: np.random.Generator) -> Look:
        """The look of one scene."""
        ground = _draw(self.ground, rng, period=(0.12, 0.4), depth=(0.08, 0.22), reach=1.4)
        things = _draw(self.things, rng, period=(0.06, 0.11), depth=(0.12, 0.28), reach=0.5)
        side, far = rng.choice([-1, 1]), rng.uniform(0.02, 0.05)
        return Look(
            ground=ground,
            things=things,
            shadow=self.shadow * float(rng.uniform(0.6, 1)),
            sun=(float(side * far), float(rng.uniform(0.02, 0.05))),
            contour=self.contour * float(rng.uniform(0.7, 1)),
        )


def _draw(
    names: tuple[str, ...],
    rng: np.random.Generator,
    *,
    period: tuple[float, float],
    depth: tuple[float, float],
    reach: float,
) -> Pattern | None:
    """One of the patterns named; a gradient takes ``reach`` to run its course."""
    name = names[rng.integers(len(names))]
    turns = rng.uniform(0, 2 * np.pi, size=2)
    found = Pattern(
        name,
        reach if name == "gradient" else float(rng.uniform(*period)) * (2.5 if name == "noise" else 1.0),
        float(turns[0]),
        float(turns[1]),
        float(rng.uniform(*depth)) * (1.6 if name == "gradient" else 1.0),
    )
    return found if name else None
