"""The scored rollouts of a step, and the micro-batches they are trained in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from reward_model.training.grpo.maths import rollout_weights, sampling_correction
from reward_model.training.grpo.rollouts import GrpoSample, RolloutRecord
from reward_model.training.grpo.rows import SequenceRow
from reward_model.training.grpo.scoring import Scored


@dataclass
class MicroBatch:
    """Rows of one forward pass; ``advantages`` and ``weights`` are per token, flat in row order, (T,).

    ``drawn``, ``old`` and ``reference`` are log-probabilities, (T,): of the engine that drew the tokens where that is
    not the policy, of the policy that is updated from, and of the reference.
    """

    rows: list[SequenceRow]
    advantages: torch.Tensor
    weights: torch.Tensor
    drawn: torch.Tensor | None = None
    old: torch.Tensor | None = None
    reference: torch.Tensor | None = None

    def corrected_advantages(self, old: torch.Tensor, clip_max: float | None) -> torch.Tensor:
        """Advantages, weighted by :func:`~reward_model.training.grpo.maths.sampling_correction` if another engine drew
        the tokens and ``clip_max`` is given.
        """
        if self.drawn is None or clip_max is None:
            return self.advantages
        return self.advantages * sampling_correction(old, self.drawn, clip_max)


@dataclass
class ScoredRollouts:
    """The scored rollouts of one step in this process; ``rewards`` and ``advantages`` are (P, G) here, NaN = unscored.

    ``total`` counts scored rollouts over all processes.
    """

    samples: list[GrpoSample]
    groups: list[list[RolloutRecord]]
    marks: list[list[Scored]]
    rewards: torch.Tensor
    advantages: torch.Tensor
    scored: torch.Tensor
    total: int
    shared: dict[str, float] = field(default_factory=dict)

    @property
    def records(self) -> list[RolloutRecord]:
        return [r for group in self.groups for r in group]


class PromptOrder:
    """Order of the rows: every row once an epoch, shuffled anew each time; a function of seed and number alone."""

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed = num_rows, seed
        self._epoch: tuple[int, np.ndarray] | None = None

    def __call__(self, number: int) -> int:
        """The row of the ``number``-th prompt of the run."""
        epoch, place = divmod(number, self.num_rows)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)
        return int(self._epoch[1][place])


def micro_batches(experience: ScoredRollouts, size: int, device: torch.device | str) -> list[MicroBatch]:
    """All rows of scored rollouts in batches of at most ``size`` rows, with the advantage and weight of each token."""
    records, scored = experience.records, experience.scored.flatten()
    lengths = torch.tensor([r.num_tokens for r in records], dtype=torch.float64)
    weights = rollout_weights(lengths, scored, experience.total)
    advantages = experience.advantages.flatten()
    rows = [(row, k) for k, record in enumerate(records) if scored[k] for row in record.rows]
    batches = []
    for part in row_batches(rows, size):
        counts = torch.tensor([row.num_tokens for row, _ in part])
        owners = torch.tensor([k for _, k in part])
        advantage, weight = (v[owners].repeat_interleave(counts).float().to(device) for v in (advantages, weights))
        drawn = [row.drawn for row, _ in part if row.drawn is not None]
        known = torch.from_numpy(np.concatenate(drawn)).to(device) if len(drawn) == len(part) else None
        batches.append(MicroBatch([row for row, _ in part], advantage, weight, drawn=known))
    return batches


def idle_batch(row: SequenceRow, device: torch.device | str) -> MicroBatch:
    """A batch that changes nothing, for a process that has fewer than the others."""
    nothing = torch.zeros(row.num_tokens, device=device)
    return MicroBatch([row], nothing, nothing)


def row_batches(rows: Sequence[tuple[SequenceRow, int]], size: int) -> list[list[tuple[SequenceRow, int]]]:
    """Rows in batches of at most ``size``, of similar length, rows of one prompt together as far as they fit."""
    groups: dict[int, list[tuple[SequenceRow, int]]] = {}
    for row, owner in rows:
        groups.setdefault(id(row.prompt if row.prompt is not None else row), []).append((row, owner))
    parts = [g[k : k + size] for g in groups.values() for k in range(0, len(g), size)]
    parts.sort(key=lambda part: sum(len(row.ids) for row, _ in part) / len(part))
    batches: list[list[tuple[SequenceRow, int]]] = []
    for part in parts:
        if batches and len(batches[-1]) + len(part) <= size:
            batches[-1] += part
        else:
            batches.append(list(part))
    return batches
