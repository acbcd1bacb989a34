"""The parts of stages 1 and 2 that a caller may bring: options, a model from scratch, rows, collator, optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reward_model.config import JudgeConfig
from reward_model.training.sft.config import WORLD, StageArguments

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from trl import ModelConfig, SFTConfig

    from reward_model.data.example import Example
    from reward_model.training.plan import PlanConfig
    from reward_model.training.sft.trainer import MakeOptimizer

#: What can be trained so: a judge in its stages, and a referee of evidence.
StageName = Literal["stage1", "stage2", "stage3", "referee"]
#: A row of the data set -> the conversation and the answer.
Load = Callable[[Mapping[str, Any]], "Example"]


@dataclass
class StageData:
    """Rows of a stage, and how to turn them into samples."""

    rows: Any
    held_out: Any
    load: Load
    judge: JudgeConfig
    summary: str
    #: The rows are laid out batch by batch and must not be shuffled.
    ordered: bool = False
    #: The annotated videos that are trained on; none of procedural samples.
    records: Sequence[Any] = ()


class StageParts:
    """The parts of a stage that trains a checkpoint on annotated videos. A subclass replaces what is different about
    its models; :func:`~reward_model.training.sft.run.run_stage` asks for each part once.
    """

    #: Settings of a stage beside TRL's: the options of its command line.
    options: type[StageArguments] = StageArguments
    #: Names of models that :meth:`build` makes from scratch.
    models: tuple[str, ...] = ()
    #: The trained model in a sentence, and how it is loaded, ``{folder}`` for its place.
    made, loaded_by = "A two-turn judge of generated video", 'CaCReward("{folder}")'

    def build(self, name: str, seed: int) -> tuple[Any, Any, JudgeConfig]:
        """Model, processor and judge of a name in :attr:`models`.

        Raises:
            ValueError: if there is no model of this name.
        """
        raise ValueError(
            f"model_name_or_path={name!r} cannot be built from scratch; give a checkpoint folder or hub id"
        )

    def shape(self, name: str) -> PretrainedConfig | None:
        """The transformers configuration of a name in :attr:`models`; None for other names."""
        return None

    def plan(self, plan: PlanConfig, stage: Any) -> PlanConfig:
        """A plan, adapted to what is known of its model."""
        return plan

    def dry_run_note(self, model: str | None, stage: Any) -> str:
        """A line on what comes before the planned steps; empty if nothing does."""
        return ""

    def world_data(self, name: StageName, stage: Any, config: SFTConfig, judge: JudgeConfig) -> StageData:
        """Procedural samples of a stage.

        Args:
            config: ``SFTConfig``; its steps, batches and seed size and order the rows.

        Raises:
            ValueError: if there are none.
        """
        raise ValueError(
            f"data={WORLD!r}: procedural samples are drawn by the recipes, or by the minis' parts given to run_stage; "
            "name an annotations .jsonl file"
        )

    def annotated_data(
        self, name: StageName, stage: Any, config: SFTConfig, processor: ProcessorMixin, judge: JudgeConfig
    ) -> StageData | None:
        """Samples of annotated videos; None: those of the stage's own views.

        Raises:
            ValueError: if there are none.
        """
        return None

    def collator(
        self, processor: ProcessorMixin, load: Load, judge: JudgeConfig
    ) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]]:
        """Rows -> a batch."""
        from reward_model.training.sft.trainer import AnswerCollator

        return AnswerCollator(processor, load)

    def around(self, model: PreTrainedModel, judge: JudgeConfig) -> AbstractContextManager[None]:
        """A block to train in."""
        return nullcontext()

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
        """Prepares the weights before the first step of a stage; ``work`` is the folder of its checkpoints.

        Raises:
            ValueError: a setting does not fit the model.
        """

    def optimizer(self, stage: Any) -> MakeOptimizer | None:
        """Makes the optimiser; None: the one that ``SFTConfig`` names."""
        return None


#: The parts of a full-size judge.
STOCK = StageParts()
