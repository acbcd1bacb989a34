"""Decoded frames as a player shows them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from reward_model.media.facts import Facts
from reward_model.media.limits import check_size


def upright_of(frame: Any, facts: Facts) -> np.ndarray:
    """A decoded frame of a file as (H, W, 3) uint8, turned and mirrored as the file asks.

    Raises:
        VideoError: it has another size than the first.
    """
    picture = frame.to_ndarray(format="rgb24")
    turned = matrix(frame)
    if turned is not None:
        swap, flip_y, flip_x = turned
        picture = picture.transpose(1, 0, 2) if swap else picture
        picture = np.ascontiguousarray(picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1])
    check_size(facts.path, picture.shape[1], picture.shape[0], (facts.width, facts.height))
    return picture


def matrix(frame: Any) -> tuple[bool, bool, bool] | None:
    """How a picture is to be shown: rows and columns swapped, then rows reversed, then columns; None: as it is stored.

    Angles between are taken to the nearest quarter turn.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            swap = abs(b) + abs(c) > abs(a) + abs(d)
            found = (swap, b < 0, c < 0) if swap else (swap, d < 0, a < 0)
            return found if any(found) else None
    return None
