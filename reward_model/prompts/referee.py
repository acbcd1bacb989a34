"""The question that a referee is asked about one claim, and the reading of its grades.

These texts stand apart from the wordings of the judge. ``paper`` is for full-size models and ``compact`` for a mini;
neither shows anything but the two pictures, the task with its correct answer, and the phrase of the claim, which is
quoted, and declared as data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from reward_model.conversation import Conversation, Message
from reward_model.prompts import WORDINGS, clean_line, fill, read_texts, texts_digest
from reward_model.strict_json import is_int, strict_decoder

RELEVANCE, LOCALISATION = "relevance", "localization"
#: Grades as they are written, the worst first.
GRADES = ("0", "1", "2")
#: What follows a grade: of relevance, and of localisation.
AFTER_RELEVANCE, AFTER_LOCALISATION = f', "{LOCALISATION}": ', "}"
#: The task of every judge here; a referee is told what was asked, not how it was answered.
QUESTION = "Is this video normal or abnormal, and which types of anomaly does it show?"
#: The line above and below the claim.
FENCE = "=========="
#: Characters of an answer that are read; one with its reasons has some hundred.
MAX_ANSWER = 20_000

_PICTURE = re.compile(r"(\{frame\}|\{crop\})")
_OBJECT = re.compile(r"\{[^{}]{0,400}\}")


@dataclass(frozen=True)
class RefereePrompts:
    """A wording of the referee's question; ``version`` names it, for instance ``"referee-compact+0a1b2c3d"``."""

    version: str
    text: str = field(repr=False)

    def ask(
        self, frame: np.ndarray, crop: np.ndarray, *, claim: str, reference: str, question: str = QUESTION
    ) -> Conversation:
        """The question about one claim.

        Args:
            frame: (H, W, 3) uint8 with the region marked.
            crop: (h, w, 3) uint8, the region enlarged.
            claim: its phrase; shown as a JSON string, whatever stands in it.
            reference: the correct answer.
        """
        # A fence inside the claim would end its field early.
        quoted = json.dumps(clean_line(claim).replace(FENCE, "---"), ensure_ascii=False)
        values = {"claim": quoted, "reference": clean_line(reference), "question": question}
        pictures = {"{frame}": frame, "{crop}": crop}
        parts = (pictures.get(p, p) if p in pictures else fill(p, values) for p in _PICTURE.split(self.text))
        return (Message("user", tuple(p for p in parts if not isinstance(p, str) or p)),)


@cache
def load_referee_prompts(wording: str = "paper") -> RefereePrompts:
    """The wording of that name.

    Raises:
        ValueError: if there is no such wording.
    """
    if wording not in WORDINGS:
        raise ValueError(f"no wording {wording!r} of the referee; expected one of {', '.join(map(repr, WORDINGS))}")
    text = read_texts("referee")[wording]
    return RefereePrompts(f"referee-{wording}+{texts_digest({wording: text})}", text)


def relevance_prefix() -> str:
    """The beginning of an answer up to its first grade."""
    return f'{{"{RELEVANCE}": '


def localisation_prefix(relevance: int) -> str:
    """The beginning of an answer with its first grade, up to the second."""
    return f"{relevance_prefix()}{relevance}{AFTER_RELEVANCE}"


def format_grades(relevance: int, localisation: int) -> str:
    """The canonical answer, which :func:`parse_grades` reads back.

    Example:
        >>> format_grades(2, 1)
        '{"relevance": 2, "localization": 1}'
    """
    return f"{localisation_prefix(relevance)}{localisation}{AFTER_LOCALISATION}"


class _BadGradesError(ValueError):
    pass


_DECODER = strict_decoder(_BadGradesError)


def parse_grades(text: str) -> tuple[int, int] | None:
    """Relevance and localisation of an answer; None if it has no such object, several that differ, or another grade.

    Example:
        >>> parse_grades('Here: {"relevance": 2, "localization": 0}'), parse_grades('{"relevance": 3}')
        ((2, 0), None)
    """
    found: set[tuple[int, int]] = set()
    for match in _OBJECT.finditer(text[:MAX_ANSWER]):
        try:
            value = _DECODER.decode(match[0])
        except ValueError:
            continue
        if not isinstance(value, Mapping) or not {RELEVANCE, LOCALISATION} <= value.keys():
            continue
        grades = value[RELEVANCE], value[LOCALISATION]
        if not all(is_int(g) and 0 <= g < len(GRADES) for g in grades):
            return None
        found.add(grades)
    return found.pop() if len(found) == 1 else None
