"""A way to present the world: how a video is filmed, edited and stored. All of it is normal."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from reward_model.schema import AnomalyType
from reward_model.world.canvas import picture_shape
from reward_model.world.kinds import KINDS, SETTINGS
from reward_model.world.video import SIZE

#: Kinds that a video shorter than :data:`BRIEF_S` seconds cannot show: they are told by what came before.
SLOW_KINDS, BRIEF_S = ("rebound", "float"), 2.5


@dataclass(frozen=True)
class Shift:
    """A way to present the world; the defaults change nothing.

    Attributes:
        name, about: its name, and what it does in a few words.
        seconds: length of the video, native frame 0 to the last one.
        fps: native frames per second.
        speed: how fast everything happens, 1 as usual; a scene shown faster than usual is over sooner.
        aspect: width by height; the scene is drawn in that shape, not squeezed into it.
        size: the shorter side in pixels.
        style: style of the world.
        pan, zoom: travel and zoom of the camera, see :func:`reward_model.world.make_scene`.
        letterbox, pillarbox: share of the height, or the width, that black bars take.
        mirror: left and right exchanged; never with signs, whose letters would be wrong.
        channels: the channels of the picture, in the order in which they are shown.
        hue: rotation of all colours in degrees.
        saturation: 1 as usual, 0 grey.
        brightness: grey levels added.
        contrast: factor on the distance from grey level 110.
        blur: standard deviation of a Gaussian blur, as a fraction of the shorter side.
        noise: standard deviation of noise in grey levels, new in every frame.
        crf: rate factor of H.264 that the video is stored with, None: not stored.
    """

    name: str = "plain"
    about: str = "as training has it"
    seconds: float = 5.0
    fps: float = 16.0
    speed: float = 1.0
    aspect: float = 1.0
    size: int = SIZE
    style: str = "plain"
    pan: float = 0.0
    zoom: float = 0.0
    letterbox: float = 0.0
    pillarbox: float = 0.0
    mirror: bool = False
    channels: tuple[int, int, int] = (0, 1, 2)
    hue: float = 0.0
    saturation: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    blur: float = 0.0
    noise: float = 0.0
    crf: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.seconds <= 600 and 1 <= self.fps <= 120):
            raise ValueError(
                f"seconds={self.seconds} must be above 0 and at most 600, fps={self.fps} between 1 and 120"
            )
        if not 0.25 <= self.speed <= 4:
            raise ValueError(f"speed={self.speed} must be between 1/4 and 4")
        if self.size < 16:
            raise ValueError(f"size={self.size} must be at least 16 pixels")
        if not (0 <= self.letterbox <= 0.6 and 0 <= self.pillarbox <= 0.6):
            raise ValueError(f"letterbox={self.letterbox} and pillarbox={self.pillarbox} must be between 0 and 0.6")
        if sorted(self.channels) != [0, 1, 2]:
            raise ValueError(f"channels={self.channels} must hold 0, 1 and 2 once each")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return picture_shape(self.size, self.aspect)

    @property
    def num_frames(self) -> int:
        """Native frames of a video."""
        return min(round(self.seconds * self.fps), self.scene_frames - 1) + 1

    @property
    def scene_frames(self) -> int:
        """Frames of the scene that is filmed; a slow one is longer than what is shown of it."""
        return round(self.seconds * self.fps / self.speed) + 1

    @property
    def changes_colors(self) -> bool:
        """True if colours no longer are what words call them."""
        return self.channels != (0, 1, 2) or abs(self.hue) > 15 or self.saturation < 0.3

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of anomalies that this shift leaves visible and true."""
        shown_s = (self.num_frames - 1) / self.fps * self.speed
        return tuple(
            kind
            for kind, family in KINDS.items()
            if not (self.mirror and family is AnomalyType.CHARACTER) and not (shown_s < BRIEF_S and kind in SLOW_KINDS)
        )

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings it can show."""
        return tuple(s for s in SETTINGS if not (self.mirror and s == "sign"))

    def __or__(self, other: Shift) -> Shift:
        """Both at once; where both change the same, the second holds."""
        plain = Shift()
        named = {f.name: getattr(other, f.name) for f in fields(Shift)}
        changed = {k: v for k, v in named.items() if v != getattr(plain, k)}
        names = {"name": f"{self.name} + {other.name}", "about": f"{self.about}; {other.about}"}
        return replace(self, **{**changed, **names})

    def to_dict(self) -> dict[str, Any]:
        """Settings that differ from the plain shift, as JSON-safe values."""
        plain = Shift()
        changed = {f.name: v for f in fields(Shift) if (v := getattr(self, f.name)) != getattr(plain, f.name)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()}
