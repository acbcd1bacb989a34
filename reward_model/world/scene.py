"""A scene: one object, one way of moving, one background, at most one anomaly. Everything follows from the seed.

Coordinates are fractions of the picture (x to the right, y down), time is a fraction of the video, so that the same
scene renders at any size and length. A scene with an anomaly and its normal twin (same seed, ``anomaly=None``) differ
in the anomaly alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_model.schema import AnomalyType, FrameRange

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 52, 44),
    "green": (58, 168, 74),
    "blue": (52, 96, 218),
    "yellow": (238, 206, 62),
    "purple": (150, 66, 176),
    "white": (240, 240, 236),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (22, 22, 26),
    "gray": (112, 116, 120),
    "brown": (96, 66, 44),
    "teal": (20, 92, 98),
}
SHAPES = ("ball", "square", "triangle")
#: How far each outline reaches from its centre, in radii.
REACH = {"ball": 1.0, "square": 0.886, "triangle": 1.36}
MOTIONS = ("moves right", "moves left", "moves up", "moves down", "bounces", "circles")

#: What can go wrong, by the family it belongs to. A kind is also accepted by name wherever a type is.
KINDS: dict[str, AnomalyType] = {
    "squash": AnomalyType.OBJECT,
    "split": AnomalyType.OBJECT,
    "vanish": AnomalyType.MOTION,
}
REASONS = {"squash": "is squashed", "split": "splits in two", "vanish": "vanishes"}


@dataclass(frozen=True)
class Fault:
    """The anomaly of a scene: ``strength`` is the stretch factor of a squash (1 is none) and the gap of a split in
    radii.
    """

    kind: str
    frames: FrameRange
    strength: float
    angle: float

    @property
    def type(self) -> AnomalyType:
        return KINDS[self.kind]


@dataclass(frozen=True)
class Scene:
    """One video before it is drawn."""

    seed: int
    num_frames: int
    fps: float
    shape: str
    color: str
    motion: str
    background: str
    radius: float
    path: np.ndarray
    softness: float
    light: np.ndarray
    shade: tuple[float, float]
    tint: np.ndarray
    grain: float
    fault: Fault | None = None

    @property
    def object_name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def prompt(self) -> str:
        return f"a {self.object_name} {self.motion} on a {self.background} background"


def make_scene(
    seed: int,
    anomaly: AnomalyType | str | None = None,
    *,
    num_frames: int = 81,
    fps: float = 16,
    nuisance: float = 1.0,
    strength: float | None = None,
) -> Scene:
    """Draws the scene of a seed.

    Args:
        seed: any integer >= 0; the whole scene is a function of it.
        anomaly: None for a normal video, an :class:`AnomalyType` with at least one kind here, or a kind of
            :data:`KINDS`.
        num_frames: length of the video.
        fps: frames per second, which sets how long an anomaly lasts in frames (0.4 s to 2 s).
        nuisance: how much lighting change, softness, grain and tint a *normal* video may carry; 0 is clean.
        strength: overrides the drawn stretch factor of a squash or gap of a split.

    Raises:
        ValueError: no kind of that anomaly exists, or the video is too short to hold one.
    """
    if num_frames < 1 or not fps > 0:
        raise ValueError(f"num_frames={num_frames} and fps={fps} must be positive")
    rng = np.random.default_rng([seed, 0])
    shape = SHAPES[rng.integers(len(SHAPES))]
    color = list(COLORS)[rng.integers(len(COLORS))]
    motion = MOTIONS[rng.integers(len(MOTIONS))]
    background = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    radius = rng.uniform(0.13, 0.18)
    path = _path(motion, radius * REACH[shape], num_frames, fps, rng)
    phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2.0)
    wave = np.sin(phase + speed * 2 * np.pi * np.arange(num_frames) / num_frames)
    return Scene(
        seed=seed,
        num_frames=num_frames,
        fps=fps,
        shape=shape,
        color=color,
        motion=motion,
        background=background,
        radius=radius,
        path=path,
        softness=0.02 + nuisance * rng.uniform(0, 0.05),
        light=1 + nuisance * rng.uniform(0, 0.12) * wave,
        shade=(nuisance * rng.uniform(-0.15, 0.15), nuisance * rng.uniform(-0.15, 0.15)),
        tint=nuisance * rng.uniform(-12, 12, size=(2, 3)),
        grain=nuisance * rng.uniform(0, 5),
        fault=None if anomaly is None else _fault(anomaly, seed, num_frames, fps, strength),
    )


def _path(motion: str, extent: float, num_frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Centre of the object in each frame, (T, 2); always inside the picture."""
    t = np.linspace(0, 1, num_frames)
    near, far = extent + 0.03, 1 - extent - 0.03
    a, b = rng.uniform(near, near + 0.15), rng.uniform(far - 0.15, far)
    across = rng.uniform(near + 0.05, far - 0.05)
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
    else:
        angle = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 2 * np.pi * rng.uniform(0.8, 1.5) * t
        reach = rng.uniform(0.2, 0.5 - near)
        x, y = 0.5 + reach * np.cos(angle), 0.5 + reach * np.sin(angle)
    return np.stack([np.clip(x, near, far), np.clip(y, near, far)], axis=1)


def _fault(anomaly: AnomalyType | str, seed: int, num_frames: int, fps: float, strength: float | None) -> Fault:
    names = [k for k, family in KINDS.items() if anomaly in (k, family)]
    if not names:
        raise ValueError(
            f"the world has no anomaly {str(anomaly)!r}; kinds: {', '.join(KINDS)}, or the types they belong to"
        )
    shortest, longest = max(2, round(0.4 * fps)), max(2, round(2.0 * fps))
    if num_frames < shortest + 4:
        raise ValueError(f"an anomaly needs at least {shortest + 4} frames at {fps} fps, got num_frames={num_frames}")
    rng = np.random.default_rng([seed, 1])
    kind = names[rng.integers(len(names))]
    length = int(rng.integers(shortest, min(longest, num_frames - 4) + 1))
    start = int(rng.integers(2, num_frames - 2 - length + 1))
    drawn = {"squash": rng.uniform(1.45, 2.1), "split": rng.uniform(0.5, 0.9), "vanish": 1.0}[kind]
    angle = float(rng.choice([0.0, 0.5]) * np.pi)
    return Fault(kind, FrameRange(start, start + length - 1), float(drawn if strength is None else strength), angle)
