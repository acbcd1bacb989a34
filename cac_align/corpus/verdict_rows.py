"""A verdict as a row of a table: what was found, where, how sure the judge is, and why there is nothing.

Times are seconds, frames those of the video, boxes on the 0-1000 grid of a frame. ``p_paper`` and ``p_direct`` are
P(normal) after and before the reasoning of the turn that decides, as far as they were read; ``log_odds`` is what the
score was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reward_model.chunks import deciding_turn

if TYPE_CHECKING:
    from reward_model.schema import Verdict

_ANOMALY = {
    "type": "text",
    "first_frame": "whole",
    "last_frame": "whole",
    "start_s": "number",
    "end_s": "number",
    "reason": "text",
}
_BOX = {"type": "text", "frame": "whole", "x0": "whole", "y0": "whole", "x1": "whole", "y1": "whole"}
#: Columns of the judge and their kinds, as :func:`cac_align.corpus.table_files.write_table` takes them. ``fps`` is the
#: rate the video was judged at.
KINDS: Mapping[str, Any] = {
    "score": "number",
    "status": "text",
    "window_start_s": "number",
    "window_end_s": "number",
    "types": ["text"],
    "anomalies": [_ANOMALY],
    "boxes": [_BOX],
    "readout": "text",
    "p_paper": "number",
    "p_direct": "number",
    "log_odds": "number",
    "readouts_disagree": "flag",
    "num_frames": "whole",
    "fps": "number",
    "out_of_domain": "flag",
    "domain_reason": "text",
    "model": "text",
    "answer_scan": "text",
    "answer_zoom": "text",
    "seconds": "number",
    "error": "text",
}
#: Columns that are there on request only: what the judge wrote, word for word.
ANSWERS = ("answer_scan", "answer_zoom")
#: Columns by which a table of verdicts is known.
WRITTEN = ("score", "status", "types", "model", "error")


def judged_columns(answers: bool) -> dict[str, Any]:
    """The columns of the judge in order with their kinds.

    Args:
        answers: with both turns' answers.
    """
    return {name: kind for name, kind in KINDS.items() if answers or name not in ANSWERS}


def verdict_row(verdict: Verdict, model: str, answers: bool = False) -> dict[str, Any]:
    """The columns of the judge for one video.

    Args:
        verdict: what it said; without status and score, its ``error`` says why.
        model: name of the judge.
        answers: with both turns' answers.
    """
    start, end = verdict.window_s or (None, None)
    row = {
        "score": verdict.score,
        "status": verdict.status,
        "window_start_s": start,
        "window_end_s": end,
        "types": [kind.value for kind in verdict.types],
        **_evidence(verdict),
        **_readouts(verdict),
        "readouts_disagree": verdict.readouts_disagree,
        "num_frames": verdict.num_frames or None,
        "fps": verdict.fps or None,
        "out_of_domain": verdict.out_of_domain,
        "domain_reason": verdict.domain_reason or None,
        "model": model,
        "answer_scan": _answer(verdict, 1),
        "answer_zoom": _answer(verdict, 2),
        "seconds": round(sum(turn.seconds for turn in verdict.turns), 4),
        "error": None if verdict.error is None else " ".join(verdict.error.split()),
    }
    return {name: row[name] for name in judged_columns(answers)}


def _evidence(verdict: Verdict) -> dict[str, Any]:
    """Columns of the anomalies: type, time and place."""
    anomalies = [
        {
            "type": a.type.value,
            "first_frame": a.frames.start,
            "last_frame": a.frames.end,
            "start_s": a.frames.start / verdict.fps,
            "end_s": (a.frames.end + 1) / verdict.fps,
            "reason": a.reason,
        }
        for a in verdict.anomalies
    ]
    boxes = [
        {"type": a.type.value, "frame": frame, **dict(zip(("x0", "y0", "x1", "y1"), box.as_list(), strict=True))}
        for a in verdict.anomalies
        for frame, found in sorted(a.boxes.items())
        for box in found
    ]
    return {"anomalies": anomalies, "boxes": boxes}


def _readouts(verdict: Verdict) -> dict[str, Any]:
    """Readouts of the turn that decides."""
    turn = deciding_turn(verdict.turns, verdict.readout)
    return {
        "readout": verdict.readout if verdict.turns else None,
        "p_paper": turn.score.p_normal if turn and turn.score else None,
        "p_direct": turn.direct_score.p_normal if turn and turn.direct_score else None,
        "log_odds": verdict.log_odds,
    }


def _answer(verdict: Verdict, number: int) -> str | None:
    """The judge's texts in the turns of a number; several, of a long video, one after the other."""
    said = [turn.text for turn in verdict.turns if turn.number == number]
    return "\n\n".join(said) if said else None
