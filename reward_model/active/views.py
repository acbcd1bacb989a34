"""A look at a video: an interval in seconds at a rate, and the native frames it shows. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reward_model.schema import FrameRange

#: Seconds below which two moments are one; rounding of decimal seconds stays far below it.
CLOSE = 1e-6


@dataclass(frozen=True)
class Stretch:
    """The part of a video that an episode may look at: native frames ``first`` to ``last``, ``fps`` of them a second.

    Moments are seconds of the whole video, whatever the part.

    Example:
        >>> Stretch(0, 80, 16.0).end
        5.0
    """

    first: int
    last: int
    fps: float

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last or not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(
                f"footage of frames {self.first} to {self.last} at {self.fps} fps must satisfy 0 <= first <= last and "
                "a rate above 0"
            )

    @property
    def start(self) -> float:
        """Second of the first frame."""
        return self.first / self.fps

    @property
    def end(self) -> float:
        """Second of the last frame."""
        return self.last / self.fps


@dataclass(frozen=True)
class Limits:
    """Limits of an episode.

    Args:
        start_fps: frames per second of the first view.
        max_operators: operators before the answer has to come.
        max_frames: frames shown in all views together.
        max_view_frames: frames of one view.

    Raises:
        ValueError: if a limit is below 1, or the rate not above 0.
    """

    start_fps: float = 2.0
    max_operators: int = 4
    max_frames: int = 64
    max_view_frames: int = 16

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_fps) and self.start_fps > 0):
            raise ValueError(f"start_fps={self.start_fps} must be a finite number above 0")
        for name in ("max_frames", "max_view_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.max_operators < 0:
            raise ValueError(f"max_operators={self.max_operators} must be at least 0; with 0 the answer comes at once")


@dataclass(frozen=True)
class View:
    """The interval from second ``start`` to second ``end``, both included, at ``rate`` frames per second."""

    start: float
    end: float
    rate: float

    @property
    def seconds(self) -> float:
        """Length of the interval."""
        return self.end - self.start


def first_view(footage: Stretch, limits: Limits) -> View:
    """The whole footage at the rate an episode begins with, or its native rate where that is lower."""
    return View(footage.start, footage.end, min(limits.start_fps, footage.fps))


def view_indices(view: View, footage: Stretch) -> tuple[int, ...]:
    """Native frames that a view shows: the nearest one to each of ``start + k / rate`` up to ``end``, each once; none
    of an interval that ends before it starts.

    Example:
        >>> view_indices(View(1.0, 4.0, 5.0), Stretch(0, 80, 16.0))[:6]
        (16, 19, 22, 26, 29, 32)
    """
    if view.end < view.start - CLOSE:
        return ()
    count = math.floor((view.end - view.start) * view.rate + CLOSE) + 1
    # As sample_indices rounds, so that the first view is its grid; first to six digits, for 2.1 s is not a float.
    native = (round(round((view.start + k / view.rate) * footage.fps, 6)) for k in range(count))
    return tuple(dict.fromkeys(min(max(n, footage.first), footage.last) for n in native))


def frames_window(window: FrameRange, indices: tuple[int, ...], fps: float) -> tuple[float, float]:
    """First and last second of a range of a view's frames, counted from zero.

    Raises:
        ValueError: if the view has no such frames.
    """
    if window.end >= len(indices):
        raise ValueError(f"frames {window.start}-{window.end} are outside the {len(indices)} frames of the view")
    return indices[window.start] / fps, indices[window.end] / fps
