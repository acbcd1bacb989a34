"""Claims to train and to test a referee on: right ones, and wrong in one of the ways in which claims are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reward_model.evidence.claims import Claim
from reward_model.evidence.referee import SLACK_S, OracleReferee, Question, judged, reference_answer
from reward_model.grounding import spatial_iou
from reward_model.prompts.referee import GRADES
from reward_model.schema import BOX_SCALE, Anomaly, AnomalyType, Box, VideoAnnotation
from reward_model.world.supervision import blunt_box

#: Ways in which a claim is drawn; ``right`` ones have boxes of every quality.
WAYS = ("right", "whole", "elsewhere", "type", "object", "time")
#: How often each is drawn: half of the claims are relevant.
SHARES = (0.45, 0.05, 0.2, 0.1, 0.1, 0.1)
#: IoU of the boxes of right claims, one range for each grade.
OVERLAPS = ((0.02, 0.25), (0.35, 0.65), (0.75, 0.98))


@dataclass(frozen=True)
class Practice:
    """A claim with its exact grades 0 to 2, the way it was drawn, and the IoU of its box with the true one, None where
    nothing true is boxed.
    """

    claim: Claim
    way: str
    relevance: int
    localisation: int
    overlap: float | None


def draw_practice(
    truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str] = ("the background",)
) -> Practice:
    """A claim about a video that has an anomaly with a box; its grades are the oracle's.

    Args:
        rng: decides.
        others: names of things that a claim can be wrongly about.

    Raises:
        ValueError: if no anomaly has a box.
    """
    boxed = [a for a in truth.anomalies if a.boxes]
    if not boxed:
        raise ValueError(f"{truth.video_id}: no anomaly has a box; a referee's claims are drawn around true boxes")
    anomaly = boxed[rng.integers(len(boxed))]
    way = str(rng.choice(WAYS, p=SHARES))
    claim = _right(anomaly, truth, rng)
    claim = _CHANGES[way](claim, anomaly, truth, rng, others)
    question = Question(claim, truth.video_id, reference_answer(truth), lambda: np.zeros((1, 1, 3), np.uint8), truth)
    [opinion] = OracleReferee().check([question])
    _, overlap = judged(claim, anomaly, truth.fps)
    known = any(abs(n - claim.frame) <= SLACK_S * truth.fps for n in anomaly.boxes)
    best = len(GRADES) - 1
    grades = round(best * opinion.relevance), round(best * opinion.localisation)
    return Practice(claim, way, *grades, overlap if known else None)


def _right(anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator) -> Claim:
    frames = sorted(anomaly.boxes)
    frame = frames[rng.integers(len(frames))]
    found = anomaly.boxes[frame]
    low, high = OVERLAPS[rng.integers(len(OVERLAPS))]
    box = blunt_box(found[rng.integers(len(found))], rng.uniform(-1, 1, size=4), float(rng.uniform(low, high)))
    subject = anomaly.region or "the " + " ".join(anomaly.objects[:1] or ("region",))
    return Claim(anomaly.type, subject, box, frame, frame / truth.fps)


def _unchanged(
    claim: Claim, anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str]
) -> Claim:
    return claim


def _whole(
    claim: Claim, anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str]
) -> Claim:
    return replace(claim, box=Box(0, 0, BOX_SCALE, BOX_SCALE))


def _elsewhere(
    claim: Claim, anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str]
) -> Claim:
    """The same claim around a place as large as the true one that no true box meets; where there is none, the least
    bad.
    """
    true = anomaly.boxes[claim.frame]
    tried = [_moved(true[0], rng) for _ in range(12)]
    return replace(claim, box=min(tried, key=lambda box: max((spatial_iou(box, t) for t in true), default=0.0)))


def _moved(box: Box, rng: np.random.Generator) -> Box:
    width, height = box.xmax - box.xmin, box.ymax - box.ymin
    left, top = (int(rng.integers(0, BOX_SCALE - size + 1)) for size in (width, height))
    return Box(left, top, left + width, top + height)


def _other_type(
    claim: Claim, anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str]
) -> Claim:
    kinds = [kind for kind in AnomalyType if kind not in truth.types]
    return replace(claim, type=kinds[rng.integers(len(kinds))]) if kinds else claim


def _other_object(
    claim: Claim, anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str]
) -> Claim:
    return replace(claim, subject=others[int(rng.integers(len(others)))])


def _other_time(
    claim: Claim, anomaly: Anomaly, truth: VideoAnnotation, rng: np.random.Generator, others: Sequence[str]
) -> Claim:
    """The claim at a moment at which nothing is wrong, around the place where something was last, or is next."""
    far = 2 * SLACK_S * truth.fps
    frames = [
        n
        for n in range(truth.num_frames)
        if all(n < a.frames.start - far or n > a.frames.end + far for a in truth.anomalies)
    ]
    if not frames:
        return claim
    frame = frames[rng.integers(len(frames))]
    nearest = min(anomaly.boxes, key=lambda n: abs(n - frame))
    return replace(claim, frame=frame, time_s=frame / truth.fps, box=anomaly.boxes[nearest][0])


_CHANGES = dict(zip(WAYS, (_unchanged, _whole, _elsewhere, _other_type, _other_object, _other_time), strict=True))
