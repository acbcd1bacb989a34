"""Judged videos of a step: advantages over all processes, and the passes each process trains on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.advantages import Advantages, combine_advantages, compute_advantages
from cac_align.flow_grpo.sampler.rollout import VideoRollout
from cac_align.rewards.base import Evaluation

if TYPE_CHECKING:
    from accelerate import Accelerator


def gather(accelerator: Accelerator, values: list[Any]) -> list[Any]:
    """The lists of all processes, joined in their order; a call that all processes must make."""
    if accelerator.num_processes == 1:
        return values
    from accelerate.utils import gather_object

    return gather_object(values)


@dataclass(frozen=True)
class ScoreRow:
    """One video's score, as all processes see it."""

    group: int
    generation: int
    score: float | None
    reason: str | None
    parts: dict[str, float | None]


@dataclass
class Experience:
    """Rollouts of this process with their answers; rows and advantages of all processes, in the order of samples.

    ``first_row`` is the place of this process's first video among all rows; ``step`` counts the steps done before.
    """

    rollouts: list[VideoRollout]
    answers: list[Evaluation]
    rows: list[ScoreRow]
    advantages: Advantages
    first_row: int
    step: int = 0

    def of(self, rollout: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages (R,) float32 and validity (R,) bool of a rollout's videos."""
        start = self.first_row + sum(len(r.specs) for r in self.rollouts[:rollout])
        rows = slice(start, start + len(self.rollouts[rollout].specs))
        return self.advantages.values[rows].float(), self.advantages.valid[rows]


@dataclass(frozen=True)
class Chunk:
    """Videos of one training forward: some rows of a rollout. ``counted`` (R,) is 1 where a video enters the loss."""

    rollout: int
    rows: tuple[int, ...]
    advantages: torch.Tensor
    counted: torch.Tensor


def rows_of(rollouts: Sequence[VideoRollout], answers: Sequence[Evaluation]) -> list[ScoreRow]:
    """One row per video of this process."""
    return [
        ScoreRow(
            spec.group,
            spec.generation,
            answer.scores[k],
            answer.reasons[k],
            {name: values[k] for name, values in answer.parts.items()},
        )
        for rollout, answer in zip(rollouts, answers, strict=True)
        for k, spec in enumerate(rollout.specs)
    ]


def advantages_of(rows: Sequence[ScoreRow], config: FlowGRPOConfig, reward_weights: Mapping[str, float]) -> Advantages:
    """Advantages of all videos of a step, by the mean of scores or by each reward on its own.

    Args:
        rows: all videos of the step.
        config: settings.
        reward_weights: weights of the rewards that count, by name.

    Raises:
        ValueError: if the settings name a reward that was not judged.
    """
    groups = [row.group for row in rows]
    options = {
        "baseline": config.advantage_baseline,
        "std": config.advantage_std,
        "ddof": config.advantage_ddof,
        "eps": config.advantage_eps,
    }
    if config.reward_combination == "scores":
        scores = [row.score for row in rows]
        return compute_advantages(scores, groups, clip=config.advantage_clip, **options)  # type: ignore[arg-type]
    unknown = [name for name in reward_weights if not any(name in row.parts for row in rows)]
    if unknown:
        known = sorted({name for row in rows for name in row.parts}) or "no parts"
        raise ValueError(
            f"reward_combination='advantages' needs a part of the reward named {unknown[0]!r}, as in rewards=...; "
            f"it has {known}. Use 'scores', or give the parts the same names"
        )
    parts = {name: [row.parts.get(name) for row in rows] for name in reward_weights}
    return combine_advantages(parts, groups, weights=reward_weights, clip=config.advantage_clip, **options)


def chunks_of(experience: Experience, rows_per_forward: int) -> list[Chunk]:
    """This process's videos with a non-zero advantage, grouped into forward passes.

    Groups without variance are left out, and so is a forward without any judged video. A forward that has one is kept
    whole, because its numbers depend, by rounding, on which videos it holds.
    """
    found = []
    flat = set(experience.advantages.zero_variance)
    for number, rollout in enumerate(experience.rollouts):
        if rollout.group in flat:
            continue
        values, valid = experience.of(number)
        for start in range(0, len(rollout.specs), rows_per_forward):
            rows = tuple(range(start, min(start + rows_per_forward, len(rollout.specs))))
            if valid[list(rows)].any():
                found.append(Chunk(number, rows, values[list(rows)], valid[list(rows)].float()))
    return found


def idle_chunk(experience: Experience, rows_per_forward: int) -> Chunk:
    """A forward that counts for nothing, for a process with fewer than the others: all must take equally many."""
    rows = tuple(range(min(rows_per_forward, len(experience.rollouts[0].specs))))
    return Chunk(0, rows, torch.zeros(len(rows)), torch.zeros(len(rows)))


def experience_numbers(rows: Sequence[ScoreRow], advantages: Advantages) -> dict[str, float]:
    """The monitors of a step's rewards, over all processes. A key is absent where nothing was judged."""
    numbers = {
        "reward/failed": sum(row.score is None for row in rows) / max(len(rows), 1),
        "groups/zero_variance": advantages.zero_variance_fraction,
        "advantages/abs_mean": float(advantages.values.abs().mean()) if len(rows) else 0.0,
    }
    scores = [row.score for row in rows if row.score is not None]
    if scores:
        numbers |= {"reward/mean": fmean(scores), "reward/min": min(scores), "reward/max": max(scores)}
    spreads = _spreads(rows)
    if spreads:
        numbers["reward/std_in_group"] = math.fsum(spreads) / len(spreads)
    for name in dict.fromkeys(name for row in rows for name in row.parts):
        values = [v for row in rows if (v := row.parts.get(name)) is not None]
        if values:
            numbers[f"part/{name}"] = fmean(values)
        if values and name.endswith("/calibrated"):  # at an end of the scale the reward tells no more
            numbers[f"part/{name.removesuffix('calibrated')}clipped"] = fmean(v in (0.0, 1.0) for v in values)
    return numbers


def _spreads(rows: Sequence[ScoreRow]) -> list[float]:
    """Standard deviation of the scores of each group with at least two."""
    groups: dict[int, list[float]] = {}
    for row in rows:
        if row.score is not None:
            groups.setdefault(row.group, []).append(row.score)
    return [pstdev(scores) for scores in groups.values() if len(scores) > 1]
