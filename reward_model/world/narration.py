"""Truth -> the answer a perfect judge would give: one sentence per frame, a conclusion, and the report in the schema.

The reasoning is short but has the form the full-size prompt asks for: "Frame N: ..." for every frame, no ranges, then
a verdict. It is evidence: a reader can check each sentence against its frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from reward_model.schema import Anomaly, FrameRange, TurnReport, VideoAnnotation
from reward_model.world.kinds import REASONS

#: What a frame looks like inside an anomaly of each kind, and outside any.
STATES = {
    "squash": "the object is squashed.",
    "split": "the object is split in two.",
    "extra_limb": "there is one limb too many.",
    "missing_limb": "a limb is missing.",
    "bent_limb": "a limb is bent the wrong way.",
    "vanish": "the object is missing.",
    "appear": "a new object is there.",
    "flicker": "the brightness is wrong.",
    "teleport": "the object is elsewhere.",
    "float": "the object hangs in the air.",
    "overlap": "the object is inside the block.",
    "rebound": "the object is too high.",
    "scramble": "the letters are broken.",
    "mirror": "the letters are mirrored.",
    "change": "the word is another.",
}
NORMAL_STATE = "normal."
NO_ANOMALY = "No anomaly."


def narrate_scan(truth: VideoAnnotation, indices: Sequence[int], *, cot: bool = True) -> TurnReport:
    """Turn one: which sampled frames are anomalous and why; no boxes.

    Args:
        truth: the world's annotation, native frames.
        indices: native index of each sampled frame.
        cot: False leaves the reasoning empty (the form the direct readout is scored in).
    """
    return _narrate(visible_anomalies(truth, indices), len(indices), cot=cot, boxes=False)


def narrate_zoom(truth: VideoAnnotation, indices: Sequence[int], *, cot: bool = True) -> TurnReport:
    """Turn two: the same for a clip, with boxes. The time region is the part of the clip that is anomalous.

    A turn-two report needs a box. Where a thing is missing throughout the clip, the box nearest in time (where it was
    last or is next seen) stands on the clip's frame closest to it.
    """
    placed = tuple(a if a.boxes else _with_nearest_box(a, truth, indices) for a in visible_anomalies(truth, indices))
    return _narrate(placed, len(indices), cot=cot, boxes=True)


def visible_anomalies(truth: VideoAnnotation, indices: Sequence[int]) -> tuple[Anomaly, ...]:
    """The anomalies that at least one of the sampled frames shows, on the sampled grid."""
    shown = (a for a in truth.anomalies if any(n in a.frames for n in indices))
    return tuple(moved for a in shown if (moved := a.on_grid(indices)) is not None)


def narrate_frames(anomalies: Sequence[Anomaly], num_frames: int, *, first: int = 0) -> str:
    """The reasoning: a sentence for each frame, numbered from ``first``, and the conclusion."""
    sentences = []
    for k in range(num_frames):
        states = [STATES[anomaly_kind(a)] for a in anomalies if k in a.frames]
        sentences.append(f"Frame {k + first}: {' '.join(states) or NORMAL_STATE}")
    reasons = [text[:1].upper() + text[1:] + "." for text in dict.fromkeys(a.reason for a in anomalies)]
    return " ".join([*sentences, *(reasons or [NO_ANOMALY])])


def read_states(reasoning: str) -> list[str]:
    """The kind each sentence of :func:`narrate_frames` names, in order of frames; empty for a normal one.

    Raises:
        ValueError: if a sentence is not of the narrator's making.
    """
    kinds = {words: kind for kind, words in STATES.items()} | {NORMAL_STATE: ""}
    found = re.findall(rf"Frame \d+: ({'|'.join(map(re.escape, kinds))})", reasoning)
    if len(found) != len(re.findall(r"Frame \d+:", reasoning)):
        raise ValueError(f"these are not the sentences of the narrator: {reasoning!r}")
    return [kinds[words] for words in found]


def anomaly_kind(anomaly: Anomaly) -> str:
    """The world's kind behind an annotation, recovered from its reason.

    Raises:
        ValueError: if the annotation does not come from the world.
    """
    for kind, words in REASONS.items():
        if anomaly.reason.endswith(words):
            return kind
    raise ValueError(f"no world kind has the reason {anomaly.reason!r}; known endings: {', '.join(REASONS.values())}")


def shift_report(report: TurnReport, first: int) -> TurnReport:
    """The report with every frame number raised by ``first`` (the reasoning is left as it is)."""
    if first == 0:
        return report
    moved = (
        replace(
            a,
            frames=FrameRange(a.frames.start + first, a.frames.end + first),
            boxes={k + first: v for k, v in a.boxes.items()},
        )
        for a in report.anomalies
    )
    return replace(report, anomalies=tuple(moved))


def _with_nearest_box(anomaly: Anomaly, truth: VideoAnnotation, indices: Sequence[int]) -> Anomaly:
    source = next(a for a in truth.anomalies if a.reason == anomaly.reason and a.type == anomaly.type)
    pairs = [(abs(indices[k] - n), k, n) for k in anomaly.frames.frames() for n in source.boxes]
    if not pairs:
        return anomaly
    _, frame, native = min(pairs)
    return replace(anomaly, boxes={frame: source.boxes[native]})


def _narrate(anomalies: tuple[Anomaly, ...], num_frames: int, *, cot: bool, boxes: bool) -> TurnReport:
    text = narrate_frames(anomalies, num_frames) if cot else ""
    kept = anomalies if boxes else tuple(replace(a, boxes={}) for a in anomalies)
    return TurnReport("abnormal" if kept else "normal", text, kept)
