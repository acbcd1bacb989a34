"""Boxes as annotation tools keep them: tracks of keyframes with straight lines between them.

Writing thins a track to the keyframes it needs; reading expands it to a box per frame. Expanding what was thinned
gives the same boxes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from reward_model.data.formats.common import FormatError, nearest_box
from reward_model.schema import Box

#: A frame is left to interpolation only if that lands this near the true corner, in grid units; rounding in a tool's
#: own unit may then add as much again without changing the result.
SLACK = 0.25

Corners = tuple[float, float, float, float]


class Keyframe(NamedTuple):
    """A box someone placed. Coordinates are 0-1000 and need not be whole.

    ``ends``: this is the last frame that shows it, until the next keyframe. ``visible`` False: the box is only where
    the thing would be; it is gone from this frame on. ``placed`` False: the tool wrote it on export, by interpolation
    or because nobody had ended the track; nobody put it there.
    """

    frame: int
    corners: Corners
    ends: bool = False
    visible: bool = True
    placed: bool = True


class ExpandedTrack(NamedTuple):
    """An expanded track. Nobody ended it if ``open_from`` is a frame: from there on nobody placed a box, the last one
    just goes on, whether the tool wrote it out or not.
    """

    boxes: dict[int, Box]
    open_from: int | None


def to_tracks(boxes: Mapping[int, Sequence[Box]]) -> list[dict[int, Box]]:
    """One track per position: track k holds the k-th box of every frame that has one."""
    count = max((len(entries) for entries in boxes.values()), default=0)
    return [{n: boxes[n][k] for n in sorted(boxes) if len(boxes[n]) > k} for k in range(count)]


def from_tracks(tracks: Iterable[Mapping[int, Box]]) -> dict[int, tuple[Box, ...]]:
    """The boxes of every frame, in the order of the tracks; :func:`to_tracks` read backwards."""
    merged: dict[int, list[Box]] = {}
    for track in tracks:
        for frame, box in track.items():
            merged.setdefault(frame, []).append(box)
    return {frame: tuple(merged[frame]) for frame in sorted(merged)}


def keyframes(track: Mapping[int, Box]) -> list[Keyframe]:
    """The keyframes that :func:`expand` needs to give ``track`` back; the last of each unbroken run ``ends`` it."""
    found: list[Keyframe] = []
    for run in _runs(sorted(track)):
        anchors, start = [run[0]], 0
        while start < len(run) - 1:
            stop = start + 1
            while stop + 1 < len(run) and _straight(track, run[start : stop + 2]):
                stop += 1
            anchors.append(run[stop])
            start = stop
        found += [Keyframe(n, _corners(track[n]), ends=n == run[-1]) for n in anchors]
    return found


def expand(keys: Iterable[Keyframe], num_frames: int) -> ExpandedTrack:
    """A box per visible frame; between two keyframes corners move in straight lines, after the last one they stay.

    A keyframe one frame past the end is left out (tools place one there to say that a track ends).

    Raises:
        FormatError: if a keyframe lies farther outside a video of ``num_frames``.
    """
    ordered = sorted({key.frame: key for key in keys}.values(), key=lambda key: key.frame)
    for frame in (key.frame for key in ordered if not 0 <= key.frame <= num_frames):
        raise FormatError(f"a keyframe on frame {frame} (from 0) is outside a video of {num_frames} frames")
    boxes: dict[int, Box] = {}
    for key, after in zip(ordered, [*ordered[1:], None], strict=False):
        if key.visible and key.frame < num_frames:
            boxes |= _until(key, after, num_frames)
    if not boxes or ordered[-1].ends or not ordered[-1].visible:
        return ExpandedTrack(boxes, None)
    open_from = max((key.frame for key in ordered if key.placed), default=ordered[0].frame) + 1
    return ExpandedTrack(boxes, open_from if open_from < num_frames else None)


def _until(key: Keyframe, after: Keyframe | None, num_frames: int) -> dict[int, Box]:
    """The boxes from a visible keyframe to the frame before the next one, or to the end of the video."""
    boxes = {key.frame: nearest_box(key.corners)}
    if key.ends:
        return boxes
    if after is None:
        return dict.fromkeys(range(key.frame, num_frames), boxes[key.frame])
    for frame in range(key.frame + 1, after.frame):
        share = (frame - key.frame) / (after.frame - key.frame)
        boxes[frame] = nearest_box(between(key.corners, after.corners, share))
    return boxes


def between(a: Sequence[float], b: Sequence[float], share: float) -> Corners:
    """The corners a ``share`` of the way from ``a`` to ``b``."""
    x0, y0, x1, y1 = (p + (q - p) * share for p, q in zip(a, b, strict=True))
    return x0, y0, x1, y1


def _runs(frames: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs


def _straight(track: Mapping[int, Box], run: Sequence[int]) -> bool:
    first, last = _corners(track[run[0]]), _corners(track[run[-1]])
    for k, frame in enumerate(run[1:-1], 1):
        guess = between(first, last, k / (len(run) - 1))
        if any(abs(g - t) > SLACK for g, t in zip(guess, _corners(track[frame]), strict=True)):
            return False
    return True


def _corners(box: Box) -> Corners:
    return float(box.xmin), float(box.ymin), float(box.xmax), float(box.ymax)
