"""Record of one judged video. Every number of an evaluation is computed from such rows, so a stopped run continues from
its file and two runs can be compared video by video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from reward_model.chunks import boxed_turns, lowest_value, zoom_turns
from reward_model.config import READOUTS
from reward_model.evaluation.benches.bench import BenchVideo
from reward_model.evaluation.metrics.tubes import rollout_tube_iou, rollout_tube_overlap
from reward_model.grounding import temporal_iou, type_iou
from reward_model.rewards import Rollout, spatial_reward, temporal_reward, total_reward
from reward_model.schema import FrameRange, Status, Turn, Verdict, VideoAnnotation
from reward_model.turns import merge_clips, merge_statuses
from reward_model.video.clip import ZOOM_FPS, sample_indices
from reward_model.world.cells import anomaly_cell, covered_share

#: Columns that rows of earlier versions lack.
_LATER = {"group", "scan_status", "out_of_domain", "readouts_disagree", "unfamiliarity", "tokens", "zoom_tokens"} | {
    *("shown_frames", "looks", "t_iou", "mv_inter", "mv_union", "mv_gt", "hull_viou")
}


@dataclass(frozen=True)
class Row:
    """One video under one judge, as JSON-safe values.

    Attributes:
        index: number of the video in its bench.
        video, kind: its id and kind of anomaly ("" for a normal one).
        truth, truth_types: what is true of it.
        cell: duration and area of an anomaly with boxes, such as ``("<1s", ">=20%")``.
        extent: share of the video's space and time that the boxes cover, 0-1; None without boxes.
        score: the reward; None: not judged.
        has_verdict: False where only a score is known.
        status, types: what the judge decided; a missing status is an unparsed answer.
        readouts: P(normal) of the last turn by readout.
        turns_parsed, turns_written: turns whose text followed the schema, and turns with text.
        window_found, zoomed: whether turn one gave a window, and turn two took place; the answer of a judge that looks
            itself counts as one.
        temporal_iou, temporal_iou_final, spatial_iou, tube_iou, type_iou: overlaps of abnormal videos whose judge wrote
            something; None elsewhere. ``temporal_iou`` and ``spatial_iou`` are equations 4 and 5 as the paper reads
            them: true boxes in turn one's window that turn two left out count 0.
        reward: what stage 3 pays for these turns (Equation 6 with the paper's weights); None if nothing was written.
        seconds: seconds of judging, its batch's time shared evenly.
        group: part of the bench, ``"stratum/case"`` or one word; "" where a bench has no parts.
        scan_status: what turn one decided, before turn two looked again; None: unparsed, or unknown.
        out_of_domain, readouts_disagree: as the verdict says; None: the judge cannot tell.
        tokens, zoom_tokens, shown_frames: new tokens of all turns and of turn two, and frames that were looked at.
        looks: requests for more frames: turn two of every chunk, or the operators of a judge that looks itself.
        t_iou, mv_inter, mv_union, mv_gt, hull_viou: overlaps of turn two's tube (:mod:`~reward_model.grounding`) of
            abnormal videos, 0 without turn two; None elsewhere.
        unfamiliarity: the higher quantile of the video among those of the training distribution; None likewise.
    """

    index: int
    video: str
    kind: str
    truth: Status
    truth_types: tuple[str, ...] = ()
    cell: tuple[str, str] | None = None
    extent: float | None = None
    score: float | None = None
    has_verdict: bool = False
    status: Status | None = None
    types: tuple[str, ...] = ()
    readouts: Mapping[str, float] = field(default_factory=dict)
    log_odds: float | None = None
    forced: bool = False
    turns_parsed: int = 0
    turns_written: int = 0
    window_found: bool = False
    zoomed: bool = False
    temporal_iou: float | None = None
    temporal_iou_final: float | None = None
    spatial_iou: float | None = None
    tube_iou: float | None = None
    type_iou: float | None = None
    reward: float | None = None
    error: str | None = None
    seconds: float = 0.0
    group: str = ""
    scan_status: Status | None = None
    out_of_domain: bool | None = None
    readouts_disagree: bool | None = None
    unfamiliarity: float | None = None
    tokens: int | None = None
    zoom_tokens: int | None = None
    shown_frames: int | None = None
    looks: int | None = None
    t_iou: float | None = None
    mv_inter: float | None = None
    mv_union: float | None = None
    mv_gt: float | None = None
    hull_viou: float | None = None

    @property
    def correct(self) -> bool:
        """True if the status is right; an unparsed answer is wrong."""
        return self.status == self.truth

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe values; :meth:`from_dict` restores an equal row."""
        plain = asdict(self)
        lists = {k: list(v) for k, v in plain.items() if isinstance(v, tuple)}
        return {**plain, **lists, "readouts": dict(self.readouts)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Raises ValueError where a column is unknown or missing."""
        known = {f.name for f in fields(cls)}
        # Files of earlier versions lack the last columns.
        if not known - _LATER <= set(data) <= known:
            raise ValueError(f"a row has the columns {sorted(known)}, got {sorted(data)}")
        tuples = {k: tuple(data[k]) for k in ("truth_types", "types")}
        cell = data["cell"]
        return cls(**{**data, **tuples, "cell": None if cell is None else (cell[0], cell[1])})


def make_row(index: int, video: BenchVideo, answer: Verdict | float | None, seconds: float = 0.0) -> Row:
    """The row of one video and what a judge said of it: a :class:`~reward_model.schema.Verdict`, a score, or None."""
    truth = video.truth
    common: dict[str, Any] = {
        "index": index,
        "video": truth.video_id,
        "kind": video.kind,
        "truth": truth.status,
        "truth_types": tuple(t.value for t in truth.types),
        **_measures(truth),
        "seconds": seconds,
        "group": video.group,
    }
    if not isinstance(answer, Verdict):
        return Row(**common, score=None if answer is None else float(answer))
    written = [t for t in answer.turns if t.report or t.parse_error or t.error]
    return Row(
        **common,
        score=answer.score,
        has_verdict=True,
        status=answer.status,
        types=tuple(t.value for t in answer.types),
        **_readouts(answer),
        forced=answer.forced,
        turns_parsed=sum(t.report is not None for t in written),
        turns_written=len(written),
        window_found=answer.window is not None,
        zoomed=bool(boxed_turns(answer)),
        scan_status=_scan_status(answer.turns),
        **(_overlaps(answer, truth) if truth.status == "abnormal" and written else {}),
        reward=total_reward(rollout_of(answer), truth).total if written else None,
        error=answer.error,
        out_of_domain=answer.out_of_domain,
        readouts_disagree=answer.readouts_disagree,
        unfamiliarity=answer.familiarity.farthest if answer.familiarity is not None else None,
        **_cost(answer),
    )


def _cost(verdict: Verdict) -> dict[str, Any]:
    """Cost of a verdict: tokens written, frames shown, looks after the first."""
    zooms = zoom_turns(verdict.turns)
    return {
        "tokens": sum(t.num_tokens for t in verdict.turns),
        "zoom_tokens": sum(t.num_tokens for t in zooms),
        "shown_frames": sum(len(t.frame_indices) for t in verdict.turns),
        "looks": len(verdict.operators) or len(zooms),
    }


def _readouts(verdict: Verdict) -> dict[str, Any]:
    """The video's rewards by their readouts, and the log-odds where they are finite."""
    values = {name: lowest_value(verdict.turns, name) for name in READOUTS}
    finite = verdict.log_odds is not None and np.isfinite(verdict.log_odds)
    return {
        "readouts": {name: value for name, value in values.items() if value is not None},
        "log_odds": verdict.log_odds if finite else None,
    }


def rollout_of(verdict: Verdict) -> Rollout:
    """The turns of a verdict as equations 3 to 5 read them: the scans of all chunks as one, and so the clips of turn
    two. A judge that looks itself draws boxes in its answers; each stands for turn two, whichever view it was given at.
    """
    zooms = boxed_turns(verdict)
    scan, scanned = merge_clips([(t.report, t.frame_indices) for t in verdict.turns if t.number == 1])
    report, grid = merge_clips([(t.report, t.frame_indices) for t in zooms])
    between: tuple[int, ...] = ()
    if len(zooms) > 1:  # what lies between two clips was not shown
        spans = [FrameRange(t.frame_indices[0], t.frame_indices[-1]) for t in zooms]
        around = sample_indices(verdict.num_frames, verdict.fps, zooms[0].fps)
        between = tuple(n for n in around if not any(n in span for span in spans))
    return Rollout(
        scan=scan,
        zoom=report,
        zoomed=bool(zooms),
        scan_indices=scanned,
        clip_indices=grid,
        unseen_indices=between,
    )


def _scan_status(turns: Sequence[Turn]) -> Status | None:
    """The verdict of the scans alone: abnormal if any chunk's is; None if none could be read."""
    statuses = [turn.report.status for turn in turns if turn.number == 1 and turn.report is not None]
    return merge_statuses(statuses) if statuses else None


def _overlaps(verdict: Verdict, truth: VideoAnnotation) -> dict[str, Any]:
    rollout = rollout_of(verdict)
    zoom_fps = next((t.fps for t in boxed_turns(verdict)), ZOOM_FPS)
    tube, hull = rollout_tube_overlap(rollout, truth, zoom_fps)
    return {
        "t_iou": tube.t_iou,
        "mv_inter": tube.inter,
        "mv_union": tube.union,
        "mv_gt": tube.gt,
        "hull_viou": hull,
        "temporal_iou": temporal_reward(rollout, truth),
        "temporal_iou_final": _final_iou(verdict, truth),
        "spatial_iou": spatial_reward(rollout, truth),
        "tube_iou": rollout_tube_iou(rollout, truth, zoom_fps),
        "type_iou": type_iou(verdict.types, truth.types),
    }


def _final_iou(verdict: Verdict, truth: VideoAnnotation) -> float:
    """Frames the verdict names against the true ones, in native frames; 0 for a miss."""
    if verdict.status != "abnormal":
        return 0.0
    named = {n for a in verdict.anomalies for n in a.frames.frames()} or verdict.window
    return temporal_iou(named, {n for a in truth.anomalies for n in a.frames.frames()})


def _measures(truth: VideoAnnotation) -> dict[str, Any]:
    """Cell and extent, from the annotation alone."""
    boxed: dict[int, list[Any]] = {}
    for anomaly in truth.anomalies:
        for n, boxes in anomaly.boxes.items():
            boxed.setdefault(n, []).extend(boxes)
    if not boxed:
        return {}
    frames = {n for a in truth.anomalies for n in a.frames.frames()}
    area = sum(map(covered_share, boxed.values())) / len(boxed)
    return {"cell": anomaly_cell(truth), "extent": area * len(frames) / truth.num_frames}
