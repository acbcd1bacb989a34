"""Boxes on every frame against boxes at ticks: overlap of the tubes, tokens and seconds, by tick and by frame rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from reward_model.evaluation.benches.bench import Bench
from reward_model.evaluation.metrics.tubes import tube_iou
from reward_model.evaluation.running.measure import mean_metric
from reward_model.evaluation.running.row import Row
from reward_model.grounding import Tube, TubeOverlap, join_boxes, tube_overlap
from reward_model.schema import BOX_SCALE, Box, TurnReport, VideoAnnotation
from reward_model.statistics.intervals import Interval, mean_interval
from reward_model.statistics.table import Cell, Estimate, Table
from reward_model.tracks.codec import TurnTwoCodec
from reward_model.tracks.ticks import frame_times
from reward_model.video.clip import sample_indices

#: Rows of each checkpoint (a training seed) of one line of the table.
Checkpoints = Sequence[Sequence[Row]]
_OVERLAPS = {
    "vIoU": "tube_iou",
    "vIoU, TubeDETR": "hull_viou",
    "t_IoU": "t_iou",
    "mv_IoU, union": "mv_union",
    "mv_IoU, inter": "mv_inter",
    "mv_IoU, gt": "mv_gt",
}
_NOTES = (
    "Overlaps: means over abnormal videos, each on the grid of its frame rate; one that is missed is 0. Tokens: new "
    "tokens of an answer of turn two, over videos that have one. Brackets: 95 % bootstrap intervals over videos; of "
    "several checkpoints, least and most of theirs.",
)


def t_plus_mv(row: Row) -> float:
    """The reward ``tv_verifier`` of a row with the weights 1 and 1 and the norm ``union``."""
    return (row.t_iou or 0.0) + (row.mv_union or 0.0)


def track_table(bench: str, lines: Mapping[tuple[str, float], Checkpoints], *, num_resamples: int = 1000) -> Table:
    """One line for each judge and frame rate of turn two.

    Args:
        bench: its name.
        lines: by name and frames a second, the rows of each checkpoint on the same videos.
    """
    rows: list[Sequence[Cell]] = []
    for (name, fps), checkpoints in lines.items():
        abnormal = [[r for r in found if r.truth == "abnormal"] for found in checkpoints]
        asked = [[r for r in found if r.zoomed and r.zoom_tokens is not None] for found in checkpoints]
        overlaps = [_mean(abnormal, partial(_overlap, column), num_resamples) for column in _OVERLAPS.values()]
        both, tokens = _mean(abnormal, t_plus_mv, num_resamples), _mean(asked, _tokens, num_resamples)
        seconds = _mean(checkpoints, _seconds, num_resamples)
        rows.append((name, f"{fps:g}", *overlaps, both, tokens, seconds, len(checkpoints)))
    columns = ("judge", "fps", *_OVERLAPS, "t + mv", "tokens", "seconds a video", "checkpoints")
    return Table(f"Tracks on {bench}", columns, [rows], _NOTES)


def _overlap(column: str, row: Row) -> float:
    return float(getattr(row, column) or 0.0)


def _tokens(row: Row) -> float:
    return float(row.zoom_tokens or 0)


def _seconds(row: Row) -> float:
    return row.seconds


def _mean(checkpoints: Checkpoints, read: Callable[[Row], float], num_resamples: int) -> Cell:
    """The mean over the checkpoints of their means; None where one has nothing."""
    values = [[read(row) for row in rows] for rows in checkpoints]
    if any(not found for found in values):
        return None
    if len(values) == 1:
        return mean_metric(values[0], num_resamples).estimate
    means = [float(np.mean(found)) for found in values]
    return Estimate(float(np.mean(means)), Interval(min(means), max(means)))


def track_gain_table(bench: str, pairs: Mapping[str, tuple[Checkpoints, Checkpoints]]) -> Table:
    """t_IoU + mv_IoU of one judge over another, seed by seed, on the abnormal videos that both saw.

    Args:
        pairs: by name, the checkpoints of both in the same order of seeds.

    Raises:
        ValueError: if two have not equally many checkpoints, or did not see the same videos.
    """
    lines: list[Sequence[Cell]] = []
    for name, (ours, theirs) in pairs.items():
        if len(ours) != len(theirs):
            raise ValueError(
                f"{name}: {len(ours)} checkpoints against {len(theirs)}; give as many of each, one for each seed"
            )
        gaps = np.array([_gaps(name, a, b) for a, b in zip(ours, theirs, strict=True)])
        by_video, by_seed = gaps.mean(axis=0), gaps.mean(axis=1)
        each = ", ".join(f"{gap:+.3f}" for gap in by_seed)
        lines.append((name, Estimate(float(by_video.mean()), mean_interval(by_video)), each, len(by_video)))
    columns = ("difference", "t + mv", "each seed", "videos")
    return Table(f"Gains of tracks on {bench}", columns, [lines], ("Brackets: paired bootstrap over videos.",))


def _gaps(name: str, ours: Sequence[Row], theirs: Sequence[Row]) -> list[float]:
    mine, other = ({r.index: t_plus_mv(r) for r in rows if r.truth == "abnormal"} for rows in (ours, theirs))
    if mine.keys() != other.keys() or not mine:
        raise ValueError(f"{name}: the two did not judge the same abnormal videos")
    return [mine[k] - other[k] for k in sorted(mine)]


@dataclass(frozen=True)
class Limit:
    """Bounds of a perfect judge: overlap after the boxes are written and read, and tokens of the answer."""

    viou: list[float]
    tokens: list[float]
    box_tokens: list[float]


def codec_limit(
    bench: Bench,
    codec: TurnTwoCodec,
    fps: float,
    num_tokens: Callable[[str], int],
    report_of: Callable[[VideoAnnotation, Sequence[int]], TurnReport],
) -> Limit:
    """The truth of the abnormal videos through a codec, whole videos at ``fps``.

    Args:
        num_tokens: tokens of a text.
        report_of: the answer about a video on the native frames that are shown.
    """
    limit = Limit([], [], [])
    for k in range(len(bench)):
        truth = bench[k].truth
        if truth.status == "normal":
            continue
        grid = sample_indices(truth.num_frames, truth.fps, fps)
        report, times = report_of(truth, grid), frame_times(grid, truth.fps)
        if not join_boxes(report.anomalies):
            continue
        text = codec.write(report, times)
        found = codec.parse(text, times)
        limit.viou.append(tube_iou(join_boxes(found.anomalies), join_boxes(report.anomalies)))
        limit.tokens.append(num_tokens(text))
        limit.box_tokens.append(sum(num_tokens(part.partition("}")[0]) for part in text.split('"BBOX": {')[1:]))
    return limit


def limit_table(bench: str, limits: Mapping[tuple[str, float], Limit], *, num_resamples: int = 1000) -> Table:
    """One line for each codec and frame rate."""
    lines: list[Sequence[Cell]] = []
    for (name, fps), found in limits.items():
        cells = (mean_metric(v, num_resamples).estimate for v in (found.viou, found.tokens, found.box_tokens))
        lines.append((name, f"{fps:g}", *cells, len(found.viou)))
    notes = (
        "The truth of whole abnormal videos, written and read: what no judge can exceed at these ticks. Answer: "
        "reasoning, labels and boxes; boxes: those alone.",
    )
    columns = ("boxes", "fps", "vIoU", "tokens, answer", "tokens, boxes", "videos")
    return Table(f"Limits of ticks on {bench}", columns, [lines], notes)


#: Answers that are made to please the verifier, from an honest one and the truth.
CHEATS = ("whole video", "one tick", "one perfect tick", "full frame")


def cheat_tube(name: str, drawn: Tube, truth: Tube, length: int) -> dict[int, Sequence[Box]]:
    """The tube of a cheat: the honest boxes held over the whole video, one of them alone, a true one alone (the most
    that a single tick can earn), or the full frame wherever the honest answer has a box.

    Args:
        drawn: boxes of the honest answer by frame of the grid.
        truth: true boxes likewise.
        length: frames of the grid.
    """
    if not drawn:
        return {}
    frames = sorted(drawn)
    if name == "whole video":
        nearest = (min(frames, key=lambda f: (abs(f - k), f)) for k in range(length))
        return dict(enumerate(drawn[f] for f in nearest))
    if name == "one tick":
        middle = frames[len(frames) // 2]
        return {middle: drawn[middle]}
    if name == "one perfect tick":
        known = sorted(truth)
        return {known[len(known) // 2]: truth[known[len(known) // 2]]} if known else {}
    return dict.fromkeys(frames, (Box(0, 0, BOX_SCALE, BOX_SCALE),))


def cheat_overlaps(answers: Sequence[tuple[Tube, Tube, int]]) -> dict[str, list[TubeOverlap]]:
    """Overlaps of the honest answers and of each cheat, by name.

    Args:
        answers: for each abnormal video the honest boxes, the true ones, and the frames of the grid.
    """
    found = {"honest": [tube_overlap(drawn, truth) for drawn, truth, _ in answers]}
    for name in CHEATS:
        found[name] = [tube_overlap(cheat_tube(name, d, t, n), t) for d, t, n in answers]
    return found


def cheat_table(bench: str, overlaps: Mapping[str, Sequence[TubeOverlap]], *, num_resamples: int = 1000) -> Table:
    """t_IoU + mv_IoU of an honest judge and of the cheats, under each norm."""
    norms = ("union", "gt", "inter")
    lines: list[Sequence[Cell]] = [
        (name, *(mean_metric([o.t_iou + o.mv_iou(n) for o in found], num_resamples).estimate for n in norms))
        for name, found in overlaps.items()
    ]
    columns = ("answer", *(f"t + mv, {n}" for n in norms))
    notes = ("A norm is safe where no cheat exceeds the honest answers.",)
    return Table(f"Cheats on {bench}", columns, [lines], notes)
