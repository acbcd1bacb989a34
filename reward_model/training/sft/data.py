"""The samples of stages 1 and 2: procedural videos, or a user's own annotated ones, checked before anything trains."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.config import JudgeConfig
from reward_model.data.view_options import ViewOptions
from reward_model.engine.guards import check_lengths, check_rows, check_videos
from reward_model.tracks.codec import STEPS
from reward_model.training.plan import tokens_per_frame
from reward_model.training.sft.config import WORLD, StageArguments
from reward_model.training.sft.left_out import unused_in_stage1
from reward_model.training.sft.parts import STOCK, StageData, StageName, StageParts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import ProcessorMixin
    from trl import SFTConfig

    from reward_model.data.stage_split import Stage
    from reward_model.data.views import StageViews

log = logging.getLogger(__name__)

#: Below this many videos none is held out unless the file marks some: each one is needed.
MIN_TO_HOLD_OUT = 40


def stage_data(
    name: StageName,
    stage: StageArguments,
    config: SFTConfig,
    processor: ProcessorMixin,
    judge: JudgeConfig,
    parts: StageParts = STOCK,
) -> StageData:
    """The data of ``stage1`` or ``stage2``, or of a referee.

    Args:
        config: ``SFTConfig``; its steps, batches and seed size and order the procedural rows.
        judge: settings of the judge; the result's ``judge`` may allow longer answers, as long as the data has.
        parts: draw procedural samples.

    Raises:
        ValueError: if the data cannot make a balanced, complete set; the message says what to fix.
    """
    if stage.data == WORLD:
        return parts.world_data(name, stage, config, judge)
    own = parts.annotated_data(name, stage, config, processor, judge)
    if own is not None or name == "referee":
        assert own is not None, "a referee's parts bring its data"
        return own
    return annotated_data(name, stage, config, processor, judge)


def annotated_data(
    name: Stage, stage: StageArguments, config: SFTConfig, processor: ProcessorMixin, judge: JudgeConfig
) -> StageData:
    """The samples of ``stage1`` or ``stage2`` from an annotation file, by :class:`reward_model.data.views.StageViews`.

    Args, Raises: see :func:`stage_data`.
    """
    from reward_model.data.annotations import read_annotations, video_path
    from reward_model.data.stage_split import stage_records

    records = read_annotations(stage.data)
    train, held = stage_records(
        records,
        name,
        disjoint=stage.disjoint,
        held_out=stage.held_out if len(records) >= MIN_TO_HOLD_OUT else 0.0,
        seed=config.data_seed or 0,
    )
    check_videos([video_path(r, stage.data) for r in [*train, *held]])
    cot: Sequence[Any] = ()
    if stage.cot:
        from reward_model.data.cot import read_cot

        cot = read_cot(stage.cot)
    part = _views_of(stage, config, judge, cot)
    # One set of views serves both parts, so that a row's number of its record has one meaning.
    views = part([*train, *held])
    rows = part(train).rows(name, seed=config.seed, count=stage.samples)
    told = {s.video_id for s in cot if s.turn == "zoom"} if cot and not stage.without_cot else None
    unused = unused_in_stage1(train, set(rows["record"]), told) if name == "stage1" else ""
    if unused:
        log.warning("%s", unused)
    _warn_of_few_ticks(name, stage, judge)
    counts = check_rows(rows)
    held_rows = _held_out_rows(part, held, name, config.seed, first=len(train))
    lengths = TokenCount(processor, views)
    rows, long = check_lengths(rows, lengths.total, stage.max_tokens)
    judge = lengths.longer_answers(rows, judge)
    summary = (
        f"{len(rows)} samples of {len(train)} videos in {stage.data} ({counts['normal']} normal, "
        f"{counts['abnormal']} abnormal; {len(long)} left out as too long), reasoning "
        f"{'from ' + stage.cot if stage.cot else 'written from the annotations'}; "
        f"{len(held_rows) if held_rows is not None else 0} held-out samples{'; ' + unused if unused else ''}"
    )
    return StageData(rows, held_rows, views.load, judge, summary, records=train)


def _warn_of_few_ticks(name: Stage, stage: StageArguments, judge: JudgeConfig) -> None:
    """Says how few ticks answers have where boxes are drawn at ticks and clips are of short anomalies alone."""
    if name != "stage2" or stage.untrimmed_windows or judge.track == "per_frame":
        return
    log.warning(
        "track=%s with untrimmed_windows=false: clips are of anomalies shorter than a second, so no answer has more "
        "than %d tick(s), and of longer ones the judge learns nothing; --untrimmed_windows True trains on those too",
        judge.track,
        math.ceil(ViewOptions.max_clip_s / STEPS[judge.track]),
    )


def frames_folder(stage: StageArguments, output: str | Path) -> str | Path | None:
    """Folder of a stage's reduced videos, in that of its output unless a setting names another; None: none."""
    if stage.cache_dir is None:
        return Path(output) / "frames"
    return None if stage.cache_dir == "none" else stage.cache_dir


def _views_of(
    stage: StageArguments, config: SFTConfig, judge: JudgeConfig, cot: Sequence[Any]
) -> Callable[[Sequence[Any]], Any]:
    """Records -> their views, as the stage's settings say, with one cache of frames for all of them."""
    from reward_model.data.frame_cache import FrameCache
    from reward_model.data.views import StageViews

    options = ViewOptions(
        frames_per_video=stage.frames_per_video,
        untrimmed_windows=stage.untrimmed_windows,
        hints=stage.hints,
        without_cot=stage.without_cot,
        empty_cot_share=stage.empty_cot_share,
        gt_replace=stage.gt_replace,
        gt_jitter=stage.gt_jitter,
    )
    cache = FrameCache(frames_folder(stage, config.output_dir), frame_size=judge.frame_size, frame_fit=judge.frame_fit)
    return partial(StageViews, jsonl=stage.data, judge=judge, cache=cache, cot=cot, options=options)


def _held_out_rows(
    views_of: Callable[[Sequence[Any]], Any], records: Sequence[Any], name: Stage, seed: int, *, first: int
) -> Dataset | None:
    """Rows of the held-out records, whose numbers begin at ``first``; None if they lack one of the two statuses."""
    if {r.truth.status for r in records} != {"normal", "abnormal"}:
        return None
    try:
        rows = views_of(records).rows(name, seed=seed)
        return rows.map(lambda row: {"record": row["record"] + first})
    except ValueError as error:
        log.warning("nothing is held out: %s", error)
        return None


class TokenCount:
    """Lengths of samples in tokens, from their words and frame sizes; no video is decoded."""

    def __init__(self, processor: ProcessorMixin, views: StageViews) -> None:
        self.processor, self.views = processor, views

    def answer(self, row: Mapping[str, Any]) -> int:
        """Tokens of the answer with its end token."""
        return len(self.processor.tokenizer.encode(self.views.text(row).answer, add_special_tokens=False)) + 1

    def total(self, row: Mapping[str, Any]) -> int:
        """Tokens of prompt, frames and answer."""
        chat = [m.to_chat() for m in self.views.text(row).conversation]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        words = len(self.processor.tokenizer.encode(text, add_special_tokens=False))
        settings = self.processor.image_processor
        height, width = self.views.frame_shape(row)
        per_frame = tokens_per_frame(
            height,
            width,
            patch=settings.patch_size,
            merge=settings.merge_size,
            min_pixels=settings.size["shortest_edge"],
            max_pixels=settings.size["longest_edge"],
        )
        return words + len(row["indices"]) * (per_frame - 1) + self.answer(row)

    def longer_answers(self, rows: Dataset, judge: JudgeConfig) -> JudgeConfig:
        """The judge with room for the longest answers of the data plus a quarter: an answer that is cut off counts as
        unreadable.
        """
        changes: dict[str, int] = {}
        for number, turn in ((1, "scan"), (2, "zoom")):
            asked = [row for row in rows if (row["task"] == "scan") == (number == 1)]
            lengths = [(64 * math.ceil(1.25 * self.answer(row) / 64), len(row["indices"])) for row in asked]
            if any(needed > judge.answer_limit(number, frames) for needed, frames in lengths):
                name = f"max_{turn}_tokens"
                # Where the limit followed the frames, a number takes its place that cuts none of the data.
                limits = [max(needed, judge.answer_limit(number, frames)) for needed, frames in lengths]
                changes[name] = max(limits)
                log.info("answers of the data need up to %d tokens: %s becomes %d", max(lengths)[0], name, max(limits))
        return judge.override(**changes)
