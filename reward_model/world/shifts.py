"""Shifts by name, each of which changes one thing (the bench's), and shifts drawn by chance (training's)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reward_model.world.palette import TRAINING_STYLES
from reward_model.world.shift import Shift


def _named(*shifts: Shift) -> dict[str, Shift]:
    return {shift.name: shift for shift in shifts}


#: The shifts of the bench, by name. Each changes one thing.
SHIFTS: dict[str, Shift] = _named(
    Shift(),
    Shift("1 s", "a video of one second", seconds=1),
    Shift("2 s", "a video of two seconds", seconds=2),
    Shift("10 s", "a video of ten seconds", seconds=10),
    Shift("20 s", "a video of twenty seconds", seconds=20),
    Shift("8 fps", "8 native frames a second", fps=8),
    Shift("12 fps", "12 native frames a second", fps=12),
    Shift("24 fps", "24 native frames a second", fps=24),
    Shift("30 fps", "30 native frames a second", fps=30),
    Shift("half speed", "everything takes twice as long", speed=0.5),
    Shift("double speed", "everything takes half as long, and so does the video", speed=2),
    Shift("letterbox", "black bars above and below", letterbox=0.25),
    Shift("pillarbox", "black bars at the left and right", pillarbox=0.25),
    Shift("wide", "a picture of 16:9", aspect=16 / 9),
    Shift("portrait", "a picture of 9:16", aspect=9 / 16),
    Shift("32 px", "pictures of 32 x 32 pixels", size=32),
    Shift("96 px", "pictures of 96 x 96 pixels", size=96),
    Shift("160 px", "pictures of 160 x 160 pixels", size=160),
    Shift("mirror", "left and right exchanged", mirror=True),
    Shift("swapped", "red and blue exchanged", channels=(2, 1, 0)),
    Shift("hue", "all colours turned by 90 degrees", hue=90),
    Shift("grey", "no colours", saturation=0),
    Shift("crf 32", "stored as H.264 at a rate factor of 32", crf=32),
    Shift("crf 40", "stored as H.264 at a rate factor of 40", crf=40),
    Shift("noise 10", "noise of 10 grey levels", noise=10),
    Shift("noise 20", "noise of 20 grey levels", noise=20),
    Shift("bright", "40 grey levels brighter", brightness=40),
    Shift("dark", "40 grey levels darker", brightness=-40),
    Shift("flat", "half the contrast", contrast=0.5),
    Shift("blur", "blurred by a fiftieth of the picture", blur=0.02),
    Shift("camera", "a camera that travels and zooms", pan=0.08, zoom=0.2),
    Shift("woven", "stripes and dots on the ground and on things", style="woven"),
    Shift("cloudy", "clouds, gradients and soft shadows in pale colours", style="cloudy"),
    Shift("sunny", "shaded things that cast shadows", style="sunny"),
    Shift("cartoon", "things with dark contours in deep colours", style="cartoon"),
)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


#: What :func:`draw_shift` draws: name -> values of a shift.
_DRAWS: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "length": lambda rng: {"seconds": _log_uniform(rng, 1.2, 12)},
    "rate": lambda rng: {"fps": float(rng.integers(8, 31))},
    "speed": lambda rng: {"speed": _log_uniform(rng, 0.5, 2)},
    "bars": lambda rng: {str(rng.choice(("letterbox", "pillarbox"))): float(rng.uniform(0.08, 0.42))},
    "shape": lambda rng: {"aspect": _log_uniform(rng, 9 / 17, 17 / 9)},
    "size": lambda rng: {"size": 2 * int(rng.integers(16, 49))},
    "mirror": lambda rng: {"mirror": True},
    "colors": lambda rng: {
        "channels": tuple(int(c) for c in rng.permutation(3)),
        "hue": float(rng.uniform(-180, 180)) if rng.random() < 0.5 else 0.0,
        "saturation": float(rng.uniform(0, 1.3)) if rng.random() < 0.5 else 1.0,
    },
    "compression": lambda rng: {"crf": int(rng.integers(22, 41))},
    "noise": lambda rng: {"noise": float(rng.uniform(3, 22))},
    "light": lambda rng: {"brightness": float(rng.uniform(-45, 45)), "contrast": float(rng.uniform(0.5, 1.3))},
    "blur": lambda rng: {"blur": float(rng.uniform(0.005, 0.022))},
    "camera": lambda rng: {"pan": float(rng.uniform(0.02, 0.1)), "zoom": float(rng.uniform(0, 0.25))},
    "style": lambda rng: {"style": str(rng.choice([s for s in TRAINING_STYLES if s != "plain"]))},
}


def draw_shift(rng: np.random.Generator, *, most: int = 2, without: Sequence[str] = ()) -> Shift:
    """A shift with drawn values, or several at once: what training sees as normal. It never draws ``ink``.

    Args:
        rng: decides.
        most: one to so many are put together.
        without: which of ``length``, ``rate``, ``speed``, ``bars``, ``shape``, ``size``, ``mirror``, ``colors``,
            ``compression``, ``noise``, ``light``, ``blur``, ``camera`` and ``style`` are not drawn.

    Raises:
        ValueError: if one of ``without`` is unknown, or ``most`` is below 1 or above what is left.
    """
    if unknown := set(without) - set(_DRAWS):
        raise ValueError(f"without={sorted(unknown)} must name some of {', '.join(_DRAWS)}")
    names = [name for name in _DRAWS if name not in without]
    if not 1 <= most <= len(names):
        raise ValueError(f"most={most} must be between 1 and {len(names)}, the draws that are left")
    chosen = [str(name) for name in rng.choice(names, size=rng.integers(1, most + 1), replace=False)]
    values = {k: v for name in chosen for k, v in _DRAWS[name](rng).items()}
    if {"bars", "shape"} <= set(chosen):  # bars follow the longer side, or a slit would be left of the picture
        share = values.pop("letterbox", None) or values.pop("pillarbox")
        values["pillarbox" if values["aspect"] > 1 else "letterbox"] = share
    return Shift(" + ".join(chosen), "drawn: " + ", ".join(chosen), **values)


def find_shift(shift: Shift | str) -> Shift:
    """A shift by its name.

    Raises:
        ValueError: if no shift has that name.
    """
    if isinstance(shift, Shift):
        return shift
    if shift not in SHIFTS:
        raise ValueError(f"no shift {shift!r}; there are {', '.join(SHIFTS)}")
    return SHIFTS[shift]
