"""The loss of interactive preference optimisation as pure functions of tensors.

``Delta`` of an episode is the weighted sum, over the tokens the judge wrote in each turn, of the log-ratio to the
reference. The tokens of the environment do not enter: their probability is the environment's and cancels in the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import softplus

Phi = Literal["one", "dmpo"]


def dmpo_weights(num_turns: int, gamma: float) -> list[float]:
    """Weight of each of ``num_turns`` turns, ``gamma^j (1 - gamma^(N-j)) / (1 - gamma^N)``; with ``gamma=1`` its limit
    ``(N - j) / N`` (DMPO, arXiv 2406.14868).

    Example:
        >>> dmpo_weights(4, 1.0)
        [1.0, 0.75, 0.5, 0.25]
    """
    if num_turns < 1 or not 0 < gamma <= 1:
        raise ValueError(f"weights need num_turns={num_turns} >= 1 and 0 < gamma={gamma} <= 1")
    if gamma == 1:
        return [(num_turns - j) / num_turns for j in range(num_turns)]
    return [gamma**j * (1 - gamma ** (num_turns - j)) / (1 - gamma**num_turns) for j in range(num_turns)]


def turn_weights(num_turns: int, phi: Phi, gamma: float = 0.7) -> list[float]:
    """Weight of each turn in ``Delta``: all 1, or :func:`dmpo_weights`."""
    return dmpo_weights(num_turns, gamma) if phi == "dmpo" else [1.0] * num_turns


def turn_sums(values: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Sums of token values over turns, (N,).

    Args:
        values: (T,) of one episode, in order.
        lengths: tokens of each of its N turns.
    """
    return torch.stack([part.sum() for part in values.split(list(lengths))])


def episode_delta(sums: torch.Tensor, reference: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """``Delta`` of an episode, a scalar.

    Args:
        sums, reference: (N,) log-probability of each turn under the policy and under the reference.
        weights: N weights of turns.
    """
    return (torch.as_tensor(weights, dtype=sums.dtype, device=sums.device) * (sums - reference)).sum()


def preference_loss(
    winner: torch.Tensor, loser: torch.Tensor, *, beta: float, margin: float = 0.0, gap: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """``-log sigma(beta (Delta_w - Delta_l) - margin (U_w - U_l))`` of each pair.

    Args:
        winner, loser: ``Delta`` of the better and the worse episode.
        margin: weight of the utilities (``delta`` of the design).
        gap: ``U_w - U_l``.
    """
    return softplus(-(beta * (winner - loser) - margin * gap))


def supervised_loss(values: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of the tokens of an episode, a scalar.

    Args:
        values: (T,) log-probabilities.
    """
    return -values.sum() / max(1, len(values))
