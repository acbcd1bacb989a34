"""Material of an update: scripted episodes, or pairs, in parts of one forward pass each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reward_model.training.active.config import ActiveConfig
from reward_model.training.active.maths import (
    episode_delta,
    preference_loss,
    supervised_loss,
    turn_sums,
    turn_weights,
)
from reward_model.training.active.rollouts import Drawn
from reward_model.training.grpo.rows import SequenceRow

#: Rows -> flat log-probabilities of their learned tokens, with gradient.
Policy = Callable[[Sequence[SequenceRow]], Any]


@dataclass(frozen=True)
class PairRows:
    """A pair ready to be learned from: both episodes as rows, and as they were drawn."""

    winner: SequenceRow
    loser: SequenceRow
    better: Drawn
    worse: Drawn


@dataclass(frozen=True)
class SupervisedPart:
    """Rows of a forward pass, and the weight of each in the loss of the update."""

    rows: tuple[SequenceRow, ...]
    weights: tuple[float, ...]

    def loss(self, policy: Policy) -> tuple[torch.Tensor, dict[str, float]]:
        """The part's share of the loss, and of the numbers."""
        values = policy(self.rows)[0].split([r.num_tokens for r in self.rows])
        losses = [w * supervised_loss(v) for v, w in zip(values, self.weights, strict=True)]
        total = torch.stack(losses).sum()
        return total, {"loss": float(total.detach())}


@dataclass(frozen=True)
class PreferencePart:
    """Pairs of a forward pass.

    Attributes:
        pairs: the pairs.
        share: one over the pairs of the update, over all processes.
        config: the objective.
    """

    pairs: tuple[PairRows, ...]
    share: float
    config: ActiveConfig

    def loss(self, policy: Policy) -> tuple[torch.Tensor, dict[str, float]]:
        """The part's share of the loss, and of the numbers."""
        rows = [row for pair in self.pairs for row in (pair.winner, pair.loser)]
        values = policy(rows)[0].split([r.num_tokens for r in rows])
        losses, numbers = [], dict.fromkeys(("loss", "preference", "supervised", "right", "gap"), 0.0)
        for pair, winner, loser in zip(self.pairs, values[::2], values[1::2], strict=True):
            first, second = self._delta(winner, pair.better), self._delta(loser, pair.worse)
            gap = pair.better.judged.utility - pair.worse.judged.utility
            preference = preference_loss(first, second, beta=self.config.beta, margin=self.config.margin, gap=gap)
            supervised = supervised_loss(winner)
            losses.append(preference + self.config.supervised * supervised)
            found = {
                "loss": losses[-1],
                "preference": preference,
                "supervised": supervised,
                "right": (first > second).double(),
                "gap": first - second,
            }
            for name, value in found.items():
                numbers[name] += self.share * float(value.detach())
        return torch.stack(losses).sum() * self.share, numbers

    def _delta(self, values: torch.Tensor, drawn: Drawn) -> torch.Tensor:
        return drawn_delta(values, drawn, self.config)


def drawn_delta(values: torch.Tensor, drawn: Drawn, config: ActiveConfig) -> torch.Tensor:
    """``Delta`` of a drawn episode; the reference is the policy that drew it.

    Args:
        values: (T,) log-probabilities of its tokens now.
    """
    sums = turn_sums(values.double(), [len(t) for t in drawn.turns])
    reference = torch.tensor(drawn.reference, dtype=sums.dtype, device=sums.device)
    return episode_delta(sums, reference, turn_weights(len(drawn.turns), config.phi, config.gamma))


def in_parts(groups: Sequence[Sequence[tuple[SequenceRow, float]]], size: int) -> list[SupervisedPart]:
    """Rows and their weights in parts of at most ``size`` rows, or of one group. A group is of one video, whose frames
    are then looked at once; groups of similar length come together.
    """
    parts: list[list[tuple[SequenceRow, float]]] = []
    for group in sorted(groups, key=lambda g: max(len(row.ids) for row, _ in g)):
        if parts and len(parts[-1]) + len(group) <= size:
            parts[-1] += group
        else:
            parts.append(list(group))
    return [SupervisedPart(tuple(row for row, _ in part), tuple(w for _, w in part)) for part in parts]
