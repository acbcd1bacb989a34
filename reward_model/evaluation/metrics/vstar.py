"""The two summaries of V-STAR: what, when and where in one number, of which the second rewards balance less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: A figure of 1 would make the logarithm infinite.
_MOST = 1 - 1e-6


@dataclass(frozen=True)
class Grounded:
    """Means over a corpus, in [0, 1]: accuracy of the answers (what), temporal IoU (when), spatial IoU (where)."""

    accuracy: float
    temporal_iou: float
    spatial_iou: float

    @property
    def values(self) -> tuple[float, float, float]:
        return self.accuracy, self.temporal_iou, self.spatial_iou

    @property
    def am(self) -> float:
        """Arithmetic mean.

        Example:
            >>> round(Grounded(0.5, 0.3, 0.2).am, 4)
            0.3333
        """
        return math.fsum(self.values) / 3

    @property
    def lgm(self) -> float:
        """``-(1/3) [ln(1 - what) + ln(1 - when) + ln(1 - where)]``; may exceed 1.

        Example:
            >>> round(Grounded(0.5, 0.3, 0.2).lgm, 4)
            0.4243
        """
        return -math.fsum(math.log1p(-min(v, _MOST)) for v in self.values) / 3


def mean_am_lgm(chains: Sequence[Grounded]) -> tuple[float, float]:
    """mAM and mLGM: means over the chains of questions (what-when-where, what-where-when)."""
    if not chains:
        raise ValueError("no chain of questions is given")
    return math.fsum(c.am for c in chains) / len(chains), math.fsum(c.lgm for c in chains) / len(chains)
