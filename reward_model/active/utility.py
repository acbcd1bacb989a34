"""Worth of an episode: task success, informative evidence and the cost of asking for it (active evidence
inquiry, AEI; the terms are the abstract's, the formula is this project's). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reward_model.terminal.described import check_settings, described, setting

#: Beliefs are kept this far from 0 and 1, so that a logarithm exists.
_LEAST = 1e-12


@described
@dataclass(frozen=True)
class UtilityConfig:
    """Weights of the utility."""

    information: Literal["belief", "entropy", "none"] = "belief"
    """Evidence is paid by how far it moves the belief towards the truth (belief), by how much surer it makes (entropy,
    an ablation: it pays for confident errors), or not at all (none)."""
    weight_information: float = setting(0.2, least=0)
    """Weight of the information."""
    cost_operator: float = setting(0.05, least=0)
    """Cost of an operator."""
    cost_frames: float = setting(0.05, least=0)
    """Cost of the frames of a full view; fewer cost their share."""
    cost_redundant: float = setting(0.10, least=0)
    """Cost of a look that shows nothing new; of others the share that was seen before."""
    cost_format: float = setting(0.5, least=0)
    """Cost of an answer or operator that cannot be read."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class LookValue:
    """One operator as the utility sees it.

    Attributes:
        novelty: share of its frames that were new; 0 if it was refused.
        num_frames: frames it showed.
        before, after: probability of ``abnormal`` before and after it.
    """

    novelty: float
    num_frames: int
    before: float
    after: float


def binary_entropy(p: float) -> float:
    """Entropy of a yes-or-no question in bits."""
    return sum(-x * math.log2(x) for x in (p, 1 - p) if x > 0)


def information_gain(look: LookValue, *, abnormal: bool, kind: str) -> float:
    """Information of one look, in bits, between -1 and 1, before novelty and weight.

    Args:
        abnormal: truth about the video.
        kind: ``belief``, ``entropy`` or ``none``.
    """
    if kind == "none":
        return 0.0
    if kind == "entropy":
        gain = binary_entropy(look.before) - binary_entropy(look.after)
    else:
        before, after = (p if abnormal else 1 - p for p in (look.before, look.after))
        gain = math.log2(max(after, _LEAST)) - math.log2(max(before, _LEAST))
    return min(max(gain, -1.0), 1.0)


def look_cost(look: LookValue, max_view_frames: int, config: UtilityConfig) -> float:
    """Cost of one operator."""
    frames = config.cost_frames * look.num_frames / max_view_frames
    return config.cost_operator + frames + config.cost_redundant * (1 - look.novelty)


def utility(
    looks: Sequence[LookValue],
    *,
    correct: bool,
    abnormal: bool,
    max_view_frames: int = 16,
    format_error: bool = False,
    config: UtilityConfig | None = None,
) -> float:
    """Utility of an episode.

    Args:
        looks: its operators in order.
        correct: whether its answer states the right status.
        abnormal: truth about the video; no window and no box enters.
        max_view_frames: frames of a full view.
        format_error: whether it ended with a text that cannot be read.

    Example:
        >>> round(utility([LookValue(1, 16, 0.5, 0.8), LookValue(0.5, 8, 0.8, 0.9)], correct=True, abnormal=True), 4)
        0.9276
    """
    config = config or UtilityConfig()
    gains = math.fsum(k.novelty * information_gain(k, abnormal=abnormal, kind=config.information) for k in looks)
    costs = math.fsum(look_cost(k, max_view_frames, config) for k in looks)
    return float(correct) + config.weight_information * gains - costs - config.cost_format * format_error
