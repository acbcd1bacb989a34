"""A region that is followed through a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reward_model.data.corruptions.base import Rect, clip_rect
from reward_model.data.corruptions.footage import Footage
from reward_model.schema import FrameRange

#: Correlation from which on a position is believed.
TRUSTED = 0.55


@dataclass(frozen=True)
class Track:
    """A region through the video, in full pixels: ``centre`` (T, 2) as x and y, ``size`` (2,) as width and height,
    ``confidence`` (T,) in [0, 1]. ``anchor`` is the frame it was found on; ``moving``: it moves by itself.
    """

    footage: Footage
    centre: np.ndarray
    size: np.ndarray
    confidence: np.ndarray
    anchor: int
    moving: bool

    def rect(self, index: int, grow: float = 1.0) -> Rect:
        """The region on a frame, ``grow`` times as wide and high, clipped to the picture."""
        half = grow * self.size / 2
        low, high = self.centre[index] - half, self.centre[index] + half
        return clip_rect(low[0], low[1], high[0], high[1], self.footage.frames.shape)

    def trusted(self) -> FrameRange:
        """The longest run of frames around the anchor in which the region is not lost."""
        lost = np.flatnonzero(self.confidence < TRUSTED)
        before, after = lost[lost < self.anchor], lost[lost > self.anchor]
        start = int(before[-1]) + 1 if len(before) else 0
        return FrameRange(start, int(after[0]) - 1 if len(after) else len(self.confidence) - 1)
