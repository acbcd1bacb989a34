"""Parts of the minis for stages 1 and 2: a model from scratch, procedural samples, a fast collator, Muon, warm-ups.

    from reward_model.minis.stages import MINI, MiniArguments
    from reward_model.training.sft.config import parse_stage
    from reward_model.training.sft.run import run_stage

    run_stage("stage2", *parse_stage(["--config", "mini.yaml"], options=MiniArguments), MINI)

The recipes hand :data:`MINI` in for models of any size: it changes nothing for a full-size judge.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from reward_model.config import JUDGE_FILE, JudgeConfig, load_judge_config
from reward_model.terminal.described import Bounds
from reward_model.training.sft.config import NOT_NEGATIVE, WORLD, StageArguments
from reward_model.training.sft.parts import Load, StageData, StageName, StageParts

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from trl import ModelConfig, SFTConfig

    from reward_model.minis.annotated_marks import AnnotatedMarks
    from reward_model.training.plan import PlanConfig
    from reward_model.training.sft.trainer import MakeOptimizer

#: Scenes of evaluation samples start here; training uses seeds below 100,000.
HELD_OUT_SEEDS = 400_000


@dataclass
class MiniArguments(StageArguments):
    """Settings of stages 1 and 2 with those of the minis."""

    stories: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "world: shares of shifted, short and look-alike videos, as JSON; the rest is plain"},
    )
    kinds: list[str] | None = field(
        default=None, metadata={"help": "world: kinds of anomalies, by default all; look-alikes bring their own"}
    )
    supervision: Literal["exact", "people"] = field(
        default="exact",
        metadata={
            "help": "stage 2, world: answers from the exact truth, or from annotations as people give them (windows "
            "off by up to half a second, boxes of IoU 0.6, missing types)"
        },
    )
    replay: bool = field(
        default=True, metadata={"help": "stage 2, world: splices and single frames too, whose truth is always exact"}
    )
    false_alarms: str | None = field(
        default=None,
        metadata={"help": "stage 2, world: file of a judge's false alarms (recipes/false_alarms.py) as negative clips"},
    )
    false_alarm_share: Annotated[float, Bounds(above=0, most=1)] = field(
        default=0.25, metadata={"help": "stage 2, world: share of the normal clips that false_alarms takes over"}
    )
    boxes_round: bool = field(default=False, metadata={"help": "world: clips and frames that are mostly anomalous"})
    vision_warmup_steps: Annotated[int, NOT_NEGATIVE] = field(
        default=0, metadata={"help": "mini from scratch only: steps of its vision tower"}
    )
    reading_warmup_steps: Annotated[int, NOT_NEGATIVE] = field(
        default=0, metadata={"help": "steps of its reading: mini from scratch, or any mini on annotated videos"}
    )
    vision_lr_scale: Annotated[float, NOT_NEGATIVE] = field(
        default=1.0, metadata={"help": "learning rate of the vision tower, relative"}
    )
    matrix_lr: Annotated[float | None, NOT_NEGATIVE] = field(
        default=None, metadata={"help": "Muon's rate for weight matrices (AdamW if none)"}
    )

    def __post_init__(self) -> None:
        from reward_model.world.kinds import check_kinds
        from reward_model.world.scripts import check_stories

        if isinstance(self.kinds, str):  # one on a command line
            self.kinds = [self.kinds]
        super().__post_init__()
        if isinstance(self.stories, str):
            try:
                self.stories = json.loads(self.stories)
            except ValueError as error:
                raise ValueError(f'stories={self.stories!r} must be JSON, such as {{"shifted": 0.4}}') from error
        if self.stories is not None and not isinstance(self.stories, dict):
            raise ValueError(f"stories={self.stories!r} must map a story to its share")
        check_stories(self.stories or {})
        if self.kinds is not None:
            check_kinds(self.kinds)
        if self.supervision == "people" and self.replay:
            raise ValueError(
                "supervision='people': splices and single frames have exact truth, which people do not give; set "
                "replay: false"
            )


class MiniParts(StageParts):
    """Stages 1 and 2 of a mini judge, from scratch or from a checkpoint of it, on the world or on annotated videos."""

    options = MiniArguments
    models = ("mini", "tiny")

    def build(self, name: str, seed: int) -> tuple[Any, Any, JudgeConfig]:
        from reward_model.minis.model import build_judge, judge_settings
        from reward_model.prompts import load_prompts

        net, processor = build_judge(name, seed=seed)
        with tempfile.TemporaryDirectory() as folder:  # so that its settings are read as a checkpoint's are
            (Path(folder) / JUDGE_FILE).write_text(judge_settings(load_prompts("compact").version))
            return net, processor, load_judge_config(folder)

    def shape(self, name: str) -> PretrainedConfig | None:
        if name not in self.models:
            return None
        from reward_model.minis.model import build_judge

        return build_judge(name)[0].config

    def plan(self, plan: PlanConfig, stage: Any) -> PlanConfig:
        if plan.model not in self.models:
            return plan
        side = stage.frame_size or 48
        return replace(plan, height=side, width=side, prompt_tokens=10, answer_tokens=150, longest_frames=None)

    def dry_run_note(self, model: str | None, stage: Any) -> str:
        counts = {"vision": stage.vision_warmup_steps, "reading": stage.reading_warmup_steps}
        if model not in self.models:
            counts = {"reading": counts["reading"]} if stage.data != WORLD else {}
        told = [f"{steps:,} steps of the {name} warm-up" for name, steps in counts.items() if steps]
        return f"Before them: {' and '.join(told)}." if told else ""

    def world_data(self, name: StageName, stage: Any, config: SFTConfig, judge: JudgeConfig) -> StageData:
        from reward_model.minis.false_alarms import read_alarms, with_alarms
        from reward_model.minis.rows import make_example
        from reward_model.minis.stage_rows import repeated
        from reward_model.tracks.codec import codec_of

        if config.max_steps < 1:
            raise ValueError("data: world is endless; set max_steps in the configuration")
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
        _check_settings_of_stage_two(name, stage)
        steps = config.max_steps
        if stage.samples is not None:
            if stage.samples < batch:
                raise ValueError(f"samples={stage.samples} must be at least one batch, {batch}")
            steps = min(steps, stage.samples // batch)
        several = steps < config.max_steps
        rows = self._draw(name, stage, steps, batch, 1000 * config.seed + int(name[-1]), several=several)
        summary = f"{len(rows)} procedural samples"
        alarms = 0
        if stage.false_alarms is not None:
            rows = with_alarms(rows, read_alarms(stage.false_alarms), stage.false_alarm_share, seed=config.seed)
            alarms = sum(map(bool, rows["alarm"]))
        if several:
            rows = repeated(rows, batch, config.max_steps, seed=config.seed)
            summary = f"{len(rows)} procedural samples, {steps * batch} of them different"
        if stage.supervision == "people":
            summary += ", annotated as people do"
        if alarms:
            summary += f", {alarms} false alarms of {stage.false_alarms} among the normal clips"
        load = partial(make_example, prompts=judge.prompts, codec=codec_of(judge))
        return StageData(rows, _held_out(name, stage, config.seed), load, judge, summary, ordered=True)

    def annotated_data(
        self, name: StageName, stage: Any, config: SFTConfig, processor: ProcessorMixin, judge: JudgeConfig
    ) -> StageData | None:
        if not judge.demo_scale or judge.track != "per_frame" or name not in ("stage1", "stage2"):
            return None
        from reward_model.minis.annotated_rows import OnPixels
        from reward_model.training.sft.data import annotated_data

        data = annotated_data(name, stage, config, processor, judge)
        return replace(data, load=OnPixels(data.load))

    def _draw(self, name: StageName, stage: Any, steps: int, batch: int, seed: int, *, several: bool) -> Dataset:
        """The different rows of a stage; ``several``: they are walked through several times."""
        from reward_model.minis.stage_rows import CURRICULUM, box_rows, stage1_rows, stage2_rows
        from reward_model.world.kinds import KINDS

        options = {"seed": seed, "stories": stage.stories, "kinds": tuple(stage.kinds or KINDS)}
        if stage.boxes_round:
            return box_rows(steps, batch, **options)
        if name == "stage1":
            return stage1_rows(steps, batch, **options)
        # Short videos come first only where there is a first time.
        curriculum = 0.0 if several else CURRICULUM
        people = stage.supervision == "people"
        return stage2_rows(steps, batch, people=people, replay=stage.replay, curriculum=curriculum, **options)

    def collator(
        self, processor: ProcessorMixin, load: Load, judge: JudgeConfig
    ) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
        if not judge.demo_scale:
            return super().collator(processor, load, judge)
        from reward_model.minis.collator import MiniCollator

        return MiniCollator(processor, load)

    def around(self, model: PreTrainedModel, judge: JudgeConfig) -> AbstractContextManager[None]:
        if not judge.demo_scale:
            return nullcontext()
        from reward_model.minis.collator import use_equal_images

        return use_equal_images(model)

    def warm_up(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        work: Path,
        stage: Any,
        model_args: ModelConfig,
        config: SFTConfig,
        data: StageData,
    ) -> None:
        from_scratch = model_args.model_name_or_path in self.models
        if not from_scratch and (stage.data == WORLD or not stage.reading_warmup_steps):
            return  # it knows the drawn world already
        from reward_model.minis.warm_up import warm_up

        steps = {"vision_steps": stage.vision_warmup_steps, "reading_steps": stage.reading_warmup_steps}
        shifted = (stage.stories or {}).get("shifted", 0.0)
        source = None if from_scratch else _annotated_marks(stage, work, data)
        if source is not None:
            steps["vision_steps"] = 0
        warm_up(model, processor, work, config, **steps, resume=stage.resume, shifted=shifted, source=source)

    def optimizer(self, stage: Any) -> MakeOptimizer | None:
        if stage.matrix_lr is None and stage.vision_lr_scale == 1:
            return None
        from reward_model.minis.optimizer import MiniOptimizer

        return MiniOptimizer(stage.matrix_lr, stage.vision_lr_scale)


def _annotated_marks(stage: Any, work: Path, data: StageData) -> AnnotatedMarks:
    """The annotated videos of a stage for the warm-up of a mini's reading.

    Raises:
        ValueError: the judge is not a mini.
    """
    if not data.judge.demo_scale:
        raise ValueError(
            f"reading_warmup_steps={stage.reading_warmup_steps} is a setting of minis, whose frames have one size; a "
            "full-size judge can read: set it to 0"
        )
    from reward_model.minis.annotated_marks import AnnotatedMarks
    from reward_model.training.sft.data import frames_folder

    return AnnotatedMarks(data.records, stage.data, data.judge, cache=frames_folder(stage, work.parent))


def _check_settings_of_stage_two(name: StageName, stage: Any) -> None:
    if name == "stage2" and not stage.boxes_round:
        return
    if stage.false_alarms is not None:
        raise ValueError("false_alarms is a setting of stage 2, where turn two learns to clear suspicions")
    if stage.supervision == "people":
        raise ValueError("supervision='people' is a setting of stage 2; stage 1 and the boxes round need exact truth")


def _held_out(name: StageName, stage: Any, seed: int) -> Dataset:
    """Rows of evaluations, of scenes that no training sees."""
    from datasets import Dataset

    from reward_model.minis.rows import draw_rows
    from reward_model.world.kinds import KINDS

    tasks = {"stage1": ("frame", "clip"), "stage2": ("scan", "zoom")}[name]
    count = max(32, stage.eval_samples)
    options = {"seed": 7_000 + seed, "stories": stage.stories, "kinds": tuple(stage.kinds or KINDS)}
    drawn = draw_rows([tasks[k % 2] for k in range(count)], **options)
    return Dataset.from_list([{**row, "seed": row["seed"] + HELD_OUT_SEEDS} for row in drawn])


#: The parts of the minis.
MINI = MiniParts()
