"""The referee of a claim: what it is asked, what it answers; and two that go by the truth, for tests and ablations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from reward_model.digests import json_digest
from reward_model.evidence.claims import Claim
from reward_model.grounding import spatial_iou
from reward_model.rewards import Need
from reward_model.schema import Anomaly, Box, VideoAnnotation

#: The oracle's grades of localisation: below the first IoU 0, below the second 1/2, else 1.
LOOSE_IOU, TIGHT_IOU = 0.3, 0.7
#: Seconds by which a moment may miss its window and still be in it, and a true box its moment: a frame at 8 fps.
SLACK_S = 0.125
_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"the", "a", "an"})


@dataclass(frozen=True)
class Question:
    """One claim to be checked.

    Attributes:
        claim: what is claimed.
        video_id: the video it is about.
        reference: the correct answer about the video.
        frame: gives the native frame of the claim, (H, W, 3) uint8; may raise where it cannot be read.
        truth: for referees that go by it (``needs``); no other looks at it.
    """

    claim: Claim
    video_id: str
    reference: str
    frame: Callable[[], np.ndarray] = field(compare=False)
    truth: VideoAnnotation | None = None


@dataclass(frozen=True)
class Opinion:
    """A referee's opinion of a claim, both numbers in [0, 1].

    ``garbled``: it answered something else than grades, which counts as 0 and 0. ``error``: why it gave no answer;
    then the numbers mean nothing.
    """

    relevance: float
    localisation: float
    garbled: bool = False
    error: str | None = None


class Referee(Protocol):
    """Checks claims. Questions keep their order; a failed one carries its own ``error`` and spoils no other."""

    @property
    def needs(self) -> frozenset[Need]:
        """Parts of the truth that it is told beside the pictures."""
        ...

    def check(self, questions: Sequence[Question]) -> list[Opinion]:
        """One opinion per question."""
        ...

    def describe(self) -> dict[str, Any]:
        """Provenance: what decides its opinions. Never a key."""
        ...


def reference_answer(truth: VideoAnnotation) -> str:
    """The correct answer that a referee is told: status and types, as a video-level label has them.

    Example:
        >>> reference_answer(VideoAnnotation("v", 1, 1, 1, 1))
        'normal'
    """
    return ": ".join([truth.status, *([", ".join(kind.value for kind in truth.types)] if truth.types else [])])


class OracleReferee:
    """Grades by the exact truth: the ceiling of what a referee can do, and the reference that others are measured by.

    A claim is relevant if an anomaly of its type, on its object, lasts at its moment, and the box meets that anomaly
    (where it has a box then): a region somewhere else shows nothing of it. Localisation is the IoU with the true box,
    cut into the three grades.
    """

    needs: frozenset[Need] = frozenset({"gt_windows", "gt_boxes"})

    def check(self, questions: Sequence[Question]) -> list[Opinion]:
        return [self._opinion(q) for q in questions]

    def _opinion(self, question: Question) -> Opinion:
        truth = question.truth
        if truth is None:
            return Opinion(0, 0, error="the oracle was not given the truth")
        found = [
            (relevance, grade(overlap))
            for anomaly in truth.anomalies
            for relevance, overlap in [judged(question.claim, anomaly, truth.fps)]
        ]
        # The best of them: several anomalies may lie at one place.
        relevance, localisation = max(found, default=(0.0, 0.0))
        return Opinion(relevance, localisation)

    def describe(self) -> dict[str, Any]:
        return {"referee": "oracle", "iou": [LOOSE_IOU, TIGHT_IOU]}


def judged(claim: Claim, anomaly: Anomaly, fps: float) -> tuple[float, float]:
    """1 if a claim is about an anomaly, else 0, and the IoU of its box with the true one at that moment."""
    true = boxes_near(anomaly, claim.frame, fps)
    overlap = max((spatial_iou(claim.box, box) for box in true), default=0.0)
    slack = SLACK_S * fps
    lasts = anomaly.frames.start - slack <= claim.frame <= anomaly.frames.end + slack
    relevant = claim.type == anomaly.type and lasts and names(claim.subject, anomaly) and (overlap > 0 or not true)
    return float(relevant), overlap


def boxes_near(anomaly: Anomaly, frame: int, fps: float) -> tuple[Box, ...]:
    """The boxes of an anomaly on a native frame, or on the nearest within :data:`SLACK_S`."""
    nearest = min(anomaly.boxes, key=lambda n: abs(n - frame), default=None)
    return anomaly.boxes[nearest] if nearest is not None and abs(nearest - frame) <= SLACK_S * fps else ()


def names(subject: str, anomaly: Anomaly) -> bool:
    """True if a subject names an object of an anomaly or its region, in whole or in part; any does where the truth
    names none.

    Example:
        >>> ball = Anomaly(AnomalyType.OBJECT, FrameRange(0, 1), objects=("red ball",))
        >>> names("the ball", ball), names("the red ball on the left", ball), names("the cup", ball)
        (True, True, False)
    """
    told = [words for text in (*anomaly.objects, anomaly.region) if (words := _words(text))]
    said = _words(subject)
    return not told or any(said and (said <= words or words <= said) for words in told)


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.casefold())) - _ARTICLES


def grade(overlap: float) -> float:
    """An IoU as one of the three grades 0, 1/2 and 1."""
    return 0.0 if overlap < LOOSE_IOU else 0.5 if overlap < TIGHT_IOU else 1.0


class NoisyReferee:
    """Another referee with mistakes: how much a reward can bear.

    The mistakes are a function of the seed and the question alone, so that a run can be repeated.

    Args:
        inner: the referee.
        flip: probability that a grade is turned into its opposite, for relevance and localisation each by itself.
        bias: added to both grades, which stay in [0, 1].
        seed: another one makes other mistakes.
    """

    def __init__(self, inner: Referee, *, flip: float = 0.0, bias: float = 0.0, seed: int = 0) -> None:
        if not 0 <= flip <= 1 or not -1 <= bias <= 1:
            raise ValueError(f"flip={flip} must lie between 0 and 1, and bias={bias} between -1 and 1")
        self.inner, self.flip, self.bias, self.seed = inner, flip, bias, seed

    @property
    def needs(self) -> frozenset[Need]:
        return self.inner.needs

    def check(self, questions: Sequence[Question]) -> list[Opinion]:
        opinions = self.inner.check(questions)
        return [self._spoilt(q, o) for q, o in zip(questions, opinions, strict=True)]

    def _spoilt(self, question: Question, opinion: Opinion) -> Opinion:
        claim = question.claim
        told = [self.seed, question.video_id, claim.frame, claim.box.as_list(), claim.phrase, question.reference]
        drawn = json_digest(told)
        lots = (int(drawn[:12], 16) / 16**12, int(drawn[12:24], 16) / 16**12)
        relevance, localisation = (
            min(max((1 - value if lot < self.flip else value) + self.bias, 0.0), 1.0)
            for value, lot in zip((opinion.relevance, opinion.localisation), lots, strict=True)
        )
        return replace(opinion, relevance=relevance, localisation=localisation)

    def describe(self) -> dict[str, Any]:
        return {**self.inner.describe(), "flip": self.flip, "bias": self.bias, "noise_seed": self.seed}
