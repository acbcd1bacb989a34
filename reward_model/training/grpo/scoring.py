"""Rollouts of a step to their rewards: by rules, and where the reward asks for it by a referee of the evidence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reward_model.backends.base import BackendError
from reward_model.evidence.answer import AnswerEvidence, Evidence, score_answers
from reward_model.evidence.referee import Referee
from reward_model.evidence.score import SerConfig
from reward_model.rewards import ANNOTATED, RewardConfig, RewardParts, check_reward_needs, total_reward
from reward_model.schema import FrameRange
from reward_model.training.grpo.rollouts import GrpoSample, RolloutRecord

log = logging.getLogger(__name__)


class RefereeDownError(BackendError):
    """The referee answered none of a step's questions: without it every reward would be missing."""


@dataclass(frozen=True)
class Scored:
    """A rollout's terms, None if it has no reward; and its evidence, None if no referee was asked about it."""

    parts: RewardParts | None
    evidence: Evidence | None = None


class RolloutScorer:
    """Scores rollouts.

    Args:
        config: the reward.
        referee: of the evidence; of no account without ``weights.ser``.
        ser: how evidence is scored.

    Raises:
        ValueError: if the reward needs a referee and there is none.
    """

    def __init__(self, config: RewardConfig, referee: Referee | None = None, ser: SerConfig | None = None) -> None:
        self.config, self.ser = config, ser or SerConfig()
        self.referee = referee if config.weights.ser else None
        check_reward_needs(config, ANNOTATED | ({"referee"} if referee is not None else set()), "this trainer")

    def describe(self) -> dict[str, Any] | None:
        """Provenance of the referee; None without one."""
        return None if self.referee is None else self.referee.describe()

    def __call__(self, samples: Sequence[GrpoSample], groups: Sequence[Sequence[RolloutRecord]]) -> list[list[Scored]]:
        """The rewards of all rollouts of each sample.

        Raises:
            RefereeDownError: if the referee answered none of the questions.
        """
        evidence = self._evidence(samples, groups)
        return [
            [self._score(record, sample, evidence.get(id(record))) for record in group]
            for group, sample in zip(groups, samples, strict=True)
        ]

    def _score(self, record: RolloutRecord, sample: GrpoSample, evidence: Evidence | None) -> Scored:
        error = record.error or ("turn one did not take place" if record.scan is None else None)
        if evidence is not None and evidence.error:
            error = f"the referee gave no answer: {evidence.error}"
        if error is not None:
            log.warning("a rollout of %s has no reward: %s", sample.truth.video_id, error)
            return Scored(None, evidence)
        ser = None if self.referee is None else evidence.score if evidence is not None else 0.0
        return Scored(total_reward(record.outcome(), sample.truth, self.config, ser=ser), evidence)

    def _evidence(
        self, samples: Sequence[GrpoSample], groups: Sequence[Sequence[RolloutRecord]]
    ) -> dict[int, Evidence]:
        """Evidence of the rollouts that it can pay for, by the id of the record."""
        if self.referee is None:
            return {}
        asked = [
            (record, sample)
            for group, sample in zip(groups, samples, strict=True)
            for record in group
            if self._pays(record, sample)
        ]
        found = score_answers([answer_of(r, s) for r, s in asked], self.referee, self.ser)
        opinions = [o for e in found for o in e.opinions]
        if opinions and all(o.error for o in opinions):
            raise RefereeDownError(
                f"the referee answered none of {len(opinions)} questions, the first for this reason: "
                f"{opinions[0].error}. Start it again, and the same command continues from the last checkpoint"
            )
        return {id(record): evidence for (record, _), evidence in zip(asked, found, strict=True)}

    def _pays(self, record: RolloutRecord, sample: GrpoSample) -> bool:
        """True if the evidence of a rollout can count; a referee is not asked about any other."""
        if sample.truth.status == "normal" or record.error is not None or record.scan is None:
            return False
        return self.config.ser_gate == "none" or record.outcome().statuses == ("abnormal", "abnormal")


def answer_of(record: RolloutRecord, sample: GrpoSample) -> AnswerEvidence:
    """A rollout as an answer whose evidence is to be scored."""
    outcome = record.outcome()
    hull, shown = (outcome.scan.window if outcome.scan is not None else None), outcome.scan_indices
    window = hull and FrameRange(shown[hull.start], shown[hull.end])
    return AnswerEvidence(
        sample.truth,
        outcome.zoom,
        outcome.clip_indices,
        window,
        sample.frames,
        windows_known="gt_windows" in sample.given,
        part=(sample.grid[0], sample.grid[-1]) if sample.grid else None,
    )
