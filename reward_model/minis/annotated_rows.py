"""Rows of annotated videos as a mini can answer them: its boxes lie on the 48 x 48 pixels that it sees.

Numbers of that grid are one token each. Any other coordinate would be spelled digit by digit, and a mini that is taught
such answers writes digits without end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reward_model.data.example import Example
from reward_model.minis.rows import on_pixels
from reward_model.parsing import format_report, parse_turn


@dataclass(frozen=True)
class OnPixels:
    """Loads the rows of ``load`` (:meth:`reward_model.data.views.StageViews.load`) with such boxes.

    Args:
        load: row -> example whose boxes lie where the frames are shown.
    """

    load: Callable[[Mapping[str, Any]], Example]

    def __call__(self, row: Mapping[str, Any]) -> Example:
        example = self.load(row)
        if row["task"] == "scan":  # turn one draws no boxes
            return example
        report = parse_turn(example.answer, turn=2, num_frames=len(row["indices"]))
        return replace(example, answer=format_report(on_pixels(report)))
