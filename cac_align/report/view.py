"""Contents of the page for each candidate, computed from the result alone: positions in percent, texts, pictures. No
HTML here.

At the end, what a reader is told beside the verdict: where reward and verdict do not tell one story
(:func:`readout_note`), and suspicions that came to nothing (:func:`unconfirmed`, :func:`reasoning_pieces`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cac_align.report.second_draws import preview_view, repair_view
from reward_model.chunks import by_chunk, deciding_turn, final_turns, suspicious_windows, zoom_turns
from reward_model.schema import Anomaly, FrameRange, Verdict
from reward_model.turns import turn_score
from reward_model.video.writing import thumbnail_uri

if TYPE_CHECKING:
    from reward_model.schema import Turn, VerdictScore

FILM_FRAMES = 12
KEY_FRAMES = 6
#: Below this share of the probability for the two verdict words, the judge would rather have written something else.
FEW_BOTH = 0.5
#: Begins the reason in the name of an operator that was not carried out.
REFUSED = " (refused: "
STATUS_LABELS = {"normal": "Normal", "abnormal": "Abnormal", None: "Could not judge"}


def candidate_view(entry: Mapping[str, Any], frames: np.ndarray, fps: float, rank: int) -> dict[str, Any]:
    """One candidate as the template reads it.

    Args:
        entry: its part of ``result.json``.
        frames: (T, H, W, 3) uint8, for the pictures.
        fps: frames per second.
        rank: 1 is the chosen one.
    """
    verdict = Verdict.from_dict(entry["verdict"]) if entry.get("verdict") else None
    scored = entry["score"] is not None
    return {
        **entry,
        "rank": rank,
        "number": f"{entry['index']:02d}",
        "status": "scored" if scored else "none",
        "status_label": "Scored" if scored else STATUS_LABELS[None],
        "summary": _summary(verdict, entry),
        "verdict": verdict,
        "film": [thumbnail_uri(frames[i], 96) for i in film_indices(len(frames))],
        "timeline": timeline(verdict, len(frames), fps),
        "boxes": boxes_by_frame(verdict),
        "hold": hold_frames(verdict),
        "keys": _key_frames(verdict, frames, fps),
        "members": [_member(name, score) for name, score in entry["parts"].items()],
        "preview": preview_view(entry.get("preview")),
        "repair": repair_view(entry.get("repair")),
        **_evidence(verdict, fps, composite=bool(entry["parts"])),
    }


def _evidence(verdict: Verdict | None, fps: float, *, composite: bool) -> dict[str, Any]:
    """Content of the verdict; empty for a candidate without one."""
    if verdict is None:
        nothing: dict[str, Any] = {"turns": [], "findings": [], "filtered": [], "provenance": {}}
        return {**nothing, "disagrees": "", "unfamiliar": "", "judged": None}
    status = {"status": verdict.status, "status_label": STATUS_LABELS[verdict.status]}
    return {
        **(status if verdict.status else {"status_label": STATUS_LABELS[None]}),
        "turns": [_turn(t, verdict) for t in verdict.turns],
        "findings": [_finding(a, fps) for a in verdict.anomalies],
        "filtered": [_finding(a, fps) for a in unconfirmed(verdict)],
        # The score of a composite is not the judge's: its own reward stands in the verdict.
        "disagrees": readout_note(verdict, verdict.score),
        "unfamiliar": domain_note(verdict),
        "judged": probability(verdict.score) if composite and verdict.score is not None else None,
        "provenance": dict(flatten(verdict.provenance)),
    }


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` items, evenly spaced, first and last kept."""
    if len(items) <= count:
        return list(items)
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, count)]


def film_indices(num_frames: int) -> list[int]:
    """The frame in the middle of each twelfth of the video, so that the film strip lies true on the time axis."""
    return [min(int((k + 0.5) * num_frames / FILM_FRAMES), num_frames - 1) for k in range(FILM_FRAMES)]


def timeline(verdict: Verdict | None, num_frames: int, fps: float) -> dict[str, Any]:
    """The time axis in percent of its length; frame k fills the span from k to k + 1."""

    def percent(frame: float) -> float:
        return round(100 * frame / num_frames, 3)

    def span(start: int, end: int) -> dict[str, float]:
        return {"x": percent(start), "width": percent(end + 1 - start)}

    seconds = num_frames / fps
    named = windows_of(verdict)
    edges = [-1, *(edge for window in named for edge in (window.start, window.end)), num_frames]
    return {
        "seconds": seconds,
        "marks": [{"x": percent(s * fps), "label": f"{s:g} s" if s else "0"} for s in _marks(seconds)],
        "looks": [
            {**span(t.frame_indices[0], t.frame_indices[-1]), "label": t.operator} for t in active_turns(verdict)
        ],
        "ticks": [[percent(i + 0.5) for i in look] for look in _looks(verdict) if look],
        "windows": [span(window.start, window.end) for window in named],
        "outside": [span(a + 1, b - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)] if named else [],
        "anomalies": [span(a.frames.start, a.frames.end) for a in verdict.anomalies] if verdict else [],
        "label": _timeline_label(verdict, seconds),
    }


def _looks(verdict: Verdict | None) -> list[list[int]]:
    """Native frames that turn one and turn two were shown."""
    turns = verdict.turns if verdict else ()
    return [sorted({i for turn in turns if turn.number == number for i in turn.frame_indices}) for number in (1, 2)]


def active_turns(verdict: Verdict | None) -> list[Turn]:
    """The looks that a judge asked for itself and was given."""
    asked = [turn for turn in verdict.turns if turn.operator] if verdict else []
    return [turn for turn in asked if REFUSED not in turn.operator]


def windows_of(verdict: Verdict | None) -> list[FrameRange]:
    """The suspicious windows of a verdict, in native frames: its own, or those of all chunks of a long video."""
    if verdict is None:
        return []
    if len(by_chunk(verdict.turns)) > 1:
        return suspicious_windows(verdict.turns)
    return [] if verdict.window is None else [verdict.window]


def _marks(seconds: float) -> list[float]:
    """Moments that get a mark on the time axis: at most seven, at round distances."""
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600) if seconds / s <= 6 or s == 3600)
    return [k * step for k in range(int(seconds / step) + 1) if k * step <= seconds * 0.97]


def _timeline_label(verdict: Verdict | None, seconds: float) -> str:
    used = f"; looks: {', '.join(verdict.operators)}" if verdict is not None and verdict.operators else ""
    if verdict is None or verdict.window_s is None:
        return f"Timeline of {seconds:.2f} seconds, no suspicious window{used}"
    start, end = verdict.window_s
    return f"Timeline of {seconds:.2f} seconds, suspicious window from {start:.2f} to {end:.2f} seconds{used}"


def boxes_by_frame(verdict: Verdict | None) -> dict[str, list[dict[str, Any]]]:
    """Boxes on the 0-1000 grid by native frame, each with the name of its anomaly type."""
    frames: dict[str, list[dict[str, Any]]] = {}
    for anomaly in verdict.anomalies if verdict else ():
        for frame, boxes in sorted(anomaly.boxes.items()):
            frames.setdefault(str(frame), []).extend({"box": b.as_list(), "label": anomaly.type.value} for b in boxes)
    return frames


def hold_frames(verdict: Verdict | None) -> int:
    """For how many native frames a box stays: until the next frame the judge was shown."""
    finals = final_turns(verdict.turns) if verdict else []
    looked = [turn for turn in finals if turn.number == 2] or finals
    steps = [b - a for turn in looked for a, b in pairwise(turn.frame_indices)]
    return max(1, min(steps, default=1))


def _key_frames(verdict: Verdict | None, frames: np.ndarray, fps: float) -> list[dict[str, Any]]:
    """Frames with boxes, or else the frames of turn two; none for a video nobody looked at twice."""
    boxes = boxes_by_frame(verdict)
    looked = zoom_turns(verdict.turns) if verdict else []
    indices = [int(k) for k in boxes] or (list(looked[-1].frame_indices) if looked else [])
    picked = spread([k for k in sorted(indices) if k < len(frames)], KEY_FRAMES)
    return [
        {
            "frame": k,
            "time": f"{k / fps:.2f} s",
            "picture": thumbnail_uri(frames[k], 240),
            "boxes": boxes.get(str(k), []),
        }
        for k in picked
    ]


def _finding(anomaly: Anomaly, fps: float) -> dict[str, Any]:
    first, last = anomaly.frames.start, anomaly.frames.end
    return {
        "type": anomaly.type.value,
        "when": _period(first / fps, (last + 1) / fps).removeprefix("from "),
        "frames": f"frames {first} to {last}" if last > first else f"frame {first}",
        "reason": anomaly.reason,
        "region": anomaly.region,
        "objects": ", ".join(anomaly.objects),
    }


def _member(name: str, score: float | None) -> dict[str, str]:
    """A part of a score made of several, as text."""
    return {"name": name, "score": "\u2013" if score is None else f"{score:.4g}".replace("-", "\u2212")}


def _turn(turn: Turn, verdict: Verdict) -> dict[str, Any]:
    shown = [turn.frame_indices[k] / verdict.fps for k in (0, -1)] if len(by_chunk(verdict.turns)) > 1 else []
    return {
        "number": verdict.turns.index(turn) + 1 if verdict.operators else turn.number,
        "name": _turn_name(turn, active=bool(verdict.operators)),
        "what": f"{len(turn.frame_indices)} frames at {turn.fps:g} fps"
        + (f", {shown[0]:.2f} to {shown[1]:.2f} s" if shown else ""),
        "status": turn.status or "none",
        "status_label": STATUS_LABELS[turn.status],
        "pieces": reasoning_pieces(turn.report.cot) if turn.report else [],
        "text": turn.text,
        "problem": turn.error or turn.parse_error or "",
        "after": _score(turn.score),
        "before": _score(turn.direct_score),
        "tokens": turn.num_tokens,
        "seconds": f"{turn.seconds:.2f}",
    }


def _turn_name(turn: Turn, *, active: bool) -> str:
    if active:
        return turn.operator or "First view"
    return "Scan" if turn.number == 1 else "Zoom"


def _score(score: VerdictScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {"p": probability(score.p_normal), "log_odds": signed(score.log_odds), "forced": score.forced}


def _summary(verdict: Verdict | None, entry: Mapping[str, Any]) -> str:
    if verdict is None:
        scored = entry["score"] is not None
        return "This reward gives a number without evidence." if scored else "This candidate has no score."
    if verdict.status is None:
        return "The judge could not judge this candidate."
    if verdict.forced:
        return f"The judge's answer could not be read in full; it finds \u201c{verdict.status}\u201d the likelier word."
    text = _clean(verdict) if verdict.status == "normal" else _faulty(verdict)
    note = readout_note(verdict, verdict.score)
    return f"{text} {note[0].upper()}{note[1:]}." if note else text


def _clean(verdict: Verdict) -> str:
    if verdict.window_s is None:
        return "The judge looked over the whole video and saw no anomaly."
    period = _period(*verdict.window_s).removeprefix("from ")
    return f"The first look found {period} suspicious; the second, closer look did not confirm it."


def _faulty(verdict: Verdict) -> str:
    names = " and ".join(t.value for t in verdict.types) or "an anomaly"
    if verdict.anomalies:
        first, last = min(a.frames.start for a in verdict.anomalies), max(a.frames.end for a in verdict.anomalies)
        return f"The judge sees {names}, {_period(first / verdict.fps, (last + 1) / verdict.fps)}."
    return f"The judge sees {names}" + (f", {_period(*verdict.window_s)}." if verdict.window_s else ".")


def _period(start: float, end: float) -> str:
    return f"from {start:.2f} s to {end:.2f} s".replace(" s", "\u00a0s")


def probability(p: float) -> str:
    """A probability with enough digits to tell it from 0 and 1: ``0.982``, ``0.99996``, ``2.4e-07``."""
    if 0.001 <= p <= 0.999 or p in (0.0, 1.0):
        return f"{p:.3f}"
    return f"{p:.1e}" if p < 0.001 else f"{p:.{min(9, -math.floor(math.log10(1 - p)))}f}"


def signed(value: float | None) -> str:
    """Log-odds with their sign, and a true minus."""
    return "" if value is None else f"{value:+.2f}".replace("-", "\u2212")


def score_digits(scores: Sequence[float | None]) -> int:
    """Decimals that keep different scores apart from each other, and from 0 and 1: 3 to 9."""
    known = {s for s in scores if s is not None} | {0.0, 1.0}
    return next((d for d in range(3, 9) if len({f"{s:.{d}f}" for s in known}) == len(known)), 9)


def flatten(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of name and text."""
    rows = []
    for key, value in data.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            rows += flatten(value, f"{name} \u203a ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((name, "\u2013" if value is None or text == "" else text))
    return rows


# --- beside the verdict -----------------------------------------------------------------------------------------------


def domain_note(verdict: Verdict | None) -> str:
    """Half a sentence for people where a video is unlike what its judge was trained on; ``""`` elsewhere, and where the
    judge cannot tell.
    """
    if verdict is None or getattr(verdict, "out_of_domain", None) is not True:
        return ""
    return f"out of domain: {verdict.domain_reason}"


def readout_note(verdict: Verdict | None, score: float | None) -> str:
    """Half a sentence for people, ``""`` where reward and verdict agree and nothing has to be added.

    The readouts ``direct`` and ``log_odds`` are read before the judge has reasoned (``docs/method.md``), the verdict
    after it; a judge that changes its mind in between gives a normal video a low reward, or an abnormal one a high. The
    readout ``paper`` disagrees where the judge wrote the less likely word, or where the reward joins both turns.
    """
    if verdict is None or score is None or verdict.status is None:
        return ""
    said = [_disagreement(verdict, score)]
    turns = getattr(verdict, "turns", ())
    deciding = deciding_turn(turns, verdict.readout)
    read = turn_score(deciding, verdict.readout) if deciding else None
    if read is not None and read.p_both < FEW_BOTH:
        said.append(f"the two verdict words hold only {100 * read.p_both:.1g} % of the probability where they are read")
    if read is not None and read.bounded:
        said.append("the score is a bound, for the server lists few log-probabilities")
    return "; ".join(part for part in said if part)


def _disagreement(verdict: Verdict, score: float) -> str:
    if score == 0.5 or (score > 0.5) == (verdict.status == "normal"):
        return ""
    leaned = f"it leaned towards {'normal' if score > 0.5 else 'an anomaly'}"
    if verdict.readout != "paper":
        return f"before reasoning, where the score is read, {leaned}"
    if getattr(verdict, "provenance", {}).get("aggregate") == "joint":
        return f"over both turns, which the score joins, {leaned}"
    return f"at its verdict, where the score is read, {leaned}"


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
    if verdict is None or verdict.status is None or not zoom_turns(verdict.turns):
        return []
    raised = [
        _native(anomaly, scan.frame_indices)
        for scan in verdict.turns
        if scan.number == 1 and scan.report is not None
        for anomaly in scan.report.anomalies
    ]
    return [a for a in raised if a is not None and not any(_meets(a, kept) for kept in verdict.anomalies)]


def _native(anomaly: Anomaly, indices: tuple[int, ...]) -> Anomaly | None:
    if anomaly.frames.end >= len(indices):
        return None
    return replace(anomaly, frames=FrameRange(indices[anomaly.frames.start], indices[anomaly.frames.end]), boxes={})


def _meets(raised: Anomaly, kept: Anomaly) -> bool:
    apart = raised.frames.end < kept.frames.start or kept.frames.end < raised.frames.start
    return raised.type == kept.type and not apart
