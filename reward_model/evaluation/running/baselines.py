"""Baselines for a judge: constants, chance, its own simpler forms, and scores turned into a status by a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reward_model.digests import array_digest
from reward_model.evaluation.benches.bench import Bench
from reward_model.evaluation.metrics.classification import check_pair
from reward_model.evaluation.running.runner import Scorer
from reward_model.judge import Rates, TwoTurnJudge
from reward_model.schema import Status, Verdict


def single_turn(judge: TwoTurnJudge) -> TwoTurnJudge:
    """The same model asked once: turn one decides."""
    return TwoTurnJudge(judge.backend, judge.config, num_turns=1)


def without_reasoning(judge: TwoTurnJudge) -> TwoTurnJudge:
    """The same model without chain of thought: the likelier verdict word decides, no window, no second turn."""
    return TwoTurnJudge(judge.backend, judge.config, reasoning=False, all_readouts=False)


class ConstantJudge:
    """Says the same of every video."""

    def __init__(self, status: Status) -> None:
        if status not in ("normal", "abnormal"):
            raise ValueError(f"status={status!r} must be 'normal' or 'abnormal'")
        self.status: Status = status

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[Verdict]:
        """One verdict per video."""
        return [_verdict(self.status, float(self.status == "normal"), "constant") for _ in videos]


class RandomJudge:
    """A fair coin. The same video has the same verdict in every run and batch."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[Verdict]:
        """One verdict per video."""
        draws = [self._draw(video) for video in videos]
        return [_verdict("normal" if d >= 0.5 else "abnormal", d, "random") for d in draws]

    def _draw(self, video: np.ndarray) -> float:
        return float(np.random.default_rng([self.seed, int(array_digest(video)[:16], 16)]).random())


@dataclass(frozen=True)
class Threshold:
    """Scores at or above ``value`` are normal. ``balanced_accuracy`` is that on the ``num`` videos it was set on."""

    value: float
    balanced_accuracy: float
    num: int


def fit_threshold(scores: ArrayLike, normal: ArrayLike) -> Threshold:
    """The threshold with the best balanced accuracy, midway between neighbouring scores; of equals the middle one.

    Args:
        scores: (N,) finite, high means normal.
        normal: (N,) booleans.

    Raises:
        ValueError: if a class is missing, or a score is NaN or infinite.

    Example:
        >>> fit_threshold([0.0, 0.25, 0.75, 1.0], [False, False, True, True])
        Threshold(value=0.5, balanced_accuracy=1.0, num=4)
    """
    values, labels = np.asarray(scores, float), np.asarray(normal, bool)
    check_pair(values, labels)
    if not labels.any() or labels.all() or not np.isfinite(values).all():
        raise ValueError("a threshold needs finite scores of normal and of abnormal videos")
    distinct = np.unique(values)
    cuts = np.concatenate([[distinct[0]], (distinct[1:] + distinct[:-1]) / 2, [np.nextafter(distinct[-1], np.inf)]])
    passed = values[None, :] >= cuts[:, None]
    balanced = (passed[:, labels].mean(axis=1) + (~passed)[:, ~labels].mean(axis=1)) / 2
    best = np.flatnonzero(balanced >= balanced.max() - 1e-12)
    chosen = best[(len(best) - 1) // 2]
    return Threshold(float(cuts[chosen]), float(balanced[chosen]), len(values))


class ThresholdJudge:
    """A reward turned into a judge: normal where its score reaches a threshold.

    Args:
        reward: ``reward(videos, prompts, fps=...)`` gives a score or None each; one with ``explain`` gives the reason
            of a missing score too.
        threshold: set by :func:`calibrate`.
        name: name of the readout, for the rows.
        calibrated_on: hashes of the videos the threshold was set on; asked about one of those, it raises ValueError.
    """

    def __init__(
        self,
        reward: Scorer,
        threshold: Threshold,
        name: str = "threshold",
        calibrated_on: frozenset[str] = frozenset(),
    ) -> None:
        self.reward, self.threshold, self.name, self.calibrated_on = reward, threshold, name, calibrated_on

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[Verdict]:
        """One verdict per video; without a score it has no status and says why."""
        if any(array_digest(video) in self.calibrated_on for video in videos):
            raise ValueError("this video set the threshold; a bench must not hold videos of its calibration bench")
        return [self._decide(score, reason) for score, reason in _scored(self.reward, videos, prompts, fps)]

    def _decide(self, score: float | None, reason: str | None) -> Verdict:
        details = {"threshold": self.threshold.value, "calibrated_on": self.threshold.num}
        describe = getattr(self.reward, "describe", None)
        details |= {"model": describe()} if callable(describe) else {}
        if score is None or not np.isfinite(score):
            return Verdict(None, None, readout=self.name, error=reason or "no score", provenance=details)
        return _verdict("normal" if score >= self.threshold.value else "abnormal", score, self.name, details)


def calibrate(reward: Scorer, bench: Bench, *, batch_size: int = 16, name: str = "threshold") -> ThresholdJudge:
    """Sets the threshold on a separate bench. The judge refuses videos of that bench afterwards.

    Args:
        reward: as in :class:`ThresholdJudge`.
        bench: for instance a :class:`~reward_model.evaluation.CalibrationBench`.

    Raises:
        ValueError: too few videos could be scored.
    """
    scores, normal, seen = [], [], set()
    for start in range(0, len(bench), batch_size):
        videos = [bench[k] for k in range(start, min(start + batch_size, len(bench)))]
        rates = [v.truth.fps for v in videos]
        fps = rates[0] if len(set(rates)) == 1 else rates
        scored = _scored(reward, [v.frames for v in videos], [v.truth.prompt for v in videos], fps)
        for video, (score, _) in zip(videos, scored, strict=True):
            seen.add(array_digest(video.frames))
            if score is not None and np.isfinite(score):
                scores.append(score)
                normal.append(video.truth.status == "normal")
    return ThresholdJudge(reward, fit_threshold(scores, normal), name, frozenset(seen))


def _scored(
    reward: Scorer, videos: Sequence[Any], prompts: Sequence[str] | None, fps: Rates
) -> list[tuple[float | None, str | None]]:
    explain = getattr(reward, "explain", None)
    if explain is not None:
        return list(explain(videos, prompts, fps=fps))
    return [(None if s is None else float(s), None) for s in reward(videos, prompts, fps=fps)]


def _verdict(status: Status, score: float, readout: str, details: dict[str, Any] | None = None) -> Verdict:
    return Verdict(status=status, score=score, readout=readout, provenance=details or {"backend": readout})


__all__ = [
    "ConstantJudge",
    "RandomJudge",
    "Threshold",
    "ThresholdJudge",
    "calibrate",
    "fit_threshold",
    "single_turn",
    "without_reasoning",
]
