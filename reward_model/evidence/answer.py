"""The evidence of a whole answer: its claims put to a referee, and R_SER of the opinions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from reward_model.evidence.claims import Claims, claims_of
from reward_model.evidence.referee import Opinion, Question, Referee, reference_answer
from reward_model.evidence.score import (
    RELEVANT,
    Checked,
    Seconds,
    SerConfig,
    evidence_score,
    looseness,
    temporal_penalty,
)
from reward_model.schema import FrameRange, TurnReport, VideoAnnotation


@dataclass(frozen=True)
class AnswerEvidence:
    """An answer whose evidence is to be scored.

    Attributes:
        truth: the video's, or as much of it as is known; a referee is told its status and types.
        report: of turn two; None if it was invalid or did not take place.
        indices: the native frames turn two was shown.
        window: turn one's window in native frames; None: it has none.
        frames: native frames -> (N, H, W, 3) uint8.
        windows_known: whether the truth's windows are, so that moments outside of them cost.
        part: first and last native frame that the answer is about; None: the whole video.
    """

    truth: VideoAnnotation
    report: TurnReport | None
    indices: Sequence[int]
    window: FrameRange | None
    frames: Callable[[Sequence[int]], np.ndarray] = field(compare=False)
    windows_known: bool = True
    part: tuple[int, int] | None = None


@dataclass(frozen=True)
class Evidence:
    """The evidence of an answer after it was checked.

    Attributes:
        score: R_SER; None if the referee failed to answer on one of its claims.
        claims: the claims.
        opinions: of the claims that were checked, in their order.
        loose: looseness of turn one's window.
    """

    score: float | None
    claims: Claims = field(default_factory=Claims)
    opinions: tuple[Opinion, ...] = ()
    loose: float = 0.0

    @property
    def error(self) -> str | None:
        """Reason why there is no score."""
        return next((o.error for o in self.opinions if o.error), None)


def score_answers(
    answers: Sequence[AnswerEvidence], referee: Referee, config: SerConfig | None = None
) -> list[Evidence]:
    """The evidence of each answer. All claims are put to the referee together."""
    config = config or SerConfig()
    found = [
        claims_of(a.report, a.indices, a.truth.fps, max_claims=config.max_claims, lot=a.truth.video_id) for a in answers
    ]
    asked: list[Question] = []
    for answer, claims in zip(answers, found, strict=True):
        asked += _questions(answer, claims)
    opinions = iter(referee.check(asked)) if asked else iter(())
    return [
        _evidence(answer, claims, tuple(next(opinions) for _ in claims.kept), config)
        for answer, claims in zip(answers, found, strict=True)
    ]


def _questions(answer: AnswerEvidence, claims: Claims) -> list[Question]:
    reference, shown = reference_answer(answer.truth), _Frames(answer, sorted({c.frame for c in claims.kept}))
    return [
        Question(claim, answer.truth.video_id, reference, partial(shown.of, claim.frame), answer.truth)
        for claim in claims.kept
    ]


class _Frames:
    """The frames of an answer's claims, read together when the first of them is asked for."""

    def __init__(self, answer: AnswerEvidence, indices: Sequence[int]) -> None:
        self.answer, self.indices = answer, indices
        self._read: Mapping[int, np.ndarray] | None = None

    def of(self, index: int) -> np.ndarray:
        if self._read is None:
            self._read = dict(zip(self.indices, self.answer.frames(self.indices), strict=True))
        return self._read[index]


def _evidence(answer: AnswerEvidence, claims: Claims, opinions: tuple[Opinion, ...], config: SerConfig) -> Evidence:
    if any(o.error for o in opinions):
        return Evidence(None, claims, opinions)
    truth, windows = answer.truth, _windows(answer)
    seen = [n / truth.fps for n in answer.indices]
    checked = [
        Checked(o.relevance, o.localisation, temporal_penalty(c.time_s, windows, seen_s=seen))
        for c, o in zip(claims.kept, opinions, strict=True)
    ]
    relevant = [c.time_s for c, o in zip(claims.kept, opinions, strict=True) if o.relevance >= RELEVANT]
    first, last = answer.part or (0, truth.num_frames - 1)
    hull = answer.window
    window = None if hull is None else (hull.start / truth.fps, hull.end / truth.fps)
    loose = looseness(window, relevant, (last - first + 1) / truth.fps)
    return Evidence(evidence_score(checked, claims.raw, loose, config), claims, opinions, loose)


def _windows(answer: AnswerEvidence) -> list[Seconds] | None:
    if not answer.windows_known:
        return None
    fps = answer.truth.fps
    return [(a.frames.start / fps, a.frames.end / fps) for a in answer.truth.anomalies]
