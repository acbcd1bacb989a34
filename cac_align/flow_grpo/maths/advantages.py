"""Rewards to advantages: against the group or against all, with every estimator named.

Groups are given by a label per sample, so samples may come in any order and from any rank. A reward that is None (the
judge could not judge) takes no part in mean or std, and its sample has advantage 0 and is marked as not valid.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

Baseline = Literal["group", "global"]
StdEstimator = Literal["group", "global", "none"]


@dataclass(frozen=True)
class Advantages:
    """``values`` (N,) float64 and ``valid`` (N,) bool, in the order of the rewards.

    ``zero_variance`` lists the groups that teach nothing: all their known rewards are equal, or fewer than two are
    known. ``num_groups`` counts all groups.
    """

    values: torch.Tensor
    valid: torch.Tensor
    zero_variance: tuple[Hashable, ...]
    num_groups: int

    @property
    def zero_variance_fraction(self) -> float:
        return len(self.zero_variance) / max(self.num_groups, 1)


def compute_advantages(
    rewards: Sequence[float | None],
    groups: Sequence[Hashable],
    *,
    baseline: Baseline = "group",
    std: StdEstimator = "group",
    ddof: int = 0,
    eps: float = 1e-4,
    clip: float | None = 5.0,
) -> Advantages:
    """(reward - mean) / (std + eps), clipped to +-clip.

    Args:
        rewards: one per sample; None if there is none.
        groups: label of each sample's group, usually its prompt.
        baseline: the mean is that of the group (per prompt) or of all rewards.
        std: standard deviation of the group, of all rewards, or 1.
        ddof: the sum of squares is divided by count - ddof. Public Flow-GRPO: 0, with eps 1e-4.
        eps: added to the std.
        clip: bound of the result; None for none.

    Returns:
        With the group baseline, a group of equal rewards has advantages of exactly 0.

    Raises:
        ValueError: unequal lengths, an unknown estimator, a reward that is NaN or infinite, or a bad number.

    Example:
        >>> compute_advantages([1.0, 3.0, None, 5.0, 5.0], "aaabb", eps=0.0).values.tolist()
        [-1.0, 1.0, 0.0, 0.0, 0.0]
    """
    _check(rewards, groups, baseline, std, ddof, eps, clip)
    values, valid = _read(rewards)
    known = valid.nonzero().flatten().tolist()
    result, flat = torch.zeros_like(values), []
    members = _members(groups)
    for label, all_rows in members.items():
        rows = [k for k in all_rows if valid[k]]
        # Told by equality and not by a std of 0: the mean of equal numbers may differ from them in the last digit,
        # which a small eps would blow up.
        equal = len({float(values[k]) for k in rows}) < 2
        if equal:
            flat.append(label)
        if rows and not (equal and baseline == "group"):
            deviation = values[rows] - values[rows if baseline == "group" else known].mean()  # (R,)
            spread = 1.0 if std == "none" else _std(values[rows if std == "group" else known], ddof) + eps
            result[rows] = deviation / spread
    return Advantages(_clipped(result, clip), valid, tuple(flat), len(members))


def combine_advantages(
    parts: Mapping[str, Sequence[float | None]],
    groups: Sequence[Hashable],
    *,
    weights: Mapping[str, float] | None = None,
    clip: float | None = 5.0,
    **options: object,
) -> Advantages:
    """Several rewards, each normalised on its own and then summed (GDPO, arXiv 2601.05242), so that none drowns the
    others by its spread.

    Args:
        parts: the scores of each reward, all in the order of ``groups``. A sample counts only if every part is known.
        weights: factor of each part; 1 by default. The sum is not divided: one reward of weight 1 is exactly
            :func:`compute_advantages`.
        clip: bound of the sum.
        **options: ``baseline``, ``std``, ``ddof`` and ``eps`` of :func:`compute_advantages`.

    Returns:
        A group is flagged as without variance only if it is so for every part.
    """
    if not parts:
        raise ValueError("parts is empty; pass the scores of at least one reward")
    factors = dict.fromkeys(parts, 1.0) if weights is None else dict(weights)
    if set(factors) != set(parts):
        raise ValueError(f"weights name {sorted(factors)}, the rewards are {sorted(parts)}; give one weight per reward")
    complete = [all(v is not None for v in row) for row in zip(*parts.values(), strict=True)]
    each = {
        name: compute_advantages(
            [v if ok else None for v, ok in zip(scores, complete, strict=True)],
            groups,
            clip=None,
            **options,  # type: ignore[arg-type]
        )
        for name, scores in parts.items()
    }
    total = torch.stack([factors[name] * part.values for name, part in each.items()]).sum(0)
    first = next(iter(each.values()))
    flat = tuple(g for g in first.zero_variance if all(g in part.zero_variance for part in each.values()))
    return Advantages(_clipped(total, clip), first.valid, flat, first.num_groups)


def _read(rewards: Sequence[float | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Values (N,) float64, 0 where there is none, and validity (N,) bool."""
    values = torch.tensor([0.0 if r is None else float(r) for r in rewards], dtype=torch.float64)
    return values, torch.tensor([r is not None for r in rewards], dtype=torch.bool)


def _clipped(values: torch.Tensor, clip: float | None) -> torch.Tensor:
    return values if clip is None else values.clamp(-clip, clip)


def _members(groups: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    members: dict[Hashable, list[int]] = {}
    for row, label in enumerate(groups):
        members.setdefault(label, []).append(row)
    return members


def _std(values: torch.Tensor, ddof: int) -> torch.Tensor:
    squares = (values - values.mean()).square().sum()
    return (squares / max(len(values) - ddof, 1)).sqrt()


def _check(
    rewards: Sequence[float | None],
    groups: Sequence[Hashable],
    baseline: str,
    std: str,
    ddof: int,
    eps: float,
    clip: float | None,
) -> None:
    if len(rewards) != len(groups):
        raise ValueError(f"{len(rewards)} rewards for {len(groups)} samples; pass one reward or None per sample")
    for name, value, kind in (("baseline", baseline, Baseline), ("std", std, StdEstimator)):
        if value not in get_args(kind):
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(get_args(kind))}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof={ddof} must be 0 (population) or 1 (sample)")
    if not eps >= 0 or (clip is not None and not clip > 0):
        raise ValueError(f"eps={eps} must be at least 0 and clip={clip} above 0 (None for no clip)")
    for row, reward in enumerate(rewards):
        if reward is not None and not math.isfinite(reward):
            raise ValueError(f"reward of sample {row} is {reward}; a sample that cannot be scored is None")
