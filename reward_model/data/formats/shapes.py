"""The box around a shape that is not one: what annotation tools let people draw, and the rectangle it fills.

The paper's region is a box (B.1.3), which must hold all of what is wrong. A closed or traced outline has a smallest
such box; points and skeletons mark places and say nothing of how far the region reaches, so they have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from reward_model.data.formats.common import FormatError
from reward_model.data.formats.tracks import Corners

#: Turned by less than this many degrees, a box stands straight: tools write 0 with rounding errors.
UPRIGHT = 0.01
_BOX = ("xtl", "ytl", "xbr", "ybr")
_CUBOID = tuple(f"{axis}{corner}{face}" for face in "12" for corner in ("tl", "bl", "tr", "br") for axis in "xy")


def around(points: Iterable[Sequence[float]]) -> Corners:
    """The smallest upright box around points ``(x, y)``."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def turned(corners: Sequence[float], degrees: float, about: tuple[float, float]) -> Corners:
    """The upright box around a rectangle that was turned clockwise, in units that are equal on both axes."""
    x0, y0, x1, y1 = corners
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    moved = []
    for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        dx, dy = x - about[0], y - about[1]
        moved.append((about[0] + dx * cos - dy * sin, about[1] + dx * sin + dy * cos))
    return around(moved)


def is_turned(degrees: float) -> bool:
    """True if an angle differs from a whole turn."""
    rest = degrees % 360
    return min(rest, 360 - rest) > UPRIGHT


def cvat_corners(kind: str, values: Mapping[str, str]) -> tuple[Corners, str]:
    """The box around a shape of CVAT in pixels, and what was made of it ("" for a box that stands straight).

    Args:
        kind: the element's name: ``box``, ``polygon``, ``polyline``, ``ellipse``, ``mask``, ``cuboid``, ...
        values: its XML attributes.

    Raises:
        FormatError: if an attribute is missing or is not a number, or there is no box around such a shape.
    """
    angle = number(values, "rotation", kind, 0.0)
    if kind == "box":
        corners = _four([number(values, key, kind) for key in _BOX])
        if not is_turned(angle):
            return corners, ""
        centre = ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
        return turned(corners, angle, centre), f"a box turned by {angle:g} degrees"
    if kind in ("polygon", "polyline"):
        return around(_points(values, kind)), f"a {kind}"
    if kind == "ellipse":
        cx, cy, rx, ry = (number(values, key, kind) for key in ("cx", "cy", "rx", "ry"))
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        half_x, half_y = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        return (cx - half_x, cy - half_y, cx + half_x, cy + half_y), "an ellipse"
    if kind == "mask":
        left, top, width, height = (number(values, key, kind) for key in ("left", "top", "width", "height"))
        return (left, top, left + width, top + height), "a mask"
    if kind == "cuboid":
        flat = [number(values, key, kind) for key in _CUBOID]
        return around(zip(flat[::2], flat[1::2], strict=True)), "a cuboid"
    if kind in ("points", "skeleton"):
        raise FormatError(f"{kind} mark places and not how far a region reaches; draw a rectangle around it")
    raise FormatError(f"a <{kind}> is not a shape with a place in a video; draw a rectangle instead")


def number(values: Mapping[str, str], key: str, kind: str, default: float | None = None) -> float:
    """An XML attribute as a finite number.

    Raises:
        FormatError: if it is missing without a default, or is something else.
    """
    if key not in values:
        if default is None:
            raise FormatError(f"a {kind} has no {key}")
        return default
    try:
        value = float(values[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"a {kind} has {key}={values[key]!r}, which is not finite; a number is needed")
    return value


def _points(values: Mapping[str, str], kind: str) -> list[tuple[float, float]]:
    found = []
    for pair in values.get("points", "").split(";"):
        x, _, y = pair.partition(",")
        try:
            place = float(x), float(y)
        except ValueError:
            place = math.nan, math.nan
        if not all(map(math.isfinite, place)):
            raise FormatError(f"a {kind} has the point {pair!r}; points must read like 64.0,48.5;128.0,48.5")
        found.append(place)
    return found


def _four(values: Sequence[float]) -> Corners:
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
