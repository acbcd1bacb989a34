"""The square a frame is shown in, and the way of a box between the two.

A judge with a ``frame_size`` sees squares. ``squeeze`` stretches a frame onto the square, so that a box on the 0-1000
grid of what is shown is the same box on the grid of the frame. ``pad`` keeps the aspect ratio: the frame is scaled to
the longer side, centred, and the rest is filled with :data:`PAD`; boxes then move, and :class:`Framing` moves them.

Boxes of annotations, reports and verdicts lie on the grid of the native frame; those in an answer's own words lie on
the grid of what was shown. Answers are read and written through here, everything in between needs no thought.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reward_model.schema import BOX_SCALE, Anomaly, Box, TurnReport
from reward_model.video.clip import resize_frames

FrameFit = Literal["squeeze", "pad"]

#: Colour of the padding in every channel: the middle grey that the image processor's normalisation (mean 0.5) makes
#: zero, so it adds no signal, and which cannot be taken for the black bars that belong to a film.
PAD = 128


@dataclass(frozen=True)
class Framing:
    """The place of native frames in what is shown.

    Attributes:
        native: height and width of a native frame in pixels; only their ratio counts for boxes.
        side: side of the square in pixels; None: frames are shown as they are.
        fit: ``"squeeze"`` or ``"pad"``.

    Example:
        >>> Framing((90, 160), 48, "pad").inner
        (27, 48)
        >>> Framing((90, 160), 48, "pad").to_shown(Box(0, 0, 1000, 1000)).as_list()
        [0, 208, 1000, 771]
    """

    native: tuple[int, int] = (1, 1)
    side: int | None = None
    fit: FrameFit = "squeeze"

    @property
    def inner(self) -> tuple[int, int] | None:
        """Height and width of the picture inside the square; None: frames are not resized."""
        if self.side is None:
            return None
        if self.fit == "squeeze":
            return self.side, self.side
        longest = max(self.native)
        height, width = (max(1, round(self.side * length / longest)) for length in self.native)
        return height, width

    @property
    def moves_boxes(self) -> bool:
        """True if a box on the native grid is another one on the grid of what is shown."""
        return self.inner not in (None, (self.side, self.side))

    @property
    def _corner(self) -> tuple[int, int]:
        """Rows above and columns left of the picture; an odd rest leaves one more below or to the right."""
        assert self.side is not None and self.inner is not None
        return (self.side - self.inner[0]) // 2, (self.side - self.inner[1]) // 2

    def pad(self, frames: np.ndarray) -> np.ndarray:
        """Frames (N, height, width, 3) of the ``inner`` size in their squares; the same array where nothing is added.

        Args:
            frames: uint8, as :meth:`reward_model.video.clip.Video.take` gives them for ``inner``.
        """
        if self.side is None or not self.moves_boxes:
            return frames
        (top, left), (height, width) = self._corner, frames.shape[1:3]
        shown = np.full((len(frames), self.side, self.side, 3), PAD, np.uint8)
        shown[:, top : top + height, left : left + width] = frames
        return shown

    def show(self, frames: np.ndarray) -> np.ndarray:
        """Native frames (N, H, W, 3) uint8 as they are shown."""
        return frames if self.inner is None else self.pad(resize_frames(frames, self.inner))

    def to_shown(self, box: Box) -> Box:
        """A box of the native grid on the grid of what is shown."""
        if not self.moves_boxes:
            return box
        moved = [
            round(start + value * share) for value, (start, share) in zip(box.as_list(), self._axes(), strict=True)
        ]
        return Box(*_opened(*moved))

    def to_native(self, box: Box) -> Box | None:
        """A box on what is shown on the native grid, clipped to the frame; None if it lies in the padding alone.

        The inverse of :meth:`to_shown`: a box inside the shown picture, taken to native and back, is the same box.
        """
        if not self.moves_boxes:
            return box
        exact = [(value - start) / share for value, (start, share) in zip(box.as_list(), self._axes(), strict=True)]
        if min(exact[2:]) <= 0 or max(exact[:2]) >= BOX_SCALE:
            return None
        return Box(*_opened(*(round(min(max(value, 0), BOX_SCALE)) for value in exact)))

    def _axes(self) -> list[tuple[float, float]]:
        """Start of the picture on the shown grid, and its share of the square: x, y, x, y."""
        assert self.side is not None and self.inner is not None
        (top, left), (height, width) = self._corner, self.inner
        x, y = ((BOX_SCALE * start / self.side, length / self.side) for start, length in ((left, width), (top, height)))
        return [x, y, x, y]

    def shown_anomalies(self, anomalies: Iterable[Anomaly]) -> tuple[Anomaly, ...]:
        """Anomalies with boxes of the native grid, as an answer about what is shown has to draw them."""
        return tuple(
            replace(a, boxes={k: tuple(map(self.to_shown, found)) for k, found in a.boxes.items()})
            if self.moves_boxes
            else a
            for a in anomalies
        )

    def native_report(self, report: TurnReport) -> TurnReport:
        """The report of an answer with its boxes on the native grid; boxes in the padding alone are left out."""
        if not self.moves_boxes:
            return report
        return replace(report, anomalies=tuple(self._native(a) for a in report.anomalies))

    def shown_report(self, report: TurnReport) -> TurnReport:
        """The report of a native video as an answer about what is shown."""
        return replace(report, anomalies=self.shown_anomalies(report.anomalies)) if self.moves_boxes else report

    def _native(self, anomaly: Anomaly) -> Anomaly:
        moved = {k: tuple(b for b in map(self.to_native, found) if b is not None) for k, found in anomaly.boxes.items()}
        return replace(anomaly, boxes={k: found for k, found in moved.items() if found})


#: Frames shown as they are.
AS_IT_IS = Framing()


def _opened(x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int]:
    """Corners at least one step of the grid apart."""
    x0, y0 = min(x0, BOX_SCALE - 1), min(y0, BOX_SCALE - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)
