"""A mini referee: claims about single frames of the world, with exact grades, and the parts it is trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.config import JudgeConfig
from reward_model.data.example import Example
from reward_model.evidence.practice import Practice, draw_practice
from reward_model.evidence.referee import Question
from reward_model.minis.rows import TRAIN_SEEDS
from reward_model.minis.stages import HELD_OUT_SEEDS, MiniParts
from reward_model.training.referee import RefereeParts, practice_example, question_of
from reward_model.training.sft.parts import StageData, StageName
from reward_model.world.kinds import KINDS, SETTINGS_OF, SINGLE_FRAME
from reward_model.world.nuisance import degrade
from reward_model.world.palette import COLORS, SHAPES
from reward_model.world.scene import make_scene
from reward_model.world.video import SIZE, make_annotation, render

if TYPE_CHECKING:
    from trl import SFTConfig

    from reward_model.training.plan import PlanConfig

#: Names of things that claims can be wrongly about.
_OTHERS = tuple(f"the {color} {shape}" for color in COLORS for shape in SHAPES)
#: Shares of the kinds that one frame shows, which a referee of one frame can learn, and of the others.
SINGLE_FRAME_SHARE = 0.7
#: Tokens of a compact question beside its pictures, and of an answer.
_PROMPT_TOKENS, _ANSWER_TOKENS = 110, 40


class MiniRefereeParts(RefereeParts, MiniParts):
    """The parts of a referee of any size: on the world for a mini, or on annotated videos."""

    def plan(self, plan: PlanConfig, stage: Any) -> PlanConfig:
        if plan.model not in self.models:
            return replace(plan, answer_tokens=_ANSWER_TOKENS, prompt_tokens=400)
        side = stage.frame_size or SIZE
        plan = replace(plan, height=side, width=side, longest_frames=None)
        return replace(plan, prompt_tokens=_PROMPT_TOKENS, answer_tokens=_ANSWER_TOKENS)

    def world_data(self, name: StageName, stage: Any, config: SFTConfig, judge: JudgeConfig) -> StageData:
        if config.max_steps < 1:
            raise ValueError("data: world is endless; set max_steps in the configuration")
        if not judge.frame_size:
            raise ValueError("data: world needs a frame_size: the model's judge.json names none; set frame_size")
        batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size
        rows = practice_rows(config.max_steps * batch, seed=config.seed)
        held = practice_rows(max(64, stage.eval_samples), seed=config.seed + 1, first_seed=HELD_OUT_SEEDS)
        load = partial(load_practice, judge=judge)
        return StageData(rows, held, load, judge, f"{len(rows)} claims about procedural videos")


def practice_rows(
    count: int,
    *,
    seed: int = 0,
    first_seed: int = 0,
    kinds: Sequence[str] | None = None,
    share: float = SINGLE_FRAME_SHARE,
) -> Any:
    """Rows that name a scene and a draw, as a ``datasets.Dataset``; each is a claim about an abnormal video.

    Args:
        first_seed: scenes are drawn from here on, as many as stages 1 and 2 have; 0 are those that they train on.
        kinds: anomalies to draw from; None: kinds that one frame shows with the given ``share``, else any other.
    """
    from datasets import Dataset

    rng = np.random.default_rng([seed, first_seed, 91])
    compared = [kind for kind in KINDS if kind not in SINGLE_FRAME]
    rows = []
    for _ in range(count):
        pool = list(kinds) if kinds is not None else SINGLE_FRAME if rng.random() < share else compared
        kind = str(rng.choice(list(pool)))
        rows.append(
            {
                "seed": first_seed + int(rng.integers(TRAIN_SEEDS.start, TRAIN_SEEDS.stop)),
                "kind": kind,
                "setting": str(rng.choice(SETTINGS_OF[kind])),
                "draw": int(rng.integers(2**31)),
            }
        )
    return Dataset.from_list(rows)


def world_practice(row: Mapping[str, Any], size: int = SIZE) -> tuple[Question, Practice]:
    """The claim of a row, with its exact grades; its frame is worn as the judge's are."""
    rng = np.random.default_rng([row["draw"], 12])
    scene = make_scene(row["seed"], row["kind"], setting=row["setting"])
    truth = make_annotation(scene, size)
    practice = draw_practice(truth, rng, _OTHERS)
    pictures = degrade(render(scene, [practice.claim.frame], size), rng, probability=0.3)
    return question_of(practice, truth, lambda: pictures[0]), practice


def load_practice(row: Mapping[str, Any], *, judge: JudgeConfig) -> Example:
    """The training sample of a row."""
    question, practice = world_practice(row)
    return practice_example(question, practice, judge)


#: The parts of a referee.
REFEREE = MiniRefereeParts()
