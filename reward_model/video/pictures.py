"""Decoded frames as a player shows them: with square pixels, turned and mirrored."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from reward_model.video.facts import Facts
from reward_model.video.limits import check_size

#: Aspects of pixels that formats of video have had lie well within 1/4 and 4; others are a broken header.
_WIDEST = 4.0
#: An aspect that changes the width by less is what rounding the size to whole pixels left behind.
_LEAST_CHANGE = 0.01


def pixel_aspect(stream: Any, name: str) -> float:
    """Width over height of a stored pixel (720 x 576 is 4:3 television at 16:15, 16:9 at 64:45), 1 if it is not stated,
    not believed, or as good as square.

    Args:
        stream: of video, of an opened container.
        name: of the container's format. What pictures state is passed over, as browsers do: it means paper.
    """
    stated = stream.sample_aspect_ratio
    aspect = float(stated) if stated and name not in ("gif", "apng") else 1.0
    believed = 1 / _WIDEST <= aspect <= _WIDEST and abs(aspect - 1) >= _LEAST_CHANGE
    return aspect if believed else 1.0


def square_width(width: int, aspect: float) -> int:
    """Columns of square pixels that show ``width`` columns of others; even, as most encoders want it."""
    return width if aspect == 1 else max(2, 2 * round(width * aspect / 2))


class Upright:
    """Makes the decoded frames of one file (H, W, 3) uint8, their pixels square, turned and mirrored as the file asks.

    One converter serves all frames: PyAV's own, one per frame, starts threads for each.
    """

    def __init__(self, facts: Facts) -> None:
        from av.video.reformatter import VideoReformatter

        self._facts = facts
        self._converter = VideoReformatter()
        self._turned: tuple[int, tuple[bool, bool, bool] | None] | None = None

    def __call__(self, frame: Any) -> np.ndarray:
        """
        Raises:
            VideoError: it has another size than the first.
        """
        if self._turned is None or self._turned[0] != frame.rotation:
            self._turned = frame.rotation, matrix(frame)
        turned, facts = self._turned[1], self._facts
        width, height = square_width(frame.width, facts.pixel_aspect), frame.height
        across, down = (height, width) if turned and turned[0] else (width, height)
        check_size(facts.path, across, down, (facts.width, facts.height))
        # Without a width the converter leaves pixels as they are.
        scale, how = (None, None) if facts.pixel_aspect == 1 else (width, "BICUBIC")
        picture: np.ndarray = self._converter.reformat(frame, scale, None, "rgb24", interpolation=how).to_ndarray()
        if turned is None:
            return picture
        swap, flip_y, flip_x = turned
        picture = picture.transpose(1, 0, 2) if swap else picture
        return np.ascontiguousarray(picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def matrix(frame: Any) -> tuple[bool, bool, bool] | None:
    """How a picture is to be shown: rows and columns swapped, then rows reversed, then columns; None: as it is stored.

    Angles between are taken to the nearest quarter turn.
    """
    from av.video.reformatter import VideoReformatter

    # A frame and its side data refer to each other in PyAV, so only the garbage collector frees a frame that was asked
    # for them. A small copy is, which carries the same.
    copy = VideoReformatter().reformat(frame, width=16, height=16, format="gray", threads=1)
    side_data: Any = copy.side_data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            swap = abs(b) + abs(c) > abs(a) + abs(d)
            found = (swap, b < 0, c < 0) if swap else (swap, d < 0, a < 0)
            return found if any(found) else None
    return None
