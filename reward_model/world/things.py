"""Things: balls, squares and triangles that move along a path, and what can happen to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_model.world.canvas import Canvas, Layer
from reward_model.world.kinds import Fault

#: How far each outline reaches from its centre, in radii.
REACH = {"ball": 1.0, "square": 0.886, "triangle": 1.36}
MOTIONS = ("moves right", "moves left", "moves up", "moves down", "bounces", "circles")
#: How far a teleported thing is from where it should be, as a fraction of the picture.
JUMP = 0.42


@dataclass(frozen=True)
class Thing:
    """A shape on a path (T, 2). ``shown`` (T,) says when it is there at all, ``gain`` (T,) how bright it is: 1 is as
    it should be, above is towards white, below towards ``ground``; ``clear`` (T,) where one can see through it,
    ``opacity`` (T,) how little in [0, 1]; ``stretch`` (T, 2) how much wider and taller than usual it is.
    """

    name: str
    shape: str
    color: np.ndarray
    radius: float
    path: np.ndarray
    ground: np.ndarray
    fault: Fault | None = None
    shown: np.ndarray | None = None
    gain: np.ndarray | None = None
    clear: np.ndarray | None = None
    opacity: np.ndarray | None = None
    stretch: np.ndarray | None = None

    def layers(self, canvas: Canvas) -> list[Layer]:
        opacity: float | np.ndarray = 1.0 if self.clear is None else 1 - 0.45 * canvas.where(self.clear)
        if self.opacity is not None:
            opacity = opacity * canvas.where(self.opacity).astype(np.float32)
        color = self._color(canvas)
        return [layer for d in self._pieces(canvas) for layer in canvas.contoured(d, opacity * canvas.ink(d), color)]

    def regions(self, canvas: Canvas) -> list[np.ndarray]:
        return [canvas.fill(d) for d in self._pieces(canvas)]

    def _color(self, canvas: Canvas) -> np.ndarray:
        if self.gain is None:
            return self.color
        gain = self.gain[canvas.index][:, None, None, None]
        bright = self.color + np.clip(gain - 1, 0, 1) * (255 - self.color)
        return bright + np.clip(1 - gain, 0, 1) * (self.ground - bright)

    def _pieces(self, canvas: Canvas) -> list[np.ndarray]:
        """Signed distance to each separate piece, (N, H, W); one unless the thing is split."""
        x, y = canvas.at(self.path)
        if self.stretch is not None:
            wide, tall = (canvas.where(self.stretch[:, k]).astype(np.float32) for k in (0, 1))
            x, y = x / wide, y / tall
        if self.shown is not None:
            return [np.where(canvas.where(self.shown), outline(self.shape, x, y, self.radius), np.float32(1))]
        if self.fault is None or self.fault.kind not in ("squash", "split"):
            return [outline(self.shape, x, y, self.radius)]
        active = np.isin(canvas.index, list(self.fault.frames.frames()))[:, None, None]
        along_x = self.fault.draw < 0.5
        if self.fault.kind == "squash":
            stretch = self.fault.strength if along_x else 1 / self.fault.strength
            wide = np.where(active, np.float32(stretch), np.float32(1))
            return [outline(self.shape, x / wide, y * wide, self.radius)]
        gap = np.where(active, np.float32(self.fault.strength * self.radius), np.float32(0))
        whole, pieces = outline(self.shape, x, y, self.radius), []
        for side in (-1, 1):
            px, py = (x - side * gap, y) if along_x else (x, y - side * gap)
            half = np.maximum(outline(self.shape, px, py, self.radius), -side * (px if along_x else py))
            # Outside the anomaly the first piece is the whole thing and the second is nothing: no seam shows.
            pieces.append(np.where(active, half, whole if side < 0 else np.float32(1)))
        return pieces


def outline(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the outline, negative inside; the three shapes cover about the same area."""
    if shape == "ball":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.886 * radius
    return np.maximum(y, 0.866 * np.abs(x) - 0.5 * y) - 0.68 * radius


def draw_path(motion: str, extent: float, num_frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Centre of a thing in each frame, (T, 2); always so far inside that its whole extent is in the picture."""
    t = np.linspace(0, 1, num_frames)
    near, far = min(extent + 0.03, 0.48), max(1 - extent - 0.03, 0.52)
    play = min(0.15, (far - near) / 3)
    a, b = rng.uniform(near, near + play), rng.uniform(far - play, far)
    across = rng.uniform(min(near + 0.05, 0.5), max(far - 0.05, 0.5))
    drift = rng.uniform(-0.06, 0.06) * t
    if motion == "moves right":
        x, y = a + (b - a) * t, across + drift
    elif motion == "moves left":
        x, y = b + (a - b) * t, across + drift
    elif motion == "moves down":
        x, y = across + drift, a + (b - a) * t
    elif motion == "moves up":
        x, y = across + drift, b + (a - b) * t
    elif motion == "bounces":
        hops = rng.uniform(2.0, 3.5) * num_frames / fps / 5
        arc = (t * hops + rng.uniform(0, 1)) % 1
        x, y = across + 3 * drift, far - (far - near) * rng.uniform(0.6, 1.0) * 4 * arc * (1 - arc)
    elif motion == "stands":
        x, y = across + 0 * t, rng.uniform(near, far) + 0 * t
    else:
        angle = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 2 * np.pi * rng.uniform(0.8, 1.5) * t
        reach = rng.uniform(min(0.2, 0.48 - near), max(0.5 - near, 0.02))
        x, y = 0.5 + reach * np.cos(angle), 0.5 + reach * np.sin(angle)
    return np.stack([np.clip(x, near, far), np.clip(y, near, far)], axis=1)


def displace(path: np.ndarray, fault: Fault, extent: float) -> np.ndarray:
    """The path of a thing that is elsewhere while the fault lasts: :data:`JUMP` away in each frame, or as far as the
    picture allows.
    """
    moved = path.copy()
    window = slice(fault.frames.start, fault.frames.end + 1)
    axis = int(fault.draw < 0.5)
    here = path[window, axis]
    jump = np.where(here < 0.5, JUMP, -JUMP)
    moved[window, axis] = np.clip(here + jump, extent + 0.01, 1 - extent - 0.01)
    return moved


def flicker_gain(fault: Fault, num_frames: int, color: np.ndarray) -> np.ndarray:
    """Brightness (T,): 1, and inside the fault a random sequence of two levels that a thing of that colour cannot have:
    far too dark and far too bright, or two dark ones where there is nothing brighter.
    """
    rng = np.random.default_rng(int(fault.draw * 2**31))
    levels = (0.3, 1.75) if np.min(color) < 100 else (0.15, 0.45)
    gain = np.ones(num_frames)
    window = fault.frames.frames()
    gain[window.start : window.stop] = np.where(rng.random(len(window)) < 0.5, *levels)
    return gain
