"""Suspicions that came to nothing: what turn one reported and turn two did not confirm, and what the reasoning raised
and dismissed in its own words (Fig. S2 underlines them).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from reward_model.schema import Anomaly, FrameRange, Verdict

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*[\"')\u201d]*\s*|[.!?\s]+")
_RAISED = re.compile(
    r"\b(?:suspicious|suspected?|suspicion|odd(?:ly)?|strange(?:ly)?|unusual(?:ly)?|questionable|"
    r"at first (?:sight|glance)|(?:might|may|could|seems? to|appears? to) be|"
    r"(?:seems?|appears?|looks?) (?:\w+ )?(?:distorted|deformed|bent|blurred|blurry|missing|wrong|merged|doubled))\b",
    re.IGNORECASE,
)
_DISMISSED = re.compile(
    r"\b(?:normal|natural(?:ly)?|plausible|consistent with|no anomaly|not an? anomal(?:y|ous)|not anomalous|ruled out|"
    r"dismiss(?:ed)?|explained by|(?:due to|because of|only|just) (?:\w+ ){0,2}(?:motion|blur|perspective|occlusion|"
    r"shadow|lighting|compression|angle|reflection))\b",
    re.IGNORECASE,
)


class Piece(NamedTuple):
    """A part of a reasoning text; ``dismissed`` where it raises a suspicion that it or the next sentence dismisses."""

    text: str
    dismissed: bool


def reasoning_pieces(cot: str) -> list[Piece]:
    """A reasoning text in parts that join to the same text again. Goes by words alone, so it is a help for reading and
    no measurement.

    Example:
        >>> reasoning_pieces("It looks bent. It is only motion blur. All is calm.")[0].text
        'It looks bent. It is only motion blur. '
    """
    sentences = _SENTENCE.findall(cot)
    marked = [False] * len(sentences)
    for k, sentence in enumerate(sentences):
        raised = _RAISED.search(sentence)
        if raised is None:
            continue
        if _DISMISSED.search(sentence, raised.end()):
            marked[k] = True
        elif k + 1 < len(sentences) and not _RAISED.search(sentences[k + 1]) and _DISMISSED.search(sentences[k + 1]):
            marked[k] = marked[k + 1] = True
    pieces: list[Piece] = []
    for sentence, dismissed in zip(sentences, marked, strict=True):
        if pieces and pieces[-1].dismissed == dismissed:
            pieces[-1] = Piece(pieces[-1].text + sentence, dismissed)
        else:
            pieces.append(Piece(sentence, dismissed))
    return pieces


def unconfirmed(verdict: Verdict | None) -> list[Anomaly]:
    """Anomalies of turn one, in native frames, whose type the verdict does not hold at any of their frames."""
    if verdict is None or len(verdict.turns) < 2 or verdict.status is None:
        return []
    scan = verdict.turns[0]
    if scan.report is None:
        return []
    found = []
    for anomaly in scan.report.anomalies:
        native = _native(anomaly, scan.frame_indices)
        if native is not None and not any(_meets(native, kept) for kept in verdict.anomalies):
            found.append(native)
    return found


def _native(anomaly: Anomaly, indices: tuple[int, ...]) -> Anomaly | None:
    if anomaly.frames.end >= len(indices):
        return None
    return replace(anomaly, frames=FrameRange(indices[anomaly.frames.start], indices[anomaly.frames.end]), boxes={})


def _meets(raised: Anomaly, kept: Anomaly) -> bool:
    apart = raised.frames.end < kept.frames.start or kept.frames.end < raised.frames.start
    return raised.type == kept.type and not apart
