"""Annotated videos as training samples: what stage 1 and stage 2 see of them (paper, sections 3.2 and C.2).

Rows are light (which video, which frames); :meth:`StageViews.load` turns a row into the conversation and the answer
when a batch needs it. Frame grids, frame size and wording come from the judge's own settings, so that training asks
what inference will ask.

* ``frame`` (stage 1): one frame as "Frame 0", with boxes; anomalous ones only of types that one frame can show.
* ``scan`` (stage 2): the whole video at ``scan_fps``, no boxes; of a video that the judge scans in chunks, a chunk.
* ``zoom`` (stage 2): a clip at ``zoom_fps`` around an anomaly shorter than a second, or of a normal video, with boxes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.conversation import Conversation
from reward_model.data.annotations import Record, video_path
from reward_model.data.example import Example
from reward_model.data.frame_cache import FrameCache
from reward_model.data.plain_cot import plain_cot, plain_report
from reward_model.data.stage_split import Stage
from reward_model.data.targets import drawn_throughout, targets_of
from reward_model.data.view_options import ViewOptions
from reward_model.extras import need
from reward_model.parsing import format_report, parse_turn
from reward_model.prompts import PromptSet, load_prompts
from reward_model.schema import Anomaly, FrameRange, VideoAnnotation
from reward_model.tracks.codec import asked_for, codec_of
from reward_model.tracks.ticks import frame_times
from reward_model.video.clip import native_window, sample_indices, zoom_indices
from reward_model.video.framing import Framing

if TYPE_CHECKING:
    from datasets import Dataset

    from reward_model.data.cot import CotSample

log = logging.getLogger(__name__)

#: Clips for every video in stage 2: 15K to 20K (section C.2).
CLIPS_PER_VIDEO = 15 / 20
#: Share of clips that are shown a conclusion of turn one (ours; see :meth:`StageViews.hint`).
HINT_SHARE = 0.7

Row = dict[str, Any]
T = TypeVar("T")


@dataclass
class StageViews:
    """The samples of a set of annotated videos.

    Args:
        records: annotated videos of this stage's split.
        jsonl: the annotation file they come from.
        judge: settings of the judge that is trained: wording, rates, frame size, length of clips.
        cache: where frames are kept.
        cot: verified reasoning (:class:`reward_model.data.cot.CotSample`); none writes it from the annotations.
        options: see :class:`ViewOptions`.

    Example:
        >>> views = StageViews(read_annotations("data/train.jsonl"), "data/train.jsonl")          # doctest: +SKIP
        >>> rows = views.rows("stage2", seed=0)                                                    # doctest: +SKIP
        >>> views.load(rows[0]).answer                                                             # doctest: +SKIP
    """

    records: Sequence[Record]
    jsonl: str | Path
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    cache: FrameCache | None = None
    cot: Sequence[Any] = ()
    options: ViewOptions = field(default_factory=ViewOptions)

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError(
                f"{self.jsonl} gives no video to train on; it is empty, or no line has the requested split"
            )
        self.cache = self.cache or FrameCache(frame_size=self.judge.frame_size, frame_fit=self.judge.frame_fit)
        self._samples = {(s.video_id, s.turn): s for s in self._traces()}
        known = {r.truth.video_id for r in self.records}
        if self.cot and not known & {s.video_id for s in self.cot}:
            raise ValueError(
                f"none of the {len(self.cot)} reasoning samples refers to a video in {self.jsonl}; "
                "give the file that was synthesised from these annotations"
            )

    def _traces(self) -> Sequence[CotSample]:
        """The verified reasoning with the coordinates it is to teach."""
        if self.options.gt_replace == "off" or not self.cot:
            return self.cot
        from reward_model.data.gt_replace import replace_samples

        truths = {r.truth.video_id: r.truth for r in self.records}
        jitter = self.options.gt_jitter if self.options.gt_replace == "jitter" else 0.0
        throughout = self.judge.prompts != "compact"
        return replace_samples(self.cot, truths, jitter=jitter, throughout=throughout).samples

    @cached_property
    def prompts(self) -> PromptSet:
        return load_prompts(self.judge.prompts)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def rows(self, stage: Stage, *, seed: int = 0, count: int | None = None) -> Dataset:
        """The rows of a stage as a ``datasets.Dataset``, normal and abnormal 1:1, in an order drawn from ``seed``.

        Args:
            stage: ``"stage1"`` or ``"stage2"``.
            seed: seed of the choice of frames and windows and of the order.
            count: number of rows; None uses every video of the rarer status once (stage 1: ``frames_per_video`` times).

        Raises:
            ValueError: a status or a task is left without any sample; the message says what to change.
        """
        Dataset = need("datasets", "what a stage trains on").Dataset  # noqa: N806

        rng = np.random.default_rng([seed, {"stage1": 1, "stage2": 2}[stage]])
        rows = self._frame_rows(rng, count) if stage == "stage1" else self._video_rows(rng, count)
        return Dataset.from_list([rows[k] for k in rng.permutation(len(rows))])

    def _frame_rows(self, rng: np.random.Generator, count: int | None) -> list[Row]:
        abnormal = [r for r in self._usable("zoom", "abnormal") if self._single_frames(self.records[r].truth)]
        normal = self._usable("zoom", "normal")
        _need(abnormal, "abnormal video with boxes of a single-frame type (object, human or character)", self.jsonl)
        _need(normal, "normal video", self.jsonl)
        each = self.options.frames_per_video * min(len(abnormal), len(normal)) if count is None else count // 2
        rows = [self._row("frame", r, [self._abnormal_frame(r, rng)], rng) for r in _cycle(abnormal, each, rng)]
        rows += [self._row("frame", r, [self._normal_frame(r, rng)], rng) for r in _cycle(normal, each, rng)]
        return rows

    def _video_rows(self, rng: np.random.Generator, count: int | None) -> list[Row]:
        scans = {status: self._scans(status) for status in ("normal", "abnormal")}
        clips = {
            "normal": self._usable("zoom", "normal"),
            "abnormal": [r for r in self._usable("zoom", "abnormal") if self._makes_clip(r)],
        }
        for status in ("normal", "abnormal"):
            _need(scans[status], f"{status} video", self.jsonl)
        _need(clips["normal"], "normal video for clips", self.jsonl)
        _need(
            clips["abnormal"],
            f"abnormal video with boxes whose anomaly is shorter than {self.options.max_clip_s:g} s "
            "(--untrimmed_windows True on the command line, untrimmed_windows: true in the YAML file, also takes "
            "longer ones)",
            self.jsonl,
        )
        videos = min(map(len, scans.values())) if count is None else max(1, round(count / (1 + CLIPS_PER_VIDEO) / 2))
        num_clips = max(1, round(videos * CLIPS_PER_VIDEO))
        rows = []
        for status in ("normal", "abnormal"):
            rows += [self._row("scan", r, grid, rng) for r, grid in _cycle(scans[status], videos, rng)]
            rows += [self._zoom_row(r, rng) for r in _cycle(clips[status], num_clips, rng)]
        return rows

    def _usable(self, turn: str, status: str) -> list[int]:
        """Records of a status; with verified reasoning only those that have it for this turn."""
        found = [k for k, r in enumerate(self.records) if r.truth.status == status]
        if status == "abnormal" and turn == "scan":
            seen = [k for k in found if self._shown(k)]
            if len(seen) < len(found):
                hidden = len(found) - len(seen)
                log.info("%d abnormal videos show no anomaly at %g fps; not scanned", hidden, self.judge.scan_fps)
            found = seen
        if not self.cot or self.options.without_cot:
            return found
        verified = [k for k in found if (self.records[k].truth.video_id, turn) in self._samples]
        if len(verified) < len(found):
            lacking = len(found) - len(verified)
            log.info("%d of %d %s videos lack a verified %s; left out", lacking, len(found), status, turn)
        return verified

    def _scans(self, status: str) -> list[tuple[int, list[int]]]:
        """Questions of turn one about videos of a status: record and native frames of each; of an abnormal
        video those that show an anomaly.
        """
        usable = self._usable("scan", status)
        return [(k, grid) for k in usable for grid in (self._shown(k) if status == "abnormal" else self._scan_grids(k))]

    def _shown(self, record: int) -> list[list[int]]:
        """The questions of turn one about a video that show an anomaly of it."""
        truth = self.records[record].truth
        return [grid for grid in self._scan_grids(record) if targets_of(truth, "scan", grid)]

    def _row(self, task: str, record: int, indices: Sequence[int], rng: np.random.Generator) -> Row:
        truth = self.records[record].truth
        draw = int(rng.integers(2**31))
        return {
            "task": task,
            "video": truth.video_id,
            "record": record,
            "indices": [int(n) for n in indices],
            "status": "abnormal" if targets_of(truth, task, indices) else "normal",
            "draw": draw,
        }

    def _zoom_row(self, record: int, rng: np.random.Generator) -> Row:
        truth = self.records[record].truth
        sample = self._samples.get((truth.video_id, "zoom"))
        indices = sample.indices if sample else self.zoom_grid(truth, self._window(truth, rng))
        return self._row("zoom", record, indices, rng)

    def _window(self, truth: VideoAnnotation, rng: np.random.Generator) -> FrameRange:
        """Native window of a clip: the region of the anomaly, or up to ``max_clip_s`` anywhere in a normal video."""
        anomaly = self._clip_anomaly(truth)
        if anomaly is not None:
            seconds = len(anomaly.frames) / truth.fps
            if seconds < self.options.max_clip_s:
                return anomaly.frames
            grid = sample_indices(truth.num_frames, truth.fps, self.judge.scan_fps)
            seen = anomaly.on_grid(grid)
            if seen is None:
                return anomaly.frames
            return native_window(seen.frames, grid, truth.num_frames, margin=self.judge.window_margin)
        longest = max(1, min(truth.num_frames, int(np.ceil(self.options.max_clip_s * truth.fps)) - 1))
        length = int(rng.integers(1, longest + 1))
        start = int(rng.integers(0, truth.num_frames - length + 1))
        return FrameRange(start, start + length - 1)

    def _clip_anomaly(self, truth: VideoAnnotation) -> Anomaly | None:
        """The anomaly a clip is cut around: the first one with boxes that is short enough (or any, if allowed)."""
        boxed = [a for a in truth.anomalies if a.boxes]
        short = [a for a in boxed if len(a.frames) / truth.fps < self.options.max_clip_s]
        return next(iter(short or (boxed if self.options.untrimmed_windows else [])), None)

    def _makes_clip(self, record: int) -> bool:
        """True if a clip can be cut around an anomaly of the video and shows it at ``zoom_fps``."""
        truth = self.records[record].truth
        anomaly = self._clip_anomaly(truth)
        return anomaly is not None and bool(targets_of(truth, "zoom", self.zoom_grid(truth, anomaly.frames)))

    # --- frames -------------------------------------------------------------------------------------------------------

    def _scan_grids(self, record: int) -> list[list[int]]:
        """Native frames of each question of turn one: the judge's own, or those of verified reasoning."""
        truth = self.records[record].truth
        sample = self._samples.get((truth.video_id, "scan"))
        grids = [sample.indices] if sample else scan_grids(truth.num_frames, truth.fps, self.judge)
        return [list(grid) for grid in grids]

    def zoom_grid(self, truth: VideoAnnotation, window: FrameRange) -> list[int]:
        """Native frames turn two is shown for a native window; the judge's own rule."""
        limits = {"min_frames": self.judge.min_zoom_frames, "max_frames": self.judge.max_zoom_frames}
        return zoom_indices(window, truth.num_frames, truth.fps, self.judge.zoom_fps, **limits)

    def _grids(self, truth: VideoAnnotation) -> list[int]:
        rates = (self.judge.scan_fps, self.judge.zoom_fps)
        return sorted({n for rate in rates for n in sample_indices(truth.num_frames, truth.fps, rate)})

    def kept_frames(self, record: int) -> list[int]:
        """Native frames of a video that any row can show: both grids, frames of verified reasoning, and the boxed
        frames of anomalies that fall between the grid's frames.
        """
        truth = self.records[record].truth
        kept = set(self._grids(truth))
        for anomaly in truth.anomalies:
            if not kept & set(anomaly.boxes):
                kept.update(anomaly.boxes)
        for turn in ("scan", "zoom"):
            kept.update(getattr(self._samples.get((truth.video_id, turn)), "indices", ()))
        return sorted(kept)

    def _single_frames(self, truth: VideoAnnotation) -> list[int]:
        """Native frames on which an anomaly of a single-frame type is boxed."""
        return sorted({n for a in truth.anomalies if a.type.single_frame for n in a.boxes if n in a.frames})

    def _abnormal_frame(self, record: int, rng: np.random.Generator) -> int:
        truth = self.records[record].truth
        sample = self._samples.get((truth.video_id, "zoom"))
        boxed = self._single_frames(truth)
        if sample:
            told = [n for n in boxed if self._frame_answer(sample, n, "abnormal")]
            return int(rng.choice(told or [n for n in boxed if n in sample.indices] or boxed))
        shown = set(self.kept_frames(record))
        return int(rng.choice([n for n in boxed if n in shown] or boxed))

    def _normal_frame(self, record: int, rng: np.random.Generator) -> int:
        sample = self._samples.get((self.records[record].truth.video_id, "zoom"))
        return int(rng.choice(sample.indices if sample else self._grids(self.records[record].truth)))

    # --- samples ------------------------------------------------------------------------------------------------------

    def load(self, row: Mapping[str, Any]) -> Example:
        """The :class:`~reward_model.data.example.Example` of a row: frames, question and answer.

        Raises:
            VideoError: if the video file is missing, broken or shorter than its annotation.
        """
        record = int(row["record"])
        kept = sorted({*self.kept_frames(record), *row["indices"]})
        truth = self.records[record].truth
        assert self.cache is not None
        path = video_path(self.records[record], self.jsonl)
        return self._example(row, self.cache.frames(path, row["indices"], kept, truth.num_frames))

    def text(self, row: Mapping[str, Any]) -> Example:
        """The same example with one-pixel frames: its words without decoding anything."""
        return self._example(row, np.zeros((len(row["indices"]), 1, 1, 3), np.uint8))

    def frame_shape(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the frames of a row, in pixels, as the processor receives them."""
        truth, side = self.records[int(row["record"])].truth, self.judge.frame_size
        return (side, side) if side else (truth.height, truth.width)

    def _example(self, row: Mapping[str, Any], frames: np.ndarray) -> Example:
        return Example(self._question(row, frames), self._answer(row))

    def _question(self, row: Mapping[str, Any], frames: np.ndarray) -> Conversation:
        truth = self.records[int(row["record"])].truth
        if row["task"] == "scan":
            return self.prompts.scan(frames, truth.prompt)
        cot = self.hint(row) if row["task"] == "zoom" and self.options.hints else ""
        asked = self.prompts.zoom(frames, truth.prompt, cot=cot)
        return asked if row["task"] == "frame" else asked_for(codec_of(self.judge), asked, self._times(row))

    def _times(self, row: Mapping[str, Any]) -> tuple[float, ...]:
        return frame_times(row["indices"], self.records[int(row["record"])].truth.fps)

    def _answer(self, row: Mapping[str, Any]) -> str:
        answer = self._per_frame_answer(row)
        if row["task"] != "zoom" or self.judge.track == "per_frame":
            return answer
        report = parse_turn(answer, turn=2, num_frames=len(row["indices"]))
        return codec_of(self.judge).write(report, self._times(row))

    def _per_frame_answer(self, row: Mapping[str, Any]) -> str:
        answer = self._shown_answer(row)
        if np.random.default_rng([int(row["draw"]), 4]).random() >= self.options.empty_cot_share:
            return answer
        report = parse_turn(answer, turn=1 if row["task"] == "scan" else 2, num_frames=len(row["indices"]))
        return format_report(replace(report, cot=""), boxes=row["task"] != "scan")

    def _shown_answer(self, row: Mapping[str, Any]) -> str:
        """The answer with its boxes where the judge sees them: annotations and verified reasoning lie on native frames,
        padding moves what is shown.
        """
        answer, truth = self._reasoned_answer(row), self.records[int(row["record"])].truth
        framing = Framing((truth.height, truth.width), self.judge.frame_size, self.judge.frame_fit)
        if row["task"] == "scan" or not framing.moves_boxes:
            return answer
        return format_report(framing.shown_report(parse_turn(answer, turn=2, num_frames=len(row["indices"]))))

    def _reasoned_answer(self, row: Mapping[str, Any]) -> str:
        truth = self.records[int(row["record"])].truth
        indices = list(row["indices"])
        sample = self._samples.get((truth.video_id, "scan" if row["task"] == "scan" else "zoom"))
        if sample is not None and row["task"] == "frame":
            found = self._frame_answer(sample, indices[0], row["status"])
            if found is not None:
                return found
        elif sample is not None and list(sample.indices) == indices:
            return sample.answer
        boxes = row["task"] != "scan"
        shown = targets_of(truth, row["task"], indices)
        if row["task"] == "zoom" and self.judge.prompts != "compact":
            shown = tuple(drawn_throughout(a, len(indices)) for a in shown)
        report = plain_report(shown, len(indices), boxes=boxes, wording=self.judge.prompts)
        return format_report(report, boxes=boxes)

    @staticmethod
    def _frame_answer(sample: CotSample, native: int, status: str) -> str | None:
        """The single-frame answer derived from a verified clip; None if that clip does not show the frame, says nothing
        about it alone, or judges it differently from the annotation.
        """
        from reward_model.data.synthesis.single_frame import single_frame_cot

        if native not in sample.indices:
            return None
        place = list(sample.indices).index(native)
        answer = single_frame_cot(sample.answer, place, num_frames=len(sample.indices))
        if answer is None or parse_turn(answer, turn=2, num_frames=1).status != status:
            return None
        return answer

    def hint(self, row: Mapping[str, Any]) -> str:
        """The conclusion of turn one that a clip is shown: none, the truth, or a made-up suspicion.

        Inference shows turn two the reasoning of a turn one that said "abnormal", rightly or not. If only abnormal
        clips came with one, its presence would give the verdict away; so normal clips carry the anomaly of another
        video, as a false alarm would (ours; the paper trains clips without saying what precedes them).
        """
        rng = np.random.default_rng([int(row["draw"]), 3])
        if rng.random() >= HINT_SHARE:
            return ""
        truth = self.records[int(row["record"])].truth
        grids = scan_grids(truth.num_frames, truth.fps, self.judge)
        middle = (row["indices"][0] + row["indices"][-1]) / 2
        grid = min(grids, key=lambda g: max(g[0] - middle, middle - g[-1], 0))  # the first that holds the clip
        suspected: Sequence[Anomaly] = truth.on_grid(grid)
        if not suspected:
            others = [a for r in self.records for a in r.truth.anomalies]
            if not others:
                return ""
            first, last = row["indices"][0], row["indices"][-1]
            other = others[int(rng.integers(len(others)))]
            moved = replace(other, frames=FrameRange(first, last), boxes={}).on_grid(grid)
            suspected = [moved] if moved else []
        return plain_cot(suspected, len(grid), wording=self.judge.prompts) if suspected else ""


def cycled(items: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` of the numbers below ``items``, every one used before any is used again, each round in a new order."""
    drawn: list[int] = []
    while len(drawn) < count:
        drawn += [int(k) for k in rng.permutation(items)]
    return drawn[:count]


def _cycle(items: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    return [items[k] for k in cycled(len(items), count, rng)]


def _need(items: Sequence[Any], what: str, place: str | Path) -> None:
    if not items:
        raise ValueError(f"{place} holds no {what}, so this stage cannot be balanced 1:1; add some")


def balance(rows: Dataset) -> dict[str, int]:
    """Rows of each status."""
    return dict(Counter(rows["status"]))
