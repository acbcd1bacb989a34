"""Several rewards as one: the mean of their scores, which all live in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cac_align.rewards.base import Evaluation, RewardError, evaluate, reward_name

if TYPE_CHECKING:
    import numpy as np


class CompositeReward:
    """The mean of several rewards. A video that one of them could not judge has no mean: its score is None.

    Args:
        rewards: at least one reward; all must answer in [0, 1], or their mean would mean nothing.

    Raises:
        RewardError: ``rewards`` is empty; when called, a member answers outside [0, 1].

    Example:
        >>> half = lambda videos, prompts=None, *, fps, **kwargs: [0.5] * len(videos)
        >>> one = lambda videos, prompts=None, *, fps, **kwargs: [1.0] * len(videos)
        >>> CompositeReward([half, one])([None, None], fps=16)
        [0.75, 0.75]
    """

    def __init__(self, rewards: Sequence[Any]) -> None:
        if not rewards:
            raise RewardError("a composite reward needs at least one reward, got an empty list")
        self.rewards = list(rewards)
        self.names = _distinct([reward_name(r) for r in self.rewards])
        self.name = "mean(" + ", ".join(self.names) + ")"

    def __call__(
        self, videos: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, fps: float, **kwargs: Any
    ) -> list[float | None]:
        return self.evaluate(videos, prompts, fps=fps).scores

    def evaluate(self, videos: Sequence[np.ndarray], prompts: Sequence[str] | None = None, *, fps: float) -> Evaluation:
        """Scores with each member's part, the first verdict any member gave, and the reasons of those that gave
        none."""
        answers = [evaluate(r, videos, prompts, fps=fps) for r in self.rewards]
        parts = {name: answer.scores for name, answer in zip(self.names, answers, strict=True)}
        for name, scores in parts.items():
            for position, score in enumerate(scores):
                if score is not None and not -1e-6 <= score <= 1 + 1e-6:
                    raise RewardError(
                        f"reward {name!r} returned {score:.4g} for video {position}; "
                        "rewards that are averaged must be in [0, 1]: rescale it"
                    )
        scores, verdicts, reasons = [], [], []
        for k in range(len(videos)):
            values = [answer.scores[k] for answer in answers]
            known = [v for v in values if v is not None]
            scores.append(sum(known) / len(known) if len(known) == len(values) else None)
            verdicts.append(next((a.verdicts[k] for a in answers if a.verdicts[k] is not None), None))
            missing = [f"{n}: {a.reasons[k]}" for n, a in zip(self.names, answers, strict=True) if a.scores[k] is None]
            reasons.append("; ".join(missing) or None)
        return Evaluation(scores, verdicts, reasons, parts)


def _distinct(names: list[str]) -> list[str]:
    """The same names, numbered where they repeat."""
    return [n if names.count(n) == 1 else f"{n} {names[: k + 1].count(n)}" for k, n in enumerate(names)]
