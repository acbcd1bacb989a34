"""Training of a referee: its samples, from annotated videos with boxes; the trainer is that of stages 1 and 2.

A sample is a claim drawn around a true box (:mod:`reward_model.evidence.practice`), the two pictures as the referee
will be shown them, and the exact grades.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.config import JudgeConfig
from reward_model.data.example import Example
from reward_model.evidence.model_referee import ask_about
from reward_model.evidence.practice import Practice, draw_practice
from reward_model.evidence.referee import SLACK_S, Question, reference_answer
from reward_model.prompts.referee import format_grades, load_referee_prompts
from reward_model.schema import VideoAnnotation
from reward_model.training.sft.parts import StageData, StageParts

if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from trl import SFTConfig

    from reward_model.data.frame_cache import FrameCache
    from reward_model.data.records import Record

#: Frames of a video that claims are drawn on: with a true box, and without an anomaly.
BOXED_FRAMES, CLEAN_FRAMES = 16, 8


class RefereeParts(StageParts):
    """The parts of a referee that is trained on annotated videos."""

    made, loaded_by = "A referee of evidence (it grades single claims; it is not a judge)", 'VLMReferee("{folder}")'

    def annotated_data(
        self, name: str, stage: Any, config: SFTConfig, processor: ProcessorMixin, judge: JudgeConfig
    ) -> StageData:
        return annotated_practice(stage, config, judge)


def practice_example(question: Question, practice: Practice, judge: JudgeConfig) -> Example:
    """The conversation about a claim, and its exact grades as the answer."""
    prompts = load_referee_prompts(judge.prompts)
    chat = ask_about(question, prompts, judge.frame_size, judge.frame_fit)
    return Example(chat, format_grades(practice.relevance, practice.localisation))


def annotated_practice(stage: Any, config: SFTConfig, judge: JudgeConfig) -> StageData:
    """Claims about the abnormal videos of an annotation file, ``samples`` of them, or ten for each video.

    Raises:
        ValueError: if the file breaks a rule, a video is missing, or no anomaly has a box.
    """
    from datasets import Dataset

    from reward_model.data.annotations import read_annotations, video_path
    from reward_model.data.frame_cache import FrameCache
    from reward_model.data.stage_split import stage_records
    from reward_model.engine.guards import check_videos

    every = read_annotations(stage.data)
    seed = config.data_seed or 0
    parts = stage_records(every, "stage1", disjoint=stage.disjoint, held_out=stage.held_out, seed=seed)
    train, held = ([r for r in part if any(a.boxes for a in r.truth.anomalies)] for part in parts)
    if not train:
        raise ValueError(f"{stage.data}: no anomaly has a box, and a referee is trained on claims around true boxes")
    records = [*train, *held]
    check_videos([video_path(r, stage.data) for r in records])
    folder = {None: str(Path(config.output_dir) / "frames"), "none": None}.get(stage.cache_dir, stage.cache_dir)
    load = _Annotated(records, Path(stage.data), FrameCache(folder), judge)
    count = stage.samples or 10 * len(train)
    rows = Dataset.from_list([{"record": k % len(train), "draw": k} for k in range(count)])
    last = range(len(train), len(records))
    held_rows = Dataset.from_list([{"record": k, "draw": d} for d in range(4) for k in last]) if held else None
    summary = f"{count} claims about {len(train)} abnormal videos of {stage.data}; {4 * len(held)} held out"
    return StageData(rows, held_rows, load, judge, summary)


class _Annotated:
    """Rows -> claims about annotated videos."""

    def __init__(self, records: Sequence[Record], jsonl: Path, cache: FrameCache, judge: JudgeConfig) -> None:
        self.records, self.jsonl, self.cache, self.judge = records, jsonl, cache, judge
        self.others = sorted({a.region for r in records for a in r.truth.anomalies if a.region}) or ["the background"]

    def __call__(self, row: Mapping[str, Any]) -> Example:
        from reward_model.data.annotations import video_path

        record = self.records[row["record"]]
        truth, kept = thinned_truth(record.truth)
        practice = draw_practice(truth, np.random.default_rng([row["draw"], 11]), self.others)
        frame = min(kept, key=lambda n: abs(n - practice.claim.frame))
        path = video_path(record, self.jsonl)
        question = question_of(practice, truth, lambda: self.cache.frames(path, [frame], kept, truth.num_frames)[0])
        return practice_example(question, practice, self.judge)


def question_of(practice: Practice, truth: VideoAnnotation, frame: Callable[[], np.ndarray]) -> Question:
    """The claim as a referee is asked about it."""
    return Question(practice.claim, truth.video_id, reference_answer(truth), frame, truth)


def thinned_truth(truth: VideoAnnotation) -> tuple[VideoAnnotation, list[int]]:
    """The truth with some of its boxed frames, and the native frames that claims about it are on."""

    def few(frames: Sequence[int], count: int) -> list[int]:
        return sorted({frames[int(k)] for k in np.linspace(0, len(frames) - 1, count)}) if frames else []

    anomalies, kept = [], set()
    for anomaly in truth.anomalies:
        chosen = few(sorted(anomaly.boxes), BOXED_FRAMES)
        anomalies.append(replace(anomaly, boxes={n: anomaly.boxes[n] for n in chosen}))
        kept |= set(chosen)
    far = 2 * SLACK_S * truth.fps
    clean = [
        n
        for n in range(truth.num_frames)
        if all(n < a.frames.start - far or n > a.frames.end + far for a in truth.anomalies)
    ]
    return replace(truth, anomalies=tuple(anomalies)), sorted(kept | set(few(clean, CLEAN_FRAMES)))
