"""Decoded frames as a player shows them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from reward_model.video.facts import Facts
from reward_model.video.limits import check_size


class Upright:
    """Makes the decoded frames of one file (H, W, 3) uint8, turned and mirrored as the file asks.

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
        picture: np.ndarray = self._converter.reformat(frame, format="rgb24").to_ndarray()
        if self._turned is None or self._turned[0] != frame.rotation:
            self._turned = frame.rotation, matrix(frame)
        if self._turned[1] is not None:
            swap, flip_y, flip_x = self._turned[1]
            picture = picture.transpose(1, 0, 2) if swap else picture
            picture = np.ascontiguousarray(picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
        facts = self._facts
        check_size(facts.path, picture.shape[1], picture.shape[0], (facts.width, facts.height))
        return picture


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
