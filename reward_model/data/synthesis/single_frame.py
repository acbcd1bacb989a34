"""Reasoning for one frame (stage 1), taken from a verified clip: the frame's own paragraph of step 1, a verdict on the
single-frame types, and the frame's boxes. The paper does not say how it is written (docs/paper_notes.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from reward_model.data.synthesis.form_check import first_step, frame_heads
from reward_model.parsing import format_report, parse_turn
from reward_model.schema import Anomaly, AnomalyType, FrameRange, TurnReport

NO_ANOMALY = "no anomaly"
_THIRD = re.compile(r"\bStep\s*3\b", re.IGNORECASE)
_TYPE_NAME = re.compile(rf"({'|'.join(t.value for t in AnomalyType)})[*]*\s*[:\u2013-][*]*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_ANY_FRAME = re.compile(
    r"\b(?:frames?\s*#?\d+|(?:previous|preceding|next|following|last|earlier|later) frames?)\b", re.I
)


def single_frame_cot(zoom_answer: str, frame: int, *, num_frames: int | None = None) -> str | None:
    """The answer for one frame of a clip, in the schema of turn two for a clip of that one frame.

    Sentences that compare the frame with others are left out: whoever sees one frame cannot write them.

    Args:
        zoom_answer: a verified answer of turn two, such as ``CotSample.answer``.
        frame: counted from the first frame of the clip.
        num_frames: frames of the clip; by default as many as the reasoning has paragraphs.

    Returns:
        the canonical answer; or None if this frame cannot teach anything alone: it shows a motion or physical
        anomaly, an anomaly on it has no box, or nothing but comparisons is said of it.

    Raises:
        ValueError: if the answer does not parse, or ``frame`` is outside the clip.
    """
    if num_frames is None:
        num_frames = len(frame_heads(_bare_cot(zoom_answer)))
    report = parse_turn(zoom_answer, turn=2, num_frames=max(num_frames, 1))
    if not 0 <= frame < num_frames:
        raise ValueError(f"frame {frame} is outside the clip of {num_frames} frames (0-{num_frames - 1})")
    here = [a for a in report.anomalies if frame in a.frames or frame in a.boxes]
    text = frame_paragraph(report, frame)
    if not text or any(not a.type.single_frame or not a.boxes.get(frame) for a in here):
        return None
    placed = tuple(replace(a, frames=FrameRange(0, 0), boxes={0: a.boxes[frame]}) for a in here)
    cot = f"Frame 0: {text} {verdict_sentences(placed, report.cot)}"
    return format_report(TurnReport("abnormal" if placed else "normal", cot, placed))


def frame_paragraph(report: TurnReport, frame: int) -> str:
    """Text of step 1 about a frame, without its opening and without sentences about other frames; empty if there is
    none.
    """
    step = first_step(report.cot)
    heads = frame_heads(report.cot)
    at = next((k for k, head in enumerate(heads) if int(head[1]) == frame), None)
    if at is None:
        return ""
    end = heads[at + 1].start() if at + 1 < len(heads) else len(step)
    # A blank line ends the last paragraph, where no heading does.
    text = step[heads[at].end() : end].lstrip(" *").split("\n\n")[0]
    sentences = [s for s in _SENTENCE.split(" ".join(text.split())) if s and not _ANY_FRAME.search(s)]
    if at + 1 == len(heads):
        sentences = _without_conclusion(sentences, report)
    return " ".join(sentences)


def verdict_sentences(anomalies: Sequence[Anomaly], cot: str = "") -> str:
    """Step 3 over the single-frame types, in their order: what the reasoning's own step 3 says of a type that is
    present, or else the listed reason.

    Example:
        >>> verdict_sentences([])
        'Object Distortion: no anomaly. Human Distortion: no anomaly. Character Anomalies: no anomaly.'
    """
    said = _third_step(cot)
    verdicts = []
    for kind in (t for t in AnomalyType if t.single_frame):
        listed = "; ".join(a.reason.rstrip(". ") or "present" for a in anomalies if a.type == kind)
        verdict = (said.get(kind) or listed) if listed else NO_ANOMALY
        verdicts.append(f"{kind.value}: {verdict.rstrip('. ')}.")
    return " ".join(verdicts)


def _third_step(cot: str) -> dict[AnomalyType, str]:
    """Text of step 3 about each type, without sentences about single frames; empty if there is no such step."""
    start = _THIRD.search(cot)
    if not start:
        return {}
    pieces = _TYPE_NAME.split(cot[start.end() :])
    said: dict[AnomalyType, str] = {}
    for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
        sentences = _SENTENCE.split(" ".join(text.split()).strip("-*# "))
        kept = " ".join(s for s in sentences if s.strip("0123456789.() ") and not _ANY_FRAME.search(s))
        said.setdefault(AnomalyType(name), kept)
    return said


def _without_conclusion(sentences: list[str], report: TurnReport) -> list[str]:
    """Drops the verdict of a text on one line: the reasons that follow the last frame are not about the frame."""
    said = {_plain(a.reason) for a in report.anomalies} | {_plain(NO_ANOMALY)}
    while len(sentences) > 1 and _plain(sentences[-1]) in said:
        sentences = sentences[:-1]
    return sentences


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _bare_cot(answer: str) -> str:
    """The reasoning of an answer whose number of frames is not known yet."""
    return parse_turn(answer, turn=2, num_frames=1_000_000).cot
