"""Shared parts of all adapters: the outcome of an import, seconds to frames, boxes of any unit to the 0-1000 grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_model.data.records import Record
from reward_model.data.validation import Problem
from reward_model.schema import BOX_SCALE, AnomalyType, Box, FrameRange, VideoAnnotation
from reward_model.video.clip import VideoError
from reward_model.video.container import ENCODE, repair_command
from reward_model.video.reading import probe, read_facts

#: A foreign type name to one of the five types; None leaves anomalies of that name out.
TypeMap = Mapping[str, AnomalyType | str | None]


@dataclass(frozen=True)
class Imported:
    """Result of an adapter: the complete records, and a problem for each thing that could not be read.

    An error means that its video is not among the records; a warning, that something of it was left out on purpose.
    ``Problem.line`` counts the lines, rows or tasks of the file from 1.
    """

    records: list[Record]
    problems: list[Problem]

    @property
    def errors(self) -> list[Problem]:
        return [p for p in self.problems if p.severity == "error"]


class FormatError(ValueError):
    """A part of a file that an adapter cannot read; the message says where and why."""


def seconds_to_frames(start_s: float, end_s: float, fps: float, num_frames: int) -> FrameRange:
    """The frames k whose time k / fps lies in [start_s, end_s], clipped to the video; the nearest one if there is none.

    Raises:
        FormatError: if the times are not finite, reversed, or wholly outside the video.

    Example:
        >>> seconds_to_frames(0.5, 1.0, 16, 81)
        FrameRange(start=8, end=16)
        >>> seconds_to_frames(0.51, 0.52, 16, 81)
        FrameRange(start=8, end=8)
    """
    if not (math.isfinite(start_s) and math.isfinite(end_s)) or end_s < start_s:
        raise FormatError(f"the time range {start_s}-{end_s} s must satisfy start <= end")
    if start_s * fps > num_frames or end_s < 0:
        raise FormatError(f"the time range {start_s}-{end_s} s is outside a video of {num_frames / fps:.3f} s")
    end_s = min(end_s, num_frames / fps)
    first = math.ceil(start_s * fps - 1e-6)
    last = math.floor(end_s * fps + 1e-6)
    if last < first:
        first = last = round((start_s + end_s) / 2 * fps)
    return FrameRange(min(max(first, 0), num_frames - 1), min(max(last, 0), num_frames - 1))


def grid_box(box: Sequence[float], unit: tuple[float, float], *, layout: str = "xyxy", tolerance: float = 0.01) -> Box:
    """A box in any unit as the nearest box of the 0-1000 grid, never empty.

    Args:
        box: four numbers.
        unit: what width and height of the picture are in the box's unit: (1, 1), (100, 100), or the pixels.
        layout: ``"xyxy"`` or ``"xywh"``.
        tolerance: how far a corner may lie outside, as a share of the picture; such corners are clipped.

    Raises:
        FormatError: not four finite numbers, corners swapped, no area, or outside the picture.

    Example:
        >>> grid_box([0.3, 0.0, 0.6, 0.5], (1, 1)).as_list()
        [300, 0, 600, 500]
    """
    if len(box) != 4 or not all(isinstance(v, int | float) and math.isfinite(v) for v in box):
        raise FormatError(f"box {list(box)} must be four finite numbers")
    x0, y0, x1, y1 = box
    if layout == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if x1 <= x0 or y1 <= y0:
        raise FormatError(f"box {list(box)} ({layout}) has swapped corners or no area")
    corners = [x0 / unit[0], y0 / unit[1], x1 / unit[0], y1 / unit[1]]
    if min(corners) < -tolerance or max(corners) > 1 + tolerance:
        raise FormatError(f"box {list(box)} ({layout}) leaves a picture of {unit[0]:g}x{unit[1]:g}")
    return nearest_box([v * BOX_SCALE for v in corners])


def check_corners(corners: Sequence[float], frame: int) -> None:
    """Checks that corners in grid units can be a box: in order, with an area, and at least partly in the picture.

    Raises:
        FormatError: if they cannot; a box that was clipped to a line at the border would be a place nobody drew.
    """
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        raise FormatError(f"frame {frame}: a shape without an area; draw a rectangle around the region")
    if x0 >= BOX_SCALE or y0 >= BOX_SCALE or x1 <= 0 or y1 <= 0:
        shown = ", ".join(f"{v / 10:.1f}" for v in corners)
        raise FormatError(f"frame {frame}: the shape ({shown} percent) lies outside the picture; draw it inside")


def nearest_box(corners: Sequence[float]) -> Box:
    """Corners in grid units rounded to the grid, clipped to it, and widened to one unit where they would be empty."""
    x0, y0, x1, y1 = (min(max(round(v), 0), BOX_SCALE) for v in corners)
    x0, y0 = min(x0, BOX_SCALE - 1), min(y0, BOX_SCALE - 1)
    return Box(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def within(frames: FrameRange, num_frames: int) -> FrameRange:
    """The same range if the video has its frames; asked before a range is expanded to a box per frame.

    Raises:
        FormatError: if it goes beyond the video.
    """
    if frames.end >= num_frames:
        raise FormatError(f"frame {frames.end} is outside a video of {num_frames} frames (0-{num_frames - 1})")
    return frames


def same_box_on(window: FrameRange, box: Box) -> dict[int, tuple[Box, ...]]:
    """One box for every frame of a window."""
    return dict.fromkeys(window.frames(), (box,))


def map_type(name: str, types: TypeMap) -> AnomalyType | None:
    """The type a foreign name stands for; None: the table leaves it out. Case, spaces and hyphens do not matter.

    Raises:
        FormatError: if the table does not know the name.
    """
    table = {_key(k): v for k, v in types.items()}
    if _key(name) not in table:
        raise FormatError(f"type {name!r} is not in the type map; add it there (null leaves such anomalies out)")
    value = table[_key(name)]
    return AnomalyType.parse(value) if isinstance(value, str) else value


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").lower().split())


def varying_rate(path: Path) -> str:
    """Reason why the frame numbers of a tool that counts stored frames, as CVAT does, are not those of annotations; ""
    if they are, or if there is no such file.
    """
    try:
        facts = read_facts(path)
    except VideoError:
        return ""
    if facts.shown is None:
        return ""
    return (
        f"the rate of {str(path)!r} varies: the tool counts its {facts.stored} stored frames, annotations count "
        f"{facts.num_frames} frames at a constant {facts.fps:g} fps. Write the rate anew before it is annotated: "
        f"{repair_command(path, '-vf', f'fps={facts.fps:g}', *ENCODE)}"
    )


def stored_size(path: Path) -> tuple[int, int] | None:
    """Width and height that a tool sees which shows stored pixels, as CVAT does, of a video whose pixels are not
    square; None if they are, or if there is no such file.
    """
    try:
        return probe(path).stored_size
    except VideoError:
        return None


def empty_annotation(video_id: str, path: Path, prompt: str = "", source: str = "") -> VideoAnnotation:
    """A normal annotation whose length, rate and size are read from the header of the file.

    Raises:
        VideoError: if the file is missing or no video.
        FormatError: if its header states no frame rate.
    """
    header = probe(path)
    if header.fps is None:
        raise FormatError(f"{str(path)!r} states no frame rate; re-encode it")
    return VideoAnnotation(
        video_id, header.num_frames, header.fps, header.width, header.height, prompt=prompt, source=source
    )
