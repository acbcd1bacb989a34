"""Outcomes -> verified samples, records with saliency, and the list of omissions with their reasons (section B.2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from reward_model.data.cot import CotSample, Saliency
from reward_model.data.records import Record
from reward_model.data.synthesis.rounds import Outcome

SISTER = "another sample of this video was not verified"


def verified(outcome: Outcome) -> bool:
    """True if a round passed."""
    return outcome.answer is not None


def videos_kept(outcomes: Sequence[Outcome]) -> set[str]:
    """Ids of the videos all of whose samples were verified."""
    by_video = _by_video(outcomes)
    return {name for name, found in by_video.items() if all(map(verified, found))}


def to_samples(
    outcomes: Sequence[Outcome], teacher: str, prompt_version: str, *, keep_partial: bool = False
) -> list[CotSample]:
    """The verified samples, in the order of the plan.

    Args:
        keep_partial: also those of videos another sample of which failed; by default a video leaves as a whole.
    """
    kept = videos_kept(outcomes)
    return [
        _sample(o, teacher, prompt_version)
        for o in outcomes
        if verified(o) and (keep_partial or o.task.record.truth.video_id in kept)
    ]


def with_saliency(records: Sequence[Record], outcomes: Sequence[Outcome], salient_rounds: int = 3) -> list[Record]:
    """The records of the videos that were kept, each anomaly with its saliency.

    An anomaly is salient if every turn that shows it met it within ``salient_rounds``; None if no turn shows it.
    """
    kept, by_video = videos_kept(outcomes), _by_video(outcomes)
    return [
        replace(r, truth=replace(r.truth, anomalies=tuple(_marked(r, by_video[r.truth.video_id], salient_rounds))))
        for r in records
        if r.truth.video_id in kept
    ]


def left_out(outcomes: Sequence[Outcome], *, keep_partial: bool = False) -> list[dict[str, Any]]:
    """One JSON object per sample that is not among the kept ones, with the reason of every round."""
    kept = videos_kept(outcomes)
    return [
        _explained(o) for o in outcomes if not verified(o) or not (keep_partial or o.task.record.truth.video_id in kept)
    ]


def _by_video(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    by_video: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_video[outcome.task.record.truth.video_id].append(outcome)
    return dict(by_video)


def _sample(outcome: Outcome, teacher: str, prompt_version: str) -> CotSample:
    task = outcome.task
    saliency: Saliency = "salient" if outcome.decision == "salient" else "non-salient"
    return CotSample(
        video_id=task.record.truth.video_id,
        turn=task.turn,
        indices=task.indices,
        answer=outcome.answer or "",
        status="normal" if task.normal else "abnormal",
        rounds=outcome.rounds[-1].number,
        saliency=saliency,
        teacher=teacher,
        prompt_version=prompt_version,
        extra={"key": task.key, "first_match": {str(m): outcome.first_match[k] for k, m in enumerate(task.members)}},
    )


def _marked(record: Record, outcomes: Sequence[Outcome], salient_rounds: int) -> Iterator[Any]:
    for number, anomaly in enumerate(record.truth.anomalies):
        rounds = [o.first_match[o.task.members.index(number)] for o in outcomes if number in o.task.members]
        yield replace(anomaly, salient=max(rounds) <= salient_rounds if rounds else None)


def _explained(outcome: Outcome) -> dict[str, Any]:
    return {
        "video_id": outcome.task.record.truth.video_id,
        "turn": outcome.task.turn,
        "status": "normal" if outcome.task.normal else "abnormal",
        "decision": outcome.decision if not verified(outcome) else "discarded",
        "reason": SISTER if verified(outcome) else outcome.reason,
        "rounds": [
            {"round": r.number, "faults": [{"code": f.code, "detail": f.detail} for f in r.faults]}
            for r in outcome.rounds
        ],
        "key": outcome.task.key,
    }
