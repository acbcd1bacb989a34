"""Annotated videos -> the questions a teacher is asked: one scan each, and one zoom per clip (Fig. S4)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reward_model.conversation import Conversation
from reward_model.data.cot import TurnName
from reward_model.data.records import Record
from reward_model.data.synthesis.config import AskConfig
from reward_model.data.synthesis.crops import with_crops
from reward_model.digests import json_digest
from reward_model.prompts import load_prompts
from reward_model.prompts.hints import scan_hint, zoom_hint
from reward_model.schema import Anomaly, FrameRange, VideoAnnotation
from reward_model.video.clip import Video, VideoError, resize_frames, sample_indices, zoom_indices
from reward_model.video.framing import Framing


@dataclass(frozen=True)
class Task:
    """One question.

    Attributes:
        key: names it in ledger and report; holds a digest of frames and truth, so an edited annotation is asked anew.
        record: the annotated video.
        turn: ``"scan"`` or ``"zoom"``.
        indices: native frames shown.
        truth: the annotated anomalies some of these frames show, on this grid.
        members: index of each in ``record.truth.anomalies``.
    """

    key: str
    record: Record
    turn: TurnName
    indices: tuple[int, ...]
    truth: tuple[Anomaly, ...]
    members: tuple[int, ...]

    @property
    def normal(self) -> bool:
        return not self.truth


def plan(records: Iterable[Record], ask: AskConfig | None = None) -> list[Task]:
    """The questions of all records, in their order.

    An anomalous video whose anomalies all fall between the frames of the scan has no scan question, for there is
    nothing to see; its clips are asked about all the same.
    """
    ask = ask or AskConfig()
    return [task for record in records for task in (*_scans(record, ask), *_zooms(record, ask))]


def conversation(task: Task, video: Video, ask: AskConfig) -> Conversation:
    """Conversation shown to the teacher: the judge's own question with one of the four hints, and the crops if wanted.

    Raises:
        VideoError: if the video is shorter than its annotation says.
        ValueError: if the wording has no hints.
    """
    if task.indices[-1] >= video.num_frames:
        raise VideoError(
            f"video {task.record.truth.video_id!r} has {video.num_frames} frames, its annotation says "
            f"{task.record.truth.num_frames}; correct num_frames or the file"
        )
    prompts = load_prompts(ask.prompts)
    frames = video.take(task.indices)
    # The teacher takes frames of any shape: theirs is kept without padding, and boxes stay where they are annotated.
    size = Framing((frames.shape[1], frames.shape[2]), ask.frame_size, "pad").inner
    shown = frames if size is None else resize_frames(frames, size)
    text = task.record.truth.prompt
    if task.turn == "scan":
        return prompts.scan(shown, text, hint=scan_hint(prompts, task.truth))
    asked = prompts.zoom(shown, text, hint=zoom_hint(prompts, task.truth, len(shown)))
    return with_crops(asked, frames, task.truth, ask.max_crops) if ask.max_crops and task.truth else asked


def _scans(record: Record, ask: AskConfig) -> list[Task]:
    truth = record.truth
    task = _task(record, "scan", sample_indices(truth.num_frames, truth.fps, ask.scan_fps), 0)
    return [] if truth.anomalies and task.normal else [task]


def _zooms(record: Record, ask: AskConfig) -> list[Task]:
    if not record.truth.anomalies:
        return [_task(record, "zoom", _clip(record.truth, _random_window(record.truth, ask), ask), 0)]
    windows = [a.frames for a in record.truth.anomalies]
    hull = FrameRange(min(w.start for w in windows), max(w.end for w in windows))
    grid = sample_indices(record.truth.num_frames, record.truth.fps, ask.zoom_fps)
    fits = sum(n in hull for n in grid) <= ask.max_zoom_frames
    chosen = [hull] if ask.crop == "hull" and fits else list(dict.fromkeys(windows))
    tasks = [_task(record, "zoom", _clip(record.truth, w, ask), k) for k, w in enumerate(chosen)]
    return [task for task in tasks if not task.normal]


def _clip(truth: VideoAnnotation, window: FrameRange, ask: AskConfig) -> list[int]:
    limits = {"min_frames": ask.min_zoom_frames, "max_frames": ask.max_zoom_frames}
    return zoom_indices(window, truth.num_frames, truth.fps, ask.zoom_fps, **limits)


def _random_window(truth: VideoAnnotation, ask: AskConfig) -> FrameRange:
    """A short window of a normal video, the same in every run."""
    rng = random.Random(f"{ask.seed} {truth.video_id}")
    length = min(max(round(rng.uniform(*ask.normal_window_s) * truth.fps), 1), truth.num_frames)
    start = rng.randint(0, truth.num_frames - length)
    return FrameRange(start, start + length - 1)


def _task(record: Record, turn: TurnName, indices: Sequence[int], number: int) -> Task:
    shown = [(k, a.on_grid(indices)) for k, a in enumerate(record.truth.anomalies) if _visible(a, indices)]
    members = tuple(k for k, a in shown if a is not None)
    truth = tuple(a for _, a in shown if a is not None)
    told = [record.truth.prompt, list(indices), [{**a.to_dict(), "salient": None} for a in truth]]
    digest = json_digest(told)[:10]
    key = f"{record.truth.video_id}|{turn}|{number}|{digest}"
    return Task(key, record, turn, tuple(indices), truth, members)


def _visible(anomaly: Anomaly, indices: Sequence[int]) -> bool:
    return any(n in anomaly.frames for n in indices)
