"""Choices of what stages 1 and 2 see of annotated videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reward_model.terminal.described import check_settings, described, setting


@described
@dataclass(frozen=True)
class ViewOptions:
    """Choices of the data views."""

    frames_per_video: int = 2
    """Anomalous frames of each video in stage 1; 20K frames from 5K videos, half of them normal, are two (section
    C.2)."""
    max_clip_s: float = 1.0
    """Longest anomaly that makes a clip (section 3.2)."""
    untrimmed_windows: bool = False
    """Clips of longer anomalies too, as inference crops any window turn one reports; their frames are thinned to the
    judge's ``max_zoom_frames``."""
    hints: bool = True
    """Show turn one's conclusion to clips as inference does (section 3.2)."""
    without_cot: bool = False
    """With a file of verified reasoning, videos that lack it are left out, as the paper discards them (section 3.1);
    True keeps them, with reasoning from the annotation."""
    empty_cot_share: float = setting(0.0, least=0, below=1, hint="0.1, for instance")
    """Share of the samples whose answer has no reasoning and gives its verdict at once, which trains the readouts
    ``direct`` and ``log_odds``. The paper trains none."""
    gt_replace: Literal["off", "on", "jitter"] = "off"
    """Coordinates of verified reasoning: kept (off), annotated ones (on), or annotated ones shaken (jitter)."""
    gt_jitter: float = setting(15.0, least=0)
    """Standard deviation of the shaking of each side of a box, on the 0-1000 grid."""

    def __post_init__(self) -> None:
        check_settings(self)
