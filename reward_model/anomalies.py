"""Anomalies, and what is true of a video: types, frames, boxes, annotations.

Frames are counted from zero and ranges include both ends. Boxes are ``(xmin, ymin, xmax, ymax)`` integers on a 0-1000
grid in each axis, whatever the size of the video (paper, B.1.3). An :class:`Anomaly` never knows which frame grid it
lives on: inside a :class:`VideoAnnotation` its indices are native frames, inside a
:class:`~reward_model.schema.TurnReport` they are the sampled frames of that turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Status = Literal["normal", "abnormal"]

BOX_SCALE = 1000
#: The longest video an annotation may describe: an hour at 60 frames a second. What states more is a mistake or an
#: attack; expanding it to a box per frame would take the memory of the machine.
MAX_FRAMES = 216_000


class AnomalyType(StrEnum):
    """The five families of local anomalies, in the paper's fixed order (section 3.1, B.1.2)."""

    OBJECT = "Object Distortion"
    HUMAN = "Human Distortion"
    MOTION = "Motion Anomalies"
    PHYSICAL = "Physical Violations"
    CHARACTER = "Character Anomalies"

    @property
    def single_frame(self) -> bool:
        """True if one frame is enough to see it (stage 1), False if frames must be compared (stage 2)."""
        return self in (AnomalyType.OBJECT, AnomalyType.HUMAN, AnomalyType.CHARACTER)

    @property
    def rank(self) -> int:
        """Position in the fixed order, 0-4."""
        return list(AnomalyType).index(self)

    @classmethod
    def parse(cls, name: str) -> AnomalyType:
        """The type a free spelling means: ``"object"``, ``"Text Anomaly"`` and ``"physics_violation"`` are all
        understood.

        Raises:
            ValueError: if the name matches no type or alias.
        """
        key = " ".join(name.replace("_", " ").replace("-", " ").lower().split())
        if key in _ALIASES:
            return _ALIASES[key]
        raise ValueError(f"unknown anomaly type {name!r}; expected one of {', '.join(repr(t.value) for t in cls)}")


_STEMS = {
    AnomalyType.OBJECT: ("object", "objects", "thing", "structure"),
    AnomalyType.HUMAN: ("human", "person", "body", "people"),
    AnomalyType.MOTION: ("motion", "movement", "temporal"),
    AnomalyType.PHYSICAL: ("physical", "physics", "physical law"),
    AnomalyType.CHARACTER: ("character", "text", "glyph", "characters"),
}
_TAILS = ("", " distortion", " distortions", " anomaly", " anomalies", " violation", " violations", " inconsistency")
_ALIASES = {stem + tail: kind for kind, names in _STEMS.items() for stem in names for tail in _TAILS}


@dataclass(frozen=True, order=True)
class FrameRange:
    """Frames ``start`` to ``end``, both included."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.end < self.start:
            raise ValueError(f"frame range {self.start}-{self.end} must satisfy 0 <= start <= end")

    def __len__(self) -> int:
        return self.end - self.start + 1

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame <= self.end

    def __str__(self) -> str:
        return f"Frame {self.start}-{self.end}"

    def frames(self) -> range:
        return range(self.start, self.end + 1)


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle on the 0-1000 grid; corners in order, area above zero."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int

    def __post_init__(self) -> None:
        if not (0 <= self.xmin < self.xmax <= BOX_SCALE and 0 <= self.ymin < self.ymax <= BOX_SCALE):
            raise ValueError(
                f"box {self.as_list()} must satisfy 0 <= xmin < xmax <= {BOX_SCALE} and 0 <= ymin < ymax <= {BOX_SCALE}"
            )

    @classmethod
    def from_pixels(cls, xmin: float, ymin: float, xmax: float, ymax: float, width: int, height: int) -> Box:
        """The smallest grid box that encloses a pixel rectangle, clipped to the picture and never empty."""
        x0, x1 = (min(max(v * BOX_SCALE / width, 0), BOX_SCALE) for v in (xmin, xmax))
        y0, y1 = (min(max(v * BOX_SCALE / height, 0), BOX_SCALE) for v in (ymin, ymax))
        left, top = min(math.floor(x0), BOX_SCALE - 1), min(math.floor(y0), BOX_SCALE - 1)
        return cls(left, top, max(math.ceil(x1), left + 1), max(math.ceil(y1), top + 1))

    def to_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """``(xmin, ymin, xmax, ymax)`` in pixels of a picture of that size."""
        sx, sy = width / BOX_SCALE, height / BOX_SCALE
        return self.xmin * sx, self.ymin * sy, self.xmax * sx, self.ymax * sy

    def as_list(self) -> list[int]:
        return [self.xmin, self.ymin, self.xmax, self.ymax]


@dataclass(frozen=True)
class Anomaly:
    """One independent anomaly.

    ``boxes`` maps a frame index to one or more boxes; frames without a visible region have no key (a thing that
    vanished has boxes on the frames at the edge of its absence only). ``salient`` is unknown until synthesis has
    verified the sample.
    """

    type: AnomalyType
    frames: FrameRange
    boxes: Mapping[int, tuple[Box, ...]] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    reason: str = ""
    region: str = ""
    salient: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "type": self.type.value,
            "frames": [self.frames.start, self.frames.end],
            "boxes": {str(k): [b.as_list() for b in v] for k, v in sorted(self.boxes.items())},
            "objects": list(self.objects),
            "reason": self.reason,
            "region": self.region,
            "salient": self.salient,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Anomaly:
        return cls(
            type=AnomalyType.parse(data["type"]),
            frames=FrameRange(*data["frames"]),
            boxes={int(k): tuple(Box(*b) for b in v) for k, v in data.get("boxes", {}).items()},
            objects=tuple(data.get("objects", ())),
            reason=data.get("reason", ""),
            region=data.get("region", ""),
            salient=data.get("salient"),
        )

    def on_grid(self, indices: Sequence[int]) -> Anomaly | None:
        """The same anomaly on a sampled grid, where ``indices[k]`` is the native frame shown as frame ``k``.

        The window keeps the sampled frames inside it, or the nearest one when it falls between two; ``None`` when it
        lies wholly outside the clip. A box annotated off the grid (the last visible frame before a disappearance)
        moves to the nearest sampled frame of the window that has none of its own.
        """
        if not indices or self.frames.end < indices[0] or self.frames.start > indices[-1]:
            return None
        inside = [k for k, n in enumerate(indices) if n in self.frames]
        if not inside:
            middle = (self.frames.start + self.frames.end) / 2
            inside = [min(range(len(indices)), key=lambda k: abs(indices[k] - middle))]
        boxes = {k: self.boxes[indices[k]] for k in inside if indices[k] in self.boxes}
        for n in sorted(self.boxes):
            nearest = min(inside, key=lambda k: abs(indices[k] - n))
            step = indices[1] - indices[0] if len(indices) > 1 else 1
            if abs(indices[nearest] - n) <= step:
                boxes.setdefault(nearest, self.boxes[n])
        return replace(self, frames=FrameRange(inside[0], inside[-1]), boxes=dict(sorted(boxes.items())))


@dataclass(frozen=True)
class VideoAnnotation:
    """The truth about one video: normal, or a list of anomalies with native frame indices.

    ``fps`` is frames per second of the native video, ``width`` and ``height`` are pixels.
    """

    video_id: str
    num_frames: int
    fps: float
    width: int
    height: int
    prompt: str = ""
    anomalies: tuple[Anomaly, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if self.num_frames < 1 or not self.fps > 0:
            raise ValueError(f"{self.video_id}: num_frames={self.num_frames} and fps={self.fps} must both be positive")
        if self.num_frames > MAX_FRAMES:
            raise ValueError(
                f"{self.video_id}: num_frames={self.num_frames} is above {MAX_FRAMES}, an hour at 60 fps; cut the video"
            )
        for anomaly in self.anomalies:
            for index in (anomaly.frames.end, *anomaly.boxes):
                if index >= self.num_frames:
                    raise ValueError(f"{self.video_id}: frame {index} is outside a video of {self.num_frames} frames")

    @property
    def status(self) -> Status:
        return "abnormal" if self.anomalies else "normal"

    @property
    def types(self) -> tuple[AnomalyType, ...]:
        return sort_types(a.type for a in self.anomalies)

    def on_grid(self, indices: Sequence[int]) -> tuple[Anomaly, ...]:
        """The anomalies that a sampled grid does not lie wholly outside of, as :meth:`Anomaly.on_grid` places them."""
        return tuple(placed for a in self.anomalies if (placed := a.on_grid(indices)) is not None)

    def to_dict(self) -> dict[str, Any]:
        names = ("video_id", "num_frames", "fps", "width", "height", "prompt", "status")
        plain = {name: getattr(self, name) for name in names}
        return {**plain, "anomalies": [a.to_dict() for a in self.anomalies], "source": self.source}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VideoAnnotation:
        annotation = cls(
            video_id=data["video_id"],
            num_frames=data["num_frames"],
            fps=data["fps"],
            width=data["width"],
            height=data["height"],
            prompt=data.get("prompt", ""),
            anomalies=tuple(Anomaly.from_dict(a) for a in data.get("anomalies", ())),
            source=data.get("source", ""),
        )
        if data.get("status", annotation.status) != annotation.status:
            raise ValueError(
                f"{annotation.video_id}: status {data['status']!r} contradicts {len(annotation.anomalies)} anomalies"
            )
        return annotation


def sort_types(types: Iterable[AnomalyType]) -> tuple[AnomalyType, ...]:
    """Each type once, in the fixed order."""
    return tuple(sorted(set(types), key=lambda t: t.rank))
