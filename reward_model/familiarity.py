"""Familiarity of a video to a checkpoint: by what it sees (two quantiles) and by what its training set states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

#: A fact may lie this share outside the stated range before it counts: files state rates such as 23.976.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Familiarity:
    """Place of a video among those of the training distribution.

    Attributes:
        appearance, state: share of the reference videos that are nearer by this distance, in [0, 1].
        out_of_domain: true if either is above what all but a few of the reference videos reach.
        reason: the same in words, "" inside the domain.
    """

    appearance: float
    state: float
    out_of_domain: bool
    reason: str = ""

    @property
    def farthest(self) -> float:
        """The higher of the two quantiles."""
        return max(self.appearance, self.state)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Familiarity | None:
        return None if data is None else cls(**data)


@dataclass(frozen=True)
class TrainedOn:
    """The training set of a checkpoint, as its ``judge.json`` states it; each range is (least, most), None: not stated.

    Attributes:
        seconds, fps: length and frame rate of the videos.
        side: pixels of the smaller side and of the larger, over all videos.
        aspect: width over height.
        footage: the kind of footage in words.
    """

    seconds: tuple[float, float] | None = None
    fps: tuple[float, float] | None = None
    side: tuple[float, float] | None = None
    aspect: tuple[float, float] | None = None
    footage: str = ""

    def __post_init__(self) -> None:
        for name in ("seconds", "fps", "side", "aspect"):
            value = getattr(self, name)
            if value is None:
                continue
            numbers = isinstance(value, list | tuple) and all(
                isinstance(v, int | float) and not isinstance(v, bool) for v in value
            )
            if not numbers or len(value) != 2 or not 0 < value[0] <= value[1]:
                raise ValueError(
                    f"trained_on: {name}={value!r} must be two numbers above 0, the least and the most of the training "
                    "videos"
                )
            object.__setattr__(self, name, (float(value[0]), float(value[1])))
        if not isinstance(self.footage, str):
            raise ValueError(f"trained_on: footage={self.footage!r} must be a text, such as 'talking heads, indoors'")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainedOn:
        """Raises ValueError for a key or value that makes no sense."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"trained_on: unknown {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**data)

    @classmethod
    def of(cls, facts: Sequence[tuple[int, float, int, int]], footage: str = "") -> TrainedOn:
        """The ranges of videos given as (frames, frames per second, width, height); sides of 0 are not known.

        >>> TrainedOn.of([(33, 16.0, 64, 48), (97, 16.0, 48, 64)]).seconds
        (2.06, 6.06)
        """
        if not facts:
            return cls(footage=footage)
        sizes = [(w, h) for _, _, w, h in facts if w and h]
        return cls(
            seconds=_range([count / fps for count, fps, _, _ in facts]),
            fps=_range([fps for _, fps, _, _ in facts]),
            side=_range([side for size in sizes for side in size]) if sizes else None,
            aspect=_range([w / h for w, h in sizes]) if sizes else None,
            footage=footage,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values of what is stated."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if v}

    def objections(self, num_frames: int, fps: float, size: tuple[int, int] | None = None) -> list[str]:
        """Reasons why a video is not of this kind; none if it is, as far as that is stated.

        Args:
            num_frames, fps: length and rate of the video.
            size: height and width in pixels; None: not known.

        >>> TrainedOn(seconds=(2.1, 6.1)).objections(161, 16.0)
        ['10.1 s; trained on 2.1 to 6.1 s']
        """
        facts: list[tuple[str, list[float], tuple[float, float] | None]] = []
        if num_frames and fps > 0:
            facts = [("{} s", [num_frames / fps], self.seconds), ("{} frames per second", [fps], self.fps)]
        if size is not None and min(size) > 0:
            height, width = size
            facts.append(("sides of {} pixels", [height, width], self.side))
            facts.append(("width over height {}", [width / height], self.aspect))
        said = []
        for text, values, stated in facts:
            if stated is None or all(_inside(v, stated) for v in values):
                continue
            low, high = (f"{v:.3g}" for v in stated)
            trained = low if low == high else f"{low} to {high}"
            shown = " and ".join(dict.fromkeys(f"{v:.3g}" for v in values))
            unit = text.partition("{} ")[2]
            said.append(f"{text.format(shown)}; trained on {trained}{' ' + unit if unit else ''}")
        return said


def _inside(value: float, stated: tuple[float, float]) -> bool:
    return stated[0] * (1 - TOLERANCE) <= value <= stated[1] * (1 + TOLERANCE)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return round(min(values), 2), round(max(values), 2)
