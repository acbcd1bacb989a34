"""Words and colours of the world. Two styles: ``plain`` for everything, ``ink`` for out-of-distribution tests only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (214, 52, 44),
    "green": (58, 168, 74),
    "blue": (52, 96, 218),
    "yellow": (238, 206, 62),
    "purple": (150, 66, 176),
    "white": (240, 240, 236),
}
BACKGROUNDS: dict[str, Rgb] = {
    "black": (22, 22, 26),
    "gray": (112, 116, 120),
    "brown": (96, 66, 44),
    "teal": (20, 92, 98),
}
SHAPES = ("ball", "square", "triangle")
#: Words on signs. Each has at least two letters that are not their own mirror image.
WORDS = ("CAR", "LEG", "FED", "BUS", "KEY", "SKI", "JOB", "PEN", "RED", "GAS")


@dataclass(frozen=True)
class Style:
    """Style of drawing: filled, or as outlines over a hatched ground."""

    name: str
    colors: Mapping[str, Rgb] = field(default_factory=lambda: MappingProxyType(COLORS))
    backgrounds: Mapping[str, Rgb] = field(default_factory=lambda: MappingProxyType(BACKGROUNDS))
    outlined: bool = False


#: Same names, other looks: dark inks on pale paper, outlines instead of surfaces. No training ever draws it.
INK_COLORS: dict[str, Rgb] = {
    "red": (128, 22, 34),
    "green": (24, 84, 40),
    "blue": (22, 36, 112),
    "yellow": (140, 96, 10),
    "purple": (84, 24, 104),
    "white": (60, 62, 66),
}
INK_BACKGROUNDS: dict[str, Rgb] = {
    "black": (206, 202, 196),
    "gray": (228, 226, 220),
    "brown": (236, 222, 196),
    "teal": (206, 228, 226),
}
STYLES = {
    "plain": Style("plain"),
    "ink": Style("ink", MappingProxyType(INK_COLORS), MappingProxyType(INK_BACKGROUNDS), outlined=True),
}
