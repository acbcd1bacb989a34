"""Claims of turn two's answer: what is wrong, named, at a place and a moment, each of which a referee can check alone.

The answer has a box on every frame of its anomalies, as the prompt asks. All boxes of one thing are one track; up to
``max_claims`` of them are looked at, dealt evenly over the tracks. What counts as too much is the number of tracks, so
that an answer loses nothing by being complete. The frames looked at are both ends of a track and others by lot: a judge
cannot know which of its boxes will be seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reward_model.digests import text_digest
from reward_model.grounding import spatial_iou
from reward_model.prompts import clean_line
from reward_model.schema import Anomaly, AnomalyType, Box, TurnReport

#: Claims of one phrase are the same one if they lie closer than this in time, and overlap more than this.
SAME_WITHIN_S, SAME_IOU = 0.5, 0.9
#: Characters of a phrase that a referee is shown.
MAX_PHRASE = 160


@dataclass(frozen=True)
class Claim:
    """Something wrong at a place and a moment.

    Attributes:
        type: what kind of anomaly it is said to be.
        subject: what is said to be wrong, in the answer's words.
        box: where, on the native frame.
        frame: native frame.
        time_s: its time in seconds.
        reason: why it is said to be wrong. A referee does not see it.
    """

    type: AnomalyType
    subject: str
    box: Box
    frame: int
    time_s: float
    reason: str = ""

    @property
    def phrase(self) -> str:
        """The thing that is named and in which way it is wrong, on one line of at most :data:`MAX_PHRASE` letters."""
        subject = clean_line(self.subject)
        return f"{subject}: {self.type.value}"[-MAX_PHRASE:] if subject else self.type.value


@dataclass(frozen=True)
class Claims:
    """Claims of an answer: those that are checked, and how many there were (J_raw), repeats aside."""

    kept: tuple[Claim, ...] = ()
    raw: int = 0


def merged(claims: Iterable[Claim]) -> list[Claim]:
    """The claims without repeats: of those that name the same at nearly the same place and moment the first stays."""
    kept: list[Claim] = []
    for claim in claims:
        if not any(_same(claim, other) for other in kept):
            kept.append(claim)
    return kept


def _same(a: Claim, b: Claim) -> bool:
    return a.phrase == b.phrase and abs(a.time_s - b.time_s) < SAME_WITHIN_S and spatial_iou(a.box, b.box) > SAME_IOU


def cut_claims(claims: Iterable[Claim], max_claims: int = 8) -> Claims:
    """The first ``max_claims`` claims after merging, and the number before the cut."""
    kept = merged(claims)
    return Claims(tuple(kept[:max_claims]), len(kept))


def claims_of(
    report: TurnReport | None, indices: Sequence[int], fps: float, *, max_claims: int = 8, lot: str = ""
) -> Claims:
    """The claims of turn two's report; none of an answer that is invalid, normal or without a box.

    Args:
        report: of turn two; its frames are places in ``indices``.
        indices: the native frames turn two was shown.
        fps: native frames of a second.
        max_claims: how many are checked at most.
        lot: decides with the words of the answer which frames of a track are looked at; usually the id of the video.
    """
    if report is None:
        return Claims()
    tracks = _tracks(report.anomalies)
    each = max(1, max_claims // max(len(tracks), 1))
    found: list[Claim] = []
    for number, (anomaly, boxes) in enumerate(tracks):
        told = f"{lot}\0{number}\0{anomaly.type.value}\0{anomaly.region}\0{anomaly.reason}"
        subject = anomaly.region or " ".join(anomaly.objects)
        drawn = [
            Claim(anomaly.type, subject, boxes[place], indices[place], indices[place] / fps, anomaly.reason)
            for place in drawn_places(sorted(boxes), each, told)
        ]
        # Looks at one thing that stands still are not repeats of each other: they are evidence of how long it lasts.
        found += [claim for claim in drawn if not any(_same(claim, other) for other in found)]
    return Claims(tuple(found[:max_claims]), len(found))


def _tracks(anomalies: Sequence[Anomaly]) -> list[tuple[Anomaly, dict[int, Box]]]:
    """The boxes of each thing over the frames: those of all ranges of one item; several boxes of a frame are several
    things.
    """
    items: dict[tuple[AnomalyType, str, str], tuple[Anomaly, dict[int, tuple[Box, ...]]]] = {}
    for anomaly in anomalies:
        _, boxes = items.setdefault((anomaly.type, anomaly.region, anomaly.reason), (anomaly, {}))
        for frame, found in anomaly.boxes.items():
            boxes[frame] = (*boxes.get(frame, ()), *found)
    return [
        (anomaly, {frame: found[k] for frame, found in boxes.items() if len(found) > k})
        for anomaly, boxes in items.values()
        for k in range(max(map(len, boxes.values()), default=0))
    ]


def drawn_places(places: Sequence[int], count: int, lot: str) -> list[int]:
    """``count`` of the places in order: the first, the last, and one by lot of each of the equal parts between them; a
    single one is anywhere.
    """
    if len(places) <= count:
        return list(places)
    if count == 1:
        return [places[_drawn(lot, len(places))]]
    inner = len(places) - 2
    edges = [1 + inner * k // (count - 2) for k in range(count - 1)] if count > 2 else []
    between = [places[a + _drawn(f"{lot}\0{a}", b - a)] for a, b in itertools.pairwise(edges)]
    return [places[0], *between, places[-1]]


def _drawn(lot: str, count: int) -> int:
    """A number below ``count`` that a text decides."""
    return int(text_digest(lot)[:12], 16) % count
