"""The check of a video against what a checkpoint was trained on: by what it states, and by what the model sees."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reward_model.backends.base import Backend, Observing
from reward_model.chunks import final_turns
from reward_model.domain import Familiarity, TrainedOn
from reward_model.schema import Turn
from reward_model.turns import TurnRequest, VideoView

logger = logging.getLogger(__name__)


class DomainCheck:
    """Looks at the scans of a judge.

    Args:
        backend: one that is :class:`~reward_model.backends.base.Observing` and has a domain can tell by what it sees.
        trained_on: what the checkpoint states; None: nothing.
    """

    def __init__(self, backend: Backend, trained_on: TrainedOn | None) -> None:
        self._stated = trained_on
        self._sees = backend if isinstance(backend, Observing) and backend.domain is not None else None
        self._name, self._said = backend.name, False

    def familiar(
        self, views: Sequence[VideoView], requests: Sequence[TurnRequest], turns: Sequence[Turn]
    ) -> list[Turn]:
        """The scans with what is known of their videos; called right after their questions were answered, so that no
        second prefill is needed.
        """
        if self._sees is None and self._stated is None and not self._said:
            self._said = True
            logger.info(
                "%s: this judge cannot tell which videos are unlike those it was trained on; write its statistics with "
                "`cac-align data domain MODEL --videos FOLDER`, or state them as trained_on in judge.json", self._name,
            )  # fmt: skip
        seen = self._seen(requests, turns)
        return [
            replace(turn, familiarity=found, unlike_training=self.objections(view))
            for view, turn, found in zip(views, turns, seen, strict=True)
        ]

    def objections(self, view: VideoView) -> tuple[str, ...]:
        """Reasons by what the checkpoint states; none where it states nothing."""
        return () if self._stated is None else tuple(self._stated.objections(view.num_frames, view.fps, view.size))

    def _seen(self, requests: Sequence[TurnRequest], turns: Sequence[Turn]) -> list[Familiarity | None]:
        found: list[Familiarity | None] = [None] * len(turns)
        alive = [k for k, turn in enumerate(turns) if not turn.error]  # a failed question would need a new prefill
        if self._sees is None or self._sees.domain is None or not alive:
            return found
        signs = self._sees.observe([requests[k].conversation for k in alive])
        known = [(k, one) for k, one in zip(alive, signs, strict=True) if one is not None]
        try:
            read = self._sees.domain.read([one for _, one in known])
        except ValueError as error:  # of another checkpoint: it never keeps a judge from judging
            logger.warning("%s. Verdicts do not say how familiar a video is", error)
            self._sees = None
            return found
        for (k, _), one in zip(known, read, strict=True):
            found[k] = one
        return found


def domain_fields(turns: Sequence[Turn]) -> dict[str, Any]:
    """The fields of a verdict about its video's familiarity and its own readouts, by its turns; any part of a long
    video counts.
    """
    scans = [turn for turn in turns if turn.number == 1]
    seen = [turn.familiarity for turn in scans if turn.familiarity is not None]
    reasons = [reason for turn in scans for reason in turn.unlike_training]
    reasons += [one.reason for one in seen if one.out_of_domain]
    known = bool(scans) and len(seen) == len(scans)
    return {
        "out_of_domain": True if reasons else False if known else None,
        "domain_reason": "; ".join(dict.fromkeys(reasons)),
        "familiarity": max(seen, key=lambda one: (one.out_of_domain, one.farthest), default=None),
        "readouts_disagree": readouts_disagree(turns),
    }


def readouts_disagree(turns: Sequence[Turn]) -> bool | None:
    """True if a readout of a turn that decides leans the other way than its status; None if none was read."""
    votes = [
        (score.log_odds > 0) == (turn.status == "normal")
        for turn in final_turns(turns)
        for score in (turn.score, turn.direct_score)
        if turn.status is not None and score is not None and score.log_odds != 0
    ]
    return not all(votes) if votes else None
