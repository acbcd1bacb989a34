"""Answers a page may send: a rating or a review decision, finished or half done, checked before they are stored.

The rules of a finished rating are those of annotation files (:mod:`reward_model.data.line_checks`), so that everything
people finish can be trained on.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from reward_model.data.line_checks import check_anomaly

MAX_TEXT, MAX_ANOMALIES = 2000, 64
_NAME = re.compile(r"\w[\w .\-]{0,39}")


class AnswerError(ValueError):
    """An answer breaks a rule. The message is shown to the person who gave it."""


def check_name(name: object) -> str:
    """The name of a person as it is written down; it also names a file.

    Raises:
        AnswerError: if it is empty, too long, or holds other than letters, digits, spaces and ``. - _``.
    """
    text = " ".join(unicodedata.normalize("NFC", name).split()) if isinstance(name, str) else ""
    if not _NAME.fullmatch(text):
        raise AnswerError("a name has 1 to 40 letters, digits, spaces, dots or dashes, and begins with a letter")
    return text.rstrip(".")


def check_rating(data: object, num_frames: int) -> dict[str, Any]:
    """A rating as it is stored: ``status``, ``anomalies``, ``note``, ``done``.

    Half done, the status and windows may be missing; finished, an abnormal video names at least one anomaly with its
    type and window.

    Raises:
        AnswerError: if a rule is broken; the message says which and what to do.
    """
    status, anomalies, note, done = _fields(data, "status", "anomalies", "note", "done")
    if status not in (None, "normal", "abnormal"):
        raise AnswerError(f"status {status!r} must be 'normal', 'abnormal' or null")
    if not isinstance(anomalies, list) or len(anomalies) > MAX_ANOMALIES:
        raise AnswerError(f"anomalies must be a list of at most {MAX_ANOMALIES}")
    if anomalies and status != "abnormal":
        raise AnswerError("a video with anomalies is abnormal; remove them first, or answer abnormal")
    if done and status is None:
        raise AnswerError("answer normal or abnormal first")
    if done and status == "abnormal" and not anomalies:
        raise AnswerError("say what is wrong: choose a type (1-5) and its window")
    checked = [_anomaly(a, k, num_frames, done) for k, a in enumerate(anomalies, 1)]
    return {"status": status, "anomalies": checked, "note": _text(note, "note"), "done": done}


def check_decision(data: object) -> dict[str, Any]:
    """A reviewer's decision as it is stored: ``decision``, ``note``, ``done``.

    Raises:
        AnswerError: if a rule is broken; who returns an annotation says why.
    """
    decision, note, done = _fields(data, "decision", "note", "done")
    if decision not in (None, "accept", "return"):
        raise AnswerError(f"decision {decision!r} must be 'accept', 'return' or null")
    text = _text(note, "note")
    if done and decision is None:
        raise AnswerError("accept or return it first")
    if done and decision == "return" and not text.strip():
        raise AnswerError("say in the note what the annotator must change")
    return {"decision": decision, "note": text, "done": done}


def _fields(data: object, *names: str) -> list[Any]:
    if not isinstance(data, dict) or set(data) != set(names):
        raise AnswerError(f"an answer is an object with {', '.join(names)}")
    if not isinstance(data["done"], bool):
        raise AnswerError("done must be true or false")
    return [data[name] for name in names]


def _anomaly(data: object, number: int, num_frames: int, done: bool) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise AnswerError(f"anomaly {number} is not an object")
    if done and data.get("frames") is None:
        raise AnswerError(f"anomaly {number} has no window yet: drag on the timeline, or press I and O")
    # Until it is finished, a window may be missing, and boxes may lie outside of it.
    probed = data if done else {**data, "frames": _draft_window(data.get("frames"), number, num_frames)}
    faults = [f.message for f in check_anomaly(probed, num_frames) if f.severity == "error"]
    if faults:
        raise AnswerError(f"anomaly {number}: {faults[0]}")
    return {
        "type": data["type"],
        "frames": data.get("frames"),
        "boxes": {frame: boxes for frame, boxes in data.get("boxes", {}).items() if boxes},
        "objects": [_text(o, "object") for o in data.get("objects", [])],
        "reason": _text(data.get("reason", ""), "reason"),
        "region": _text(data.get("region", ""), "region"),
        "salient": data.get("salient"),
    }


def _draft_window(window: object, number: int, num_frames: int) -> list[int]:
    probed = {"type": "object", "frames": [0, 0] if window is None else window}
    faults = [f.message for f in check_anomaly(probed, num_frames) if f.severity == "error"]
    if faults:
        raise AnswerError(f"anomaly {number}: {faults[0]}")
    return [0, num_frames - 1]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise AnswerError(f"{name} must be a text of at most {MAX_TEXT} characters")
    if any(0xD800 <= ord(c) < 0xE000 for c in value) or "\0" in value:
        raise AnswerError(f"{name} holds half a character; write the whole one")
    return value


def is_done(answer: Mapping[str, Any] | None) -> bool:
    """True if a person has finished with it."""
    return bool(answer and answer["done"])
