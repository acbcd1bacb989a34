"""The utility on a problem small enough to be enumerated: a hidden status, a few views, a few things each may show.

What a policy that maximises the utility would do is found exactly here, by looking ahead over all observations, so that
the utility itself can be checked: which behaviour does it ask for?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reward_model.active.utility import LookValue, UtilityConfig, information_gain, look_cost

Choice = int | Literal["normal", "abnormal"]


@dataclass(frozen=True)
class TabularProblem:
    """A problem of two statuses.

    Attributes:
        prior: probability of ``abnormal``.
        likelihoods: for each view (2, observations): the probabilities of what it shows, given normal and abnormal.
        num_frames: for each view, the frames it costs.
        max_operators: views before the answer has to come.
        max_view_frames: frames of a full view.
        believed: the likelihoods that the judge goes by when it revises its belief; None: the true ones.
    """

    prior: float
    likelihoods: tuple[np.ndarray, ...]
    num_frames: tuple[int, ...]
    max_operators: int = 2
    max_view_frames: int = 16
    believed: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        for k, table in enumerate((*self.likelihoods, *(self.believed or ()))):
            if table.ndim != 2 or len(table) != 2 or not np.allclose(table.sum(1), 1) or (table < 0).any():
                raise ValueError(f"view {k} needs two rows of probabilities that sum to 1, got shape {table.shape}")
        if len(self.num_frames) != len(self.likelihoods) or not 0 < self.prior < 1:
            raise ValueError("a problem needs a number of frames for each view, and a prior between 0 and 1")

    def posterior(self, before: float, view: int, observation: int) -> float:
        """Probability of ``abnormal`` after an observation."""
        return _bayes(before, self.likelihoods[view][:, observation])

    def belief(self, before: float, view: int, observation: int) -> float:
        """The judge's own probability of ``abnormal`` after an observation."""
        return _bayes(before, (self.believed or self.likelihoods)[view][:, observation])


def _bayes(before: float, likelihoods: np.ndarray) -> float:
    normal, abnormal = likelihoods
    joint = before * abnormal
    return float(joint / (joint + (1 - before) * normal))


#: What was seen so far -> what to do: a view, or an answer.
Plan = Mapping[tuple[tuple[int, int], ...], Choice]


def best_plan(problem: TabularProblem, config: UtilityConfig | None = None) -> tuple[float, Plan]:
    """Expected utility of the best policy, and that policy, by looking ahead over all histories.

    A view that was taken before shows the same thing again and is redundant, as a frame that was seen is.
    """
    settings, plan = config or UtilityConfig(), dict[tuple[tuple[int, int], ...], Choice]()

    def value(history: tuple[tuple[int, int], ...], chance: float, belief: float) -> float:
        """Best expected utility from here on, ``abnormal`` with probability ``chance``."""
        options: dict[Choice, float] = {"normal": 1 - chance, "abnormal": chance}
        if len(history) < problem.max_operators:
            options.update({view: look(history, chance, belief, view) for view in range(len(problem.likelihoods))})
        best = max(options.values())
        plan[history] = next(choice for choice, worth in options.items() if worth == best)
        return best

    def look(history: tuple[tuple[int, int], ...], chance: float, belief: float, view: int) -> float:
        known = dict(history)
        if view in known:
            again = LookValue(0.0, problem.num_frames[view], belief, belief)
            cost = look_cost(again, problem.max_view_frames, settings)
            return value((*history, (view, known[view])), chance, belief) - cost
        total = 0.0
        for observation, (normal, abnormal) in enumerate(problem.likelihoods[view].T):
            share = chance * abnormal + (1 - chance) * normal
            if share <= 0:
                continue
            truly = problem.posterior(chance, view, observation)
            after = problem.belief(belief, view, observation)
            one = LookValue(1.0, problem.num_frames[view], belief, after)
            gains = [information_gain(one, abnormal=truth, kind=settings.information) for truth in (False, True)]
            gain = truly * gains[1] + (1 - truly) * gains[0]
            later = value((*history, (view, observation)), truly, after)
            cost = look_cost(one, problem.max_view_frames, settings)
            total += share * (settings.weight_information * gain - cost + later)
        return float(total)

    return value((), problem.prior, problem.prior), plan
