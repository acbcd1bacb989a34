"""Reasoning in the three steps that the full-size wording asks for (Figs. S4, S5), written from a report about a
procedural video: the form of what a full-size teacher writes, with as much as is known of a drawn video.
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_model.data.plain_cot import reason_sentence
from reward_model.schema import Anomaly, AnomalyType

_PEOPLE = (AnomalyType.HUMAN,)
_NOBODY = "no visible person"
_SOMEBODY = "one drawn person without clothes, face or fingers; posture as in the frames around"


def three_steps(anomalies: Sequence[Anomaly], num_frames: int, prompt: str = "") -> str:
    """A paragraph for every frame, what the frames say together, and the verdict on each of the five types.

    Args:
        anomalies: anomalies of the report, on the frames shown.
        num_frames: frames shown.
        prompt: prompt of the video; tells whether there is a person in it.
    """
    person = any(word in prompt.split() for word in ("person", "people"))
    frames = [_paragraph(k, [a for a in anomalies if k in a.frames], person=person) for k in range(num_frames)]
    seen = [f"{t.value}: {_over_time([a for a in anomalies if a.type is t])}" for t in AnomalyType]
    said = [f"{t.value}: {_verdict([a for a in anomalies if a.type is t])}" for t in AnomalyType]
    return "\n".join(["Step 1, frame by frame.", *frames, "Step 2, over time.", *seen, "Step 3, verdict.", *said])


def _paragraph(number: int, here: Sequence[Anomaly], *, person: bool) -> str:
    about_people = " ".join(reason_sentence(a) for a in here if a.type in _PEOPLE)
    about_objects = " ".join(reason_sentence(a) for a in here if a.type not in _PEOPLE)
    people = f"{about_people} Anomalous." if about_people else f"{_SOMEBODY if person else _NOBODY}; not anomalous."
    objects = f"{about_objects} Anomalous." if about_objects else "shape, colour and size as drawn; not anomalous."
    return f"Frame {number}: (1) People: {people} (2) Objects: {objects} (3) Surroundings: drawn; not anomalous."


def _over_time(anomalies: Sequence[Anomaly]) -> str:
    return "; ".join(f"{a.frames}, {a.reason}" for a in anomalies) + "." if anomalies else "no anomaly."


def _verdict(anomalies: Sequence[Anomaly]) -> str:
    return "present. " + " ".join(reason_sentence(a) for a in anomalies) if anomalies else "no anomaly."
