"""Judged videos of a step: advantages over all processes, and the passes each process trains on."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.advantages import Advantages, combine_advantages, compute_advantages
from cac_align.flow_grpo.maths.anchor import selective_anchor
from cac_align.flow_grpo.sampler.rollout import VideoRollout
from cac_align.rewards.base import Evaluation

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

#: Share of a step's videos at the limit of a clipped reward from which on a run is told so.
_SATURATED = 0.5


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
    ``anchors`` are the factors of beta of all videos; None: 1 for each.
    """

    rollouts: list[VideoRollout]
    answers: list[Evaluation]
    rows: list[ScoreRow]
    advantages: Advantages
    first_row: int
    step: int = 0
    anchors: list[float] | None = None

    def of(self, rollout: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages (R,) float32 and validity (R,) bool of a rollout's videos."""
        rows = self._rows(rollout)
        return self.advantages.values[rows].float(), self.advantages.valid[rows]

    def anchors_of(self, rollout: int) -> torch.Tensor:
        """The anchor's factors (R,) float32 of a rollout's videos."""
        rows = self._rows(rollout)
        return torch.ones(rows.stop - rows.start) if self.anchors is None else torch.tensor(self.anchors[rows])

    def _rows(self, rollout: int) -> slice:
        """Places of a rollout's videos among those of all processes."""
        start = self.first_row + sum(len(r.specs) for r in self.rollouts[:rollout])
        return slice(start, start + len(self.rollouts[rollout].specs))


@dataclass(frozen=True)
class Chunk:
    """Videos of one training forward: some rows of a rollout. ``counted`` (R,) is 1 where a video enters the loss,
    ``anchors`` (R,) are the factors of beta.
    """

    rollout: int
    rows: tuple[int, ...]
    advantages: torch.Tensor
    counted: torch.Tensor
    anchors: torch.Tensor

    def select(self, places: Sequence[int]) -> Chunk:
        """The chunk of some of its videos, named by their place in it."""
        kept = list(places)
        rows = tuple(self.rows[place] for place in kept)
        return Chunk(self.rollout, rows, self.advantages[kept], self.counted[kept], self.anchors[kept])


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
    parts = _parts(rows, list(reward_weights), "reward_combination='advantages'", "Use 'scores'")
    return combine_advantages(parts, groups, weights=reward_weights, clip=config.advantage_clip, **options)


def judged_step(
    rollouts: list[VideoRollout],
    answers: list[Evaluation],
    rows: list[ScoreRow],
    config: FlowGRPOConfig,
    reward_weights: Mapping[str, float],
    first_row: int,
    step: int,
) -> Experience:
    """The videos of a step with their advantages and anchors; arguments as in :class:`Experience` and
    :func:`advantages_of`.

    Raises:
        ValueError: if the settings name a reward that was not judged.
    """
    advantages = advantages_of(rows, config, reward_weights)
    return Experience(rollouts, answers, rows, advantages, first_row, step, anchors_of(rows, config))


def anchors_of(rows: Sequence[ScoreRow], config: FlowGRPOConfig) -> list[float] | None:
    """The anchor's factor of every video of a step; None where it holds them all.

    Args:
        rows: all videos of the step.
        config: settings, which say which rewards are compared.

    Raises:
        ValueError: if the settings name a reward that was not judged.
    """
    if config.anchor == "all":
        return None
    names = config.compared_rewards(config.rewards)
    main, *others = _parts(rows, names, "anchor='selective'", "Use 'all'").values()
    return selective_anchor(main, others, [row.group for row in rows], config.anchor_disagreement)


def _parts(rows: Sequence[ScoreRow], names: Sequence[str], setting: str, remedy: str) -> dict[str, list[float | None]]:
    """The scores of all videos by the rewards of these names.

    Raises:
        ValueError: if one of them was not judged.
    """
    unknown = [name for name in names if not any(name in row.parts for row in rows)]
    if unknown:
        known = sorted({name for row in rows for name in row.parts}) or "no parts"
        raise ValueError(
            f"{setting} needs a part of the reward named {unknown[0]!r}, as in rewards=...; it has {known}. {remedy}, "
            "or give the parts the same names"
        )
    return {name: [row.parts.get(name) for row in rows] for name in names}


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
        anchors = experience.anchors_of(number)
        for start in range(0, len(rollout.specs), rows_per_forward):
            rows = tuple(range(start, min(start + rows_per_forward, len(rollout.specs))))
            if valid[list(rows)].any():
                chosen = list(rows)
                found.append(Chunk(number, rows, values[chosen], valid[chosen].float(), anchors[chosen]))
    return found


def idle_chunk(experience: Experience, rows_per_forward: int) -> Chunk:
    """A forward that counts for nothing, for a process with fewer than the others: all must take equally many."""
    rows = tuple(range(min(rows_per_forward, len(experience.rollouts[0].specs))))
    return Chunk(0, rows, *(torch.zeros(len(rows)) for _ in range(3)))


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
    return numbers | _part_numbers(rows)


def shares_at_limit(numbers: Mapping[str, float]) -> dict[str, float]:
    """Of the numbers of a step or an evaluation those that say how many videos are at the limit of a clipped reward."""
    return {k: v for k, v in numbers.items() if k.startswith("part/") and k.endswith("/saturated")}


def warn_of_limits(numbers: Mapping[str, float]) -> None:
    """Says which clipped reward, such as that of motion, has most videos of a step at its limit, by the step's numbers.

    Above its limit a reward sees no difference between videos. Prompts of fast motion reach that of speed first.
    """
    for name, share in shares_at_limit(numbers).items():
        if share > _SATURATED:
            log.warning(
                "%s: %.0f %% of the step's videos are at the limit of this reward, so that it does not see them slow "
                "down; give the reward of motion a higher 'full'",
                name,
                100 * share,
            )


def _part_numbers(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """The mean of each part of a reward, and how often a calibrated one stood at an end of its scale."""
    numbers = {}
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
