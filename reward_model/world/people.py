"""Stick people seen from the front: a head, a trunk and four limbs of two segments that never cover each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reward_model.world.canvas import Canvas, Layer, segment
from reward_model.world.kinds import Fault

ACTIONS = ("walks", "waves", "dances")
#: Lengths as fractions of the body height.
_HIP, _SHOULDER, _HEAD, _HEAD_RADIUS = 0.47, 0.78, 0.89, 0.10
_ARM, _LEG = (0.18, 0.18), (0.24, 0.24)


@dataclass(frozen=True)
class Limb:
    """Angles in radians from straight down, positive to the right: ``swing`` (T,) of the upper segment, ``bend`` (T,)
    of the lower one against it. ``lost``: it should be there in the frames where it is not ``present``.
    """

    part: str
    side: int
    swing: np.ndarray
    bend: np.ndarray
    present: np.ndarray
    lost: bool = False


@dataclass(frozen=True)
class Person:
    """A figure of ``height`` whose feet stand around ``path`` (T, 2)."""

    name: str
    color: np.ndarray
    height: float
    path: np.ndarray
    limbs: tuple[Limb, ...]
    faulty_part: str = "arm"
    thickness: float = field(default=0.028)

    def layers(self, canvas: Canvas) -> list[Layer]:
        masks = [self._trunk(canvas), self._head(canvas), *(self._limb(canvas, limb) for limb in self.limbs)]
        return [Layer(np.maximum.reduce(masks), self.color)]

    def regions(self, canvas: Canvas) -> list[np.ndarray]:
        """The half of the body with the faulty limb: one box tells what is wrong from the inside alone."""
        # A missing limb is boxed where it should be, hence ``whole``.
        parts = [self._limb(canvas, limb, whole=limb.lost) for limb in self.limbs if limb.part == self.faulty_part]
        return [np.maximum.reduce([self._trunk(canvas), *parts])]

    def _point(self, canvas: Canvas, share: float) -> np.ndarray:
        """(N, 2): the point of the spine at a share of the height."""
        return self.path[canvas.index] - np.array([0.0, share * self.height])

    def _trunk(self, canvas: Canvas) -> np.ndarray:
        d = segment(canvas, self._point(canvas, _HIP), self._point(canvas, _SHOULDER))
        return canvas.fill(d - 1.3 * self.thickness * self._width)

    def _head(self, canvas: Canvas) -> np.ndarray:
        centre = self._point(canvas, _HEAD)
        x, y = canvas.x - centre[:, 0, None, None], canvas.y - centre[:, 1, None, None]
        return canvas.ink(np.hypot(x, y).astype(np.float32) - _HEAD_RADIUS * self.height)

    def _limb(self, canvas: Canvas, limb: Limb, *, whole: bool = False) -> np.ndarray:
        root = self._point(canvas, _SHOULDER - 0.03 if limb.part == "arm" else _HIP)
        upper, lower = _ARM if limb.part == "arm" else _LEG
        first, second = limb.swing[canvas.index], (limb.swing + limb.bend)[canvas.index]
        joint = root + upper * self.height * np.stack([np.sin(first), np.cos(first)], axis=1)
        end = joint + lower * self.height * np.stack([np.sin(second), np.cos(second)], axis=1)
        d = np.minimum(segment(canvas, root, joint), segment(canvas, joint, end)) - self.thickness * self._width
        cover = canvas.fill(d)
        return cover if whole else np.where(canvas.where(limb.present), cover, np.float32(0))

    @property
    def _width(self) -> float:
        return 0.55 + 0.6 * self.height


def make_person(
    name: str,
    color: np.ndarray,
    height: float,
    action: str,
    num_frames: int,
    fps: float,
    fault: Fault | None,
    rng: np.random.Generator,
) -> Person:
    """Draws a figure and its movement, with the fault on one of its limbs."""
    seconds = np.arange(num_frames) / fps
    phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.3)
    beat = np.sin(2 * np.pi * rate * seconds + phase)
    always = np.ones(num_frames, bool)
    limbs = []
    for side in (-1, 1):
        raised = action == "waves" and side == 1
        sway = (0.25 if action == "walks" else 0.4) * beat * (side if action == "walks" else 1)
        arm = side * ((2.3 if raised else rng.uniform(0.55, 0.8)) + sway * (0.8 if raised else 0.6))
        bend = side * (0.35 + 0.15 * beat) * (1 if raised else -1) * rng.uniform(0.3, 1.0)
        limbs.append(Limb("arm", side, arm, bend + 0 * beat, always))
        leg = side * (rng.uniform(0.26, 0.36) + 0.35 * np.abs(sway) * (1 if side * beat[0] > 0 else 0.6))
        limbs.append(Limb("leg", side, leg, -0.15 * side * np.abs(beat), always))
    part = "arm"
    if fault is not None:
        part = "arm" if fault.draw < 0.5 else "leg"
        limbs = _with_fault(limbs, part, fault, num_frames)
    half = 0.42 * height
    travel = rng.uniform(0.0, 0.12) if action == "walks" else rng.uniform(0.0, 0.04)
    low, high = min(half + 0.02, 0.5), max(1 - half - 0.02, 0.5)
    start = rng.uniform(low, high)
    x = np.clip(start + rng.choice([-1, 1]) * travel * seconds, low, high)
    floor = rng.uniform(min(height + 0.05, 0.97), 0.97)
    y = floor - (0.02 * np.abs(beat) if action != "waves" else 0 * beat)
    return Person(name, color, height, np.stack([x, y], axis=1), tuple(limbs), part)


def _with_fault(limbs: list[Limb], part: str, fault: Fault, num_frames: int) -> list[Limb]:
    """The limbs with one added, hidden or broken while the fault lasts."""
    active = np.zeros(num_frames, bool)
    active[fault.frames.start : fault.frames.end + 1] = True
    detail = fault.draw * 2 % 1
    side = -1 if detail < 0.5 else 1
    index = next(k for k, limb in enumerate(limbs) if limb.part == part and limb.side == side)
    chosen = limbs[index]
    if fault.kind == "missing_limb":
        limbs[index] = Limb(part, side, chosen.swing, chosen.bend, ~active, lost=True)
    elif fault.kind == "bent_limb":
        fold = -side * (2.1 + 0.4 * (detail * 2 % 1)) if part == "arm" else side * (1.7 + 0.4 * (detail * 2 % 1))
        limbs[index] = Limb(part, side, chosen.swing, np.where(active, fold, chosen.bend), chosen.present)
    else:
        raised = np.abs(chosen.swing) > 1.6
        away = np.where(raised, -1.0, 1.0) if part == "arm" else np.ones(num_frames)
        swing = chosen.swing + side * away * (0.95 if part == "arm" else 0.75)
        limbs.append(Limb(part, side, swing, 0.3 * chosen.bend, active))
    return limbs
