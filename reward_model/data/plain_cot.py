"""Reasoning written from the annotation alone, for data that no teacher has described.

It repeats the annotation and adds nothing: for every frame whether an annotated anomaly shows in it, then the
anomalies. Verified reasoning of a teacher (paper, sections 3.1 and B.2) says more and is used if a file of it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reward_model.schema import Anomaly, TurnReport, sort_types

NORMAL_FRAME = "normal."
NO_ANOMALY = "No anomaly."
#: Between paragraphs: a full-size judge writes paragraphs (Fig. S4), the compact wording sentences on one line.
SEPARATORS = {"paper": "\n\n", "compact": " "}


def plain_cot(anomalies: Sequence[Anomaly], num_frames: int, *, wording: str = "paper") -> str:
    """One paragraph "Frame N: ..." for each frame, then the reasons.

    Args:
        anomalies: on the sampled grid.
        num_frames: frames shown.
        wording: name of the prompts the answer belongs to.

    Example:
        >>> plain_cot((), 2, wording="compact")
        'Frame 0: normal. Frame 1: normal. No anomaly.'
    """
    paragraphs = [f"Frame {k}: {_state([a for a in anomalies if k in a.frames])}" for k in range(num_frames)]
    reasons = " ".join(reason_sentence(a) for a in anomalies)
    return SEPARATORS.get(wording, "\n\n").join([*paragraphs, reasons or NO_ANOMALY])


def plain_report(anomalies: Sequence[Anomaly], num_frames: int, *, boxes: bool, wording: str = "paper") -> TurnReport:
    """The report of these anomalies with :func:`plain_cot` as its reasoning; without ``boxes`` (turn one) none are
    kept. An anomaly without a reason is given its type as one, so that every answer has the text the schema asks for.
    """
    told = tuple(replace(a, reason=a.reason or f"{a.type.value.lower()} in this part") for a in anomalies)
    kept = told if boxes else tuple(replace(a, boxes={}) for a in told)
    return TurnReport("abnormal" if kept else "normal", plain_cot(told, num_frames, wording=wording), kept)


def reason_sentence(anomaly: Anomaly) -> str:
    """The annotated reason as a sentence; where there is none, the type."""
    text = " ".join(anomaly.reason.split()) or anomaly.type.value
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def _state(anomalies: Sequence[Anomaly]) -> str:
    if not anomalies:
        return NORMAL_FRAME
    return f"anomalous ({', '.join(t.value for t in sort_types(a.type for a in anomalies))})."
