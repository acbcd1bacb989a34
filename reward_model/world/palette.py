"""Words, colours and styles of the world. The style ``ink`` is for out-of-distribution tests only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from reward_model.world.looks import LookBook

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
    """Style of drawing: filled, or as outlines over a hatched ground; ``looks`` is what its scenes draw from."""

    name: str
    colors: Mapping[str, Rgb] = field(default_factory=lambda: MappingProxyType(COLORS))
    backgrounds: Mapping[str, Rgb] = field(default_factory=lambda: MappingProxyType(BACKGROUNDS))
    outlined: bool = False
    looks: LookBook | None = None


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
#: Palettes of the styles with looks: the same names, paler or deeper than in ``plain``.
PALE_COLORS: dict[str, Rgb] = {
    "red": (232, 104, 94),
    "green": (104, 190, 112),
    "blue": (98, 140, 232),
    "yellow": (244, 222, 110),
    "purple": (182, 112, 204),
    "white": (250, 250, 248),
}
PALE_BACKGROUNDS: dict[str, Rgb] = {
    "black": (48, 48, 54),
    "gray": (140, 144, 148),
    "brown": (128, 96, 70),
    "teal": (44, 116, 120),
}
DEEP_COLORS: dict[str, Rgb] = {
    "red": (188, 24, 30),
    "green": (26, 138, 52),
    "blue": (36, 66, 188),
    "yellow": (220, 182, 30),
    "purple": (122, 40, 150),
    "white": (222, 222, 216),
}
DEEP_BACKGROUNDS: dict[str, Rgb] = {
    "black": (12, 12, 20),
    "gray": (92, 96, 104),
    "brown": (78, 48, 28),
    "teal": (8, 74, 86),
}
STYLES = {
    "plain": Style("plain"),
    "ink": Style("ink", MappingProxyType(INK_COLORS), MappingProxyType(INK_BACKGROUNDS), outlined=True),
    "woven": Style("woven", looks=LookBook(("stripes", "dots"), ("", "stripes", "dots"))),
    "cloudy": Style(
        "cloudy",
        MappingProxyType(PALE_COLORS),
        MappingProxyType(PALE_BACKGROUNDS),
        looks=LookBook(("noise", "gradient"), ("", "noise", "gradient"), shadow=0.25),
    ),
    "sunny": Style("sunny", looks=LookBook(("gradient", ""), ("gradient",), shadow=0.6)),
    "cartoon": Style(
        "cartoon",
        MappingProxyType(DEEP_COLORS),
        MappingProxyType(DEEP_BACKGROUNDS),
        looks=LookBook(("", "dots", "gradient"), contour=0.022),
    ),
}
#: Styles that training may draw.
TRAINING_STYLES = tuple(name for name, style in STYLES.items() if not style.outlined)
