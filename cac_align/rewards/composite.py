"""Several rewards as one, in [0, 1]: their mean, or their standing in the group of videos of one prompt."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from cac_align.rewards.base import (
    Evaluation,
    Reward,
    RewardError,
    check_callable,
    check_reward,
    demo_note,
    evaluate,
    make_ready,
    reward_name,
)
from cac_align.rewards.calibration import Calibration
from cac_align.rewards.model_reward import read_files
from cac_align.rewards.normalise import group_zscores, mean_of_parts, normal_cdf, per_reward_scores

if TYPE_CHECKING:
    import numpy as np

    from reward_model.schema import Verdict

logger = logging.getLogger(__name__)

NORMALISATIONS = ("affine", "zscore", "per_reward")
POLICIES = ("none", "drop", "raise")


class CompositeReward:
    """Several rewards as one. The parts are kept: ``evaluate(...).parts`` holds every member's scores under its name,
    and its sub-scores under ``name/axis``.

    Args:
        rewards: at least one reward, in a list or by name.
        weights: weights of the rewards, by name or in their order, zero or more; None: all equal. They need not sum to
            1. A reward of weight 0 is asked and reported and counts for nothing.
        normalise: how scores of different kinds meet.

            ``"affine"``: each reward answers in [0, 1] already; their weighted mean (the paper's "mean of normalised
            scores"). The only one in which the score of a video does not depend on the others.

            ``"zscore"``: that mean, standardised in the group of videos of one prompt. A trainer that standardises by
            itself needs ``"affine"`` for the same result.

            ``"per_reward"``: each reward standardised in its group, then averaged, so that a reward counts by its
            weight and not by its spread (GDPO, arXiv 2601.05242, without the whitening of the batch that ends it).
            Members may answer in any scale.

            Standardised values are not rewards in [0, 1]. They are in ``evaluate(...).group_scores``; the scores are
            their normal distribution function, which keeps their order and is 0.5 at the group's mean.
        calibration: a fixed scale for every reward of weight above 0 (:mod:`cac_align.rewards.calibration`), or the
            file of one; with ``"affine"`` only. A score counts by how far it is above the base model's median: 0.5 is
            the median, each tenth a robust standard deviation, five of them the most. The mean of these is the paper's
            "mean of normalised scores" on a scale that no training moves; members may answer in any scale. What each
            contributed is in ``parts`` under ``name/calibrated``.
        on_failure: what becomes of a video that a reward of weight above 0 could not judge. ``"none"``: no score.
            ``"drop"``: the mean of the others, reported in ``reasons`` and logged; it is then on another footing than
            its group, least so with ``"per_reward"``. ``"raise"``: RewardError.

    Raises:
        RewardError: if ``rewards`` is empty or holds something that cannot be called; when called, a member breaks its
            contract or answers outside [0, 1], or with ``on_failure="raise"`` could not judge a video.
        ValueError: an unknown option, or weights that do not fit; when called, groups of one video.
        CalibrationError: if the calibration cannot be read, or is that of other rewards.

    Example:
        >>> half = lambda videos, prompts=None, *, fps, **kwargs: [0.5] * len(videos)
        >>> one = lambda videos, prompts=None, *, fps, **kwargs: [1.0] * len(videos)
        >>> CompositeReward([half, one])([None, None], fps=16)
        [0.75, 0.75]
        >>> CompositeReward({"a": half, "b": one}, weights={"a": 3, "b": 1})([None], fps=16)
        [0.625]
    """

    takes_videos = True

    def __init__(
        self,
        rewards: Sequence[Reward] | Mapping[str, Reward],
        *,
        weights: Mapping[str, float] | Sequence[float] | None = None,
        normalise: Literal["affine", "zscore", "per_reward"] = "affine",
        on_failure: Literal["none", "drop", "raise"] = "none",
        calibration: Calibration | str | os.PathLike[str] | None = None,
    ) -> None:
        if not rewards:
            raise RewardError("a composite reward needs at least one reward, got an empty list")
        if normalise not in NORMALISATIONS:
            raise ValueError(f"normalise={normalise!r} must be one of {', '.join(NORMALISATIONS)}")
        if on_failure not in POLICIES:
            raise ValueError(f"on_failure={on_failure!r} must be one of {', '.join(POLICIES)}")
        self.rewards = list(rewards.values()) if isinstance(rewards, Mapping) else list(rewards)
        for reward in self.rewards:
            check_callable(reward)
        own_names = [reward_name(reward) for reward in self.rewards]
        self.names: list[str] = list(rewards) if isinstance(rewards, Mapping) else _distinct(own_names)
        self.weights = _weights(weights, self.names)
        self.normalise, self.on_failure = normalise, on_failure
        self.calibration = self._opened_calibration(calibration)
        self.name = _title(self.names, self.weights, "calibrated mean" if self.calibration else normalise)

    def _opened_calibration(self, given: Calibration | str | os.PathLike[str] | None) -> Calibration | None:
        """The calibration, seen to be that of the members that count."""
        if given is None:
            return None
        if self.normalise != "affine":
            raise ValueError(
                f"normalise={self.normalise!r} standardises in the group, which leaves nothing to a calibration; use "
                "normalise='affine' with it"
            )
        found = given if isinstance(given, Calibration) else Calibration.load(given)
        members = zip(self.names, self.rewards, self.weights, strict=True)
        found.check({name: reward for name, reward, weight in members if weight > 0})
        return found

    def check_ready(self) -> None:
        """Looks for what would keep a member from working, without loading models."""
        for name, reward in zip(self.names, self.rewards, strict=True):
            try:
                check_reward(reward)
            except RewardError:
                raise
            except ValueError as error:
                raise type(error)(f"reward {name!r}: {error}") from error

    def make_ready(self) -> None:
        """Lets every member load what it needs."""
        for reward in self.rewards:
            make_ready(reward)

    @property
    def demo_note(self) -> str | None:
        """Notes of the members for reports; None if there are none."""
        notes = [note for reward in self.rewards if (note := demo_note(reward))]
        return "; ".join(notes) or None

    def __repr__(self) -> str:
        listed = ", ".join(
            f"{n!r}: {w:g} x {r!r}" for n, w, r in zip(self.names, self.weights, self.rewards, strict=True)
        )
        told = f", calibration={self.calibration.digest!r}" if self.calibration else ""
        return f"CompositeReward({{{listed}}}, normalise={self.normalise!r}, on_failure={self.on_failure!r}{told})"

    def __call__(
        self,
        videos: Sequence[np.ndarray],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        groups: Sequence[Hashable] | None = None,
        **kwargs: object,
    ) -> list[float | None]:
        """The score of each video, in [0, 1]. Arguments as in :meth:`evaluate`."""
        return self.evaluate(videos, prompts, fps=fps, groups=groups).scores

    def evaluate(
        self,
        videos: Sequence[Any],
        prompts: Sequence[str] | str | None = None,
        *,
        fps: float | None = None,
        groups: Sequence[Hashable] | None = None,
    ) -> Evaluation:
        """Scores with every part, the first verdict any member gave, and what the members could not judge.

        Args:
            videos: (T, H, W, 3) uint8 each, :class:`reward_model.video.Video`, or paths. A group must come whole, in
                one call.
            prompts: one text per video; one string serves all.
            fps: frames per second. Files bring their own.
            groups: which group each video belongs to; None: equal prompts are a group. Not used by ``"affine"``.
        """
        prompts = [prompts] * len(videos) if isinstance(prompts, str) else prompts
        members = self._groups(len(videos), prompts, groups)  # refused before a judge is asked
        frames, rate, unreadable = read_files(videos, fps)
        answers = [_answer(r, frames, prompts, rate, unreadable) for r in self.rewards]
        parts = self._parts(answers)
        if self.calibration is not None:
            answers = [self._calibrated(n, w, a) for n, w, a in zip(self.names, self.weights, answers, strict=True)]
            parts |= {
                f"{n}/calibrated": a.scores for n, w, a in zip(self.names, self.weights, answers, strict=True) if w > 0
            }
        if self.normalise != "per_reward":
            self._check_range(answers)
        failed = self._failures(answers, len(videos))
        counted = [
            [None if self.on_failure != "drop" and failed[k] else score for k, score in enumerate(answer.scores)]
            for answer in answers
        ]
        scores, group_scores = self._combine(counted, members)
        verdicts = [_first([answer.verdicts[k] for answer in answers]) for k in range(len(videos))]
        missing = [self._missing(answers, k) for k in range(len(videos))]
        return Evaluation(scores, verdicts, missing, parts, group_scores)

    def _calibrated(self, name: str, weight: float, answer: Evaluation) -> Evaluation:
        """A member's answer with its scores on the fixed scale; that of a member of weight 0 as it is."""
        if self.calibration is None or weight == 0:
            return answer
        scale = self.calibration.scales[name]
        return replace(answer, scores=[None if s is None else scale.place(s) for s in answer.scores])

    def _parts(self, answers: Sequence[Evaluation]) -> dict[str, list[float | None]]:
        """The scores of every member, and those of its own parts, by name."""
        parts: dict[str, list[float | None]] = {}
        for name, answer in zip(self.names, answers, strict=True):
            parts |= {name: answer.scores, **{f"{name}/{axis}": part for axis, part in answer.parts.items()}}
        return parts

    def _missing(self, answers: Sequence[Evaluation], k: int) -> str | None:
        """Members without a score for video ``k``, with their reasons."""
        lost = [(n, a.reasons[k]) for n, a in zip(self.names, answers, strict=True) if a.scores[k] is None]
        return "; ".join(f"{name}: {reason}" for name, reason in lost) or None

    def _combine(
        self, counted: list[list[float | None]], groups: Sequence[Hashable]
    ) -> tuple[list[float | None], list[float | None] | None]:
        """Scores in [0, 1] of all videos, and what they were before the distribution function."""
        if self.normalise == "per_reward":
            values = per_reward_scores(counted, self.weights, groups)
        else:
            values = mean_of_parts(counted, self.weights)
            if self.normalise == "affine":
                return values, None
            values = group_zscores(values, groups)
        return [None if z is None else normal_cdf(z) for z in values], values

    def _groups(
        self, num_videos: int, prompts: Sequence[str] | None, groups: Sequence[Hashable] | None
    ) -> Sequence[Hashable]:
        if self.normalise == "affine":
            return [None] * num_videos
        found = groups if groups is not None else prompts
        if found is None or len(found) != num_videos:
            raise ValueError(
                f"normalise={self.normalise!r} compares the videos of a group: pass one prompt (or groups=...) per "
                f"video, got {'none' if found is None else len(found)} for {num_videos} videos"
            )
        alone = [group for group, size in Counter(found).items() if size == 1]
        if alone:
            raise ValueError(
                f"normalise={self.normalise!r} needs at least two videos of every prompt in one call, there is one of "
                f"{str(alone[0])[:80]!r}; pass whole groups, or use normalise='affine'"
            )
        return found

    def _check_range(self, answers: Sequence[Evaluation]) -> None:
        for name, answer in zip(self.names, answers, strict=True):
            for position, score in enumerate(answer.scores):
                if score is not None and not -1e-6 <= score <= 1 + 1e-6:
                    raise RewardError(
                        f"reward {name!r} returned {score:.4g} for video {position}; "
                        "rewards that are averaged must be in [0, 1]: rescale it, or use normalise='per_reward'"
                    )

    def _failures(self, answers: Sequence[Evaluation], num_videos: int) -> list[bool]:
        """Videos that lack the score of a reward that counts; reported, or raised."""
        failed = [False] * num_videos
        for name, weight, answer in zip(self.names, self.weights, answers, strict=True):
            lost = [k for k, score in enumerate(answer.scores) if score is None]
            if not lost or weight == 0:
                continue
            said = f"reward {name!r} could not judge {len(lost)} of {num_videos} videos (video {lost[0]}: "
            said += f"{answer.reasons[lost[0]]})"
            if self.on_failure == "raise":
                raise RewardError(said)
            logger.warning("%s; %s", said, "left out" if self.on_failure == "drop" else "they have no score")
            for k in lost:
                failed[k] = True
        return failed


def _answer(
    reward: Reward,
    videos: Sequence[Any],
    prompts: Sequence[str] | None,
    fps: float,
    unreadable: Mapping[int, str],
) -> Evaluation:
    """Scores of a member for the readable videos, with the reasons for the others."""
    if not unreadable:
        return evaluate(reward, videos, prompts, fps=fps)
    kept = [k for k in range(len(videos)) if k not in unreadable]
    some = None if prompts is None else [prompts[k] for k in kept]
    found = evaluate(reward, [videos[k] for k in kept], some, fps=fps) if kept else Evaluation([], [], [])

    def spread(values: Sequence[Any]) -> list[Any]:
        by_place = dict(zip(kept, values, strict=True))
        return [by_place.get(k) for k in range(len(videos))]

    reasons = [unreadable.get(k, reason) for k, reason in enumerate(spread(found.reasons))]
    parts = {name: spread(values) for name, values in found.parts.items()}
    return Evaluation(spread(found.scores), spread(found.verdicts), reasons, parts)


def _first(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    return next((v for v in verdicts if v is not None), None)


def _weights(weights: Mapping[str, float] | Sequence[float] | None, names: list[str]) -> list[float]:
    """One weight per reward, in order."""
    if weights is None:
        return [1.0] * len(names)
    if isinstance(weights, Mapping):
        if set(weights) != set(names):
            raise ValueError(f"weights are given for {sorted(weights)}, the rewards are {sorted(names)}; give one each")
        weights = [weights[name] for name in names]
    found = [float(w) for w in weights]
    if len(found) != len(names) or not all(math.isfinite(w) and w >= 0 for w in found) or sum(found) == 0:
        raise ValueError(
            f"weights={found} must be one finite number of 0 or more for each of the {len(names)} rewards, not all 0"
        )
    return found


def _title(names: list[str], weights: list[float], normalise: str) -> str:
    equal = len(set(weights)) == 1
    listed = ", ".join(n if equal else f"{w:g} {n}" for n, w in zip(names, weights, strict=True))
    return f"{'mean' if normalise == 'affine' else normalise}({listed})"


def _distinct(names: list[str]) -> list[str]:
    """The same names, numbered where they repeat."""
    return [n if names.count(n) == 1 else f"{n} {names[: k + 1].count(n)}" for k, n in enumerate(names)]
