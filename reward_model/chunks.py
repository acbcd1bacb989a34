"""Long videos: the chunks that turn one scans, and the verdicts of several chunks as one.

A checkpoint is shown at most ``max_scan_frames`` frames in one question. A video whose grid is longer is scanned in
chunks of the full rate, each overlapping the next by about a second, so that what happens at a seam is seen whole in
one of them. Each chunk is judged by itself, turn two included, as the short videos of training were; then
the functions below say what the chunks mean together.

The score of a long video is the lowest reward of its chunks: one bad second makes a bad video. The product of the
chunks' ``P(normal)``, as if they were independent, would fall with the length of a video that nothing is wrong with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from reward_model.config import JudgeConfig
from reward_model.grounding import spatial_iou
from reward_model.parsing import joined
from reward_model.schema import Anomaly, Box, FrameRange, Turn, Verdict, VideoAnnotation
from reward_model.turns import turn_value
from reward_model.video.clip import sample_indices, thinned


def scan_grids(num_frames: int, fps: float, config: JudgeConfig) -> list[tuple[int, ...]]:
    """Native frames of each question of turn one: one question of the whole grid of ``scan_fps`` if it fits into
    ``max_scan_frames``; else one of each chunk, or one of the thinned grid (``long_videos="thin"``).

    Args:
        num_frames, fps: length and frame rate of the video.
    """
    grid, most = sample_indices(num_frames, fps, config.scan_fps), config.max_scan_frames
    if most is None or len(grid) <= most:
        return [tuple(grid)]
    if config.long_videos == "thin":
        return [tuple(thinned(grid, most))]
    return [tuple(grid[first:end]) for first, end in plan_chunks(len(grid), most, config.chunk_overlap)]


def plan_chunks(count: int, most: int, overlap: int) -> list[tuple[int, int]]:
    """First and end (exclusive) of the fewest chunks of at most ``most`` frames that cover ``count`` frames and overlap
    by at least ``overlap``; all of one length, evenly spread.

    >>> plan_chunks(41, 25, 4)
    [(0, 23), (18, 41)]
    """
    if not 0 <= overlap < most:
        raise ValueError(f"overlap={overlap} must lie between 0 and the {most} frames of a chunk, exclusive")
    if count <= most:
        return [(0, count)]
    number = math.ceil((count - overlap) / (most - overlap))
    length = math.ceil((count + (number - 1) * overlap) / number)
    return [(int(first), int(first) + length) for first in np.linspace(0, count - length, number).astype(int)]


def chunk_truth(truth: VideoAnnotation, grid: Sequence[int]) -> VideoAnnotation:
    """The truth about a chunk: the annotation without the anomalies that none of the chunk's frames shows."""
    return replace(truth, anomalies=tuple(a for a in truth.anomalies if any(n in a.frames for n in grid)))


# --- the verdicts of several chunks -----------------------------------------------------------------------------------


def by_chunk(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """The turns of a verdict, those of each chunk together: a scan and the zooms that follow it."""
    starts = [k for k, turn in enumerate(turns) if turn.number == 1 or k == 0]
    return [tuple(turns[a:b]) for a, b in pairwise([*starts, len(turns)])]


def final_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The turn of each chunk that its status and score come from, the last; one in a video that was scanned at once."""
    return [chunk[-1] for chunk in by_chunk(turns)]


def reporting_turns(chunk: Sequence[Turn]) -> Sequence[Turn]:
    """The turns of a chunk whose anomalies count: those of turn two, or turn one where there was no other; the answer
    alone of a judge that asked for its frames.
    """
    return chunk[-1:] if any(turn.operator for turn in chunk) else chunk[1:] or chunk


def zoom_turns(turns: Sequence[Turn]) -> list[Turn]:
    """The turns of number two."""
    return [turn for turn in turns if turn.number == 2]


def boxed_turns(verdict: Verdict) -> list[Turn]:
    """The turns that were asked for boxes: those of number two, or the answers of a judge that looks itself, whichever
    view they were given at.
    """
    return (final_turns if verdict.provenance.get("policy") == "active" else zoom_turns)(verdict.turns)


def deciding_turn(turns: Sequence[Turn], readout: str) -> Turn | None:
    """The final turn a verdict stands on: of a chunk found abnormal if there is one, and of those the least normal by
    its readout; None of no turns.
    """

    def rank(turn: Turn) -> tuple[int, float]:
        value = turn_value(turn, readout)
        return ("abnormal", "normal", None).index(turn.status), 1.0 if value is None else value

    return min(final_turns(turns), key=rank, default=None)


def lowest_value(turns: Sequence[Turn], readout: str, temperature: float = 4.0) -> float | None:
    """The reward of a video under a readout: the lowest of its chunks; None if none was scored for it."""
    values = [turn_value(turn, readout, temperature) for turn in final_turns(turns)]
    return min((value for value in values if value is not None), default=None)


def native_anomalies(turn: Turn) -> tuple[Anomaly, ...]:
    """A turn's anomalies with native frame indices in place of its own frame numbers."""
    index = turn.frame_indices
    return tuple(
        replace(
            a,
            frames=FrameRange(index[a.frames.start], index[a.frames.end]),
            boxes={index[k]: v for k, v in a.boxes.items()},
        )
        for a in (turn.report.anomalies if turn.report else ())
    )


def final_anomalies(turns: Sequence[Turn]) -> tuple[Anomaly, ...]:
    """The anomalies of a verdict in native frames: those of each chunk's turn two, or of turn one where there was no
    other; what two overlapping chunks both report is one anomaly.
    """
    merged: list[Anomaly] = []
    step = 1
    for chunk in by_chunk(turns):
        found = [anomaly for turn in reporting_turns(chunk) for anomaly in native_anomalies(turn)]
        step = max(step, _stride(chunk[0]))
        known = len(merged)  # two anomalies of one chunk are two
        for anomaly in found:
            same = next((k for k in range(known) if _same(merged[k], anomaly, step)), None)
            if same is None:
                merged.append(anomaly)
            else:
                merged[same] = _united(merged[same], anomaly)
    return tuple(merged)


def suspicious_windows(turns: Sequence[Turn]) -> list[FrameRange]:
    """The windows that the scans of a verdict report, in native frames and in order; those that overlap, or are
    neighbours on the scan's grid, are one.
    """
    scans = [turn for turn in turns if turn.number == 1]
    named = [(turn.frame_indices, turn.report.window) for turn in scans if turn.report and turn.report.window]
    windows = [FrameRange(indices[w.start], indices[w.end]) for indices, w in named]
    return joined(windows, max(map(_stride, scans), default=1))


def main_window(turns: Sequence[Turn], readout: str) -> FrameRange | None:
    """The one of :func:`suspicious_windows` that the turn which decides looked into; the first where that is none."""
    windows = suspicious_windows(turns)
    deciding = deciding_turn(turns, readout)
    for chunk in by_chunk(turns):
        named = suspicious_windows(chunk[:1])
        if chunk[-1] is deciding and named:
            return next(window for window in windows if named[0].start in window)
    return next(iter(windows), None)


def _stride(turn: Turn) -> int:
    """Native frames from one shown frame to the next."""
    return turn.frame_indices[1] - turn.frame_indices[0] if len(turn.frame_indices) > 1 else 1


def _same(one: Anomaly, other: Anomaly, step: int) -> bool:
    """True if two chunks mean the same: one type, windows that overlap or are neighbours on the scan's grid, and boxes
    that meet, on frames where both drew some.
    """
    apart = one.frames.end + step < other.frames.start or other.frames.end + step < one.frames.start
    if one.type != other.type or apart:
        return False
    common = [k for k in one.boxes if other.boxes.get(k) and one.boxes[k]]
    return not common or any(_meet(one.boxes[k], other.boxes[k]) for k in common)


def _meet(one: Sequence[Box], other: Sequence[Box]) -> bool:
    return any(spatial_iou(a, b) > 0 for a in one for b in other)


def _united(one: Anomaly, other: Anomaly) -> Anomaly:
    """One anomaly of two: all their frames; where both drew boxes, those of the first; the words of the first."""
    frames = FrameRange(min(one.frames.start, other.frames.start), max(one.frames.end, other.frames.end))
    boxes = dict(sorted({**other.boxes, **one.boxes}.items()))
    return replace(one, frames=frames, boxes=boxes, objects=tuple(dict.fromkeys((*one.objects, *other.objects))))
