"""From an answer to the place where its verdict is read, and from two log-probabilities to a reward in [0, 1]. Pure
functions.

Three readouts of the same judge:

- ``paper``: Equation 7 after the judge's own reasoning. It saturates: the verdict word mostly repeats what the
  reasoning said.
- ``direct``: Equation 7 with the verdict forced before any reasoning, graded where ``paper`` is 0 or 1.
- ``log_odds``: ``direct`` with its log-odds divided by a temperature, so that float32 and averages with other rewards
  keep the grading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reward_model.parsing import (
    ANOMALIES,
    COT,
    MAX_ANSWER_LENGTH,
    STATUS,
    STATUS_PREFIX,
    find_status,
    forced_prefix,
    straight_quotes,
    whole_characters,
)
from reward_model.schema import Turn, VerdictScore

READOUTS = ("paper", "direct", "log_odds")

#: The two verdict words as canonical answers spell them: normal first, as in :class:`VerdictScore`.
WORDS = ("normal", "abnormal")

_SPACE = r"(?:\s|\\[nrtbf])*+"
_WRITTEN = re.compile(rf"({_SPACE})((?:ab)?normal){_SPACE}", re.IGNORECASE)
# In an answer that is not JSON: a status key that follows another value, or begins the object.
_LOOSE_STATUS = re.compile(rf'(?<=[,{{])\s*+("\s*+{STATUS}\s*+"\s*+:\s*+"({_SPACE}(?:ab)?normal)\b)', re.IGNORECASE)
_OPEN_COT = re.compile(rf'\{{\s*+"\s*+{COT}\s*+"\s*+:\s*+"', re.IGNORECASE)
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})|[\\"]')
_QUOTE_OR_ESCAPE = re.compile(r'\\.|"', re.DOTALL)
# What follows the quote that ends the reasoning: the end of the answer, or the next key, perhaps cut.
_AFTER_COT = re.compile(
    rf'\s*+(?:\Z|\}}[\s}}`]*+\Z|,\s*+(?:\Z|"[^"\\]{{0,20}}+\Z|"\s*+(?:{STATUS}|{ANOMALIES})\s*+"))', re.IGNORECASE
)


class VerdictPrefix(str):
    """The beginning of an answer up to its verdict word, and how the answer spells the two ``words``: the pair to be
    scored after it. A plain string as a prefix means :data:`WORDS`.
    """

    words: tuple[str, str]

    def __new__(cls, text: str, words: tuple[str, str] = WORDS) -> VerdictPrefix:
        prefix = super().__new__(cls, text)
        prefix.words = words
        return prefix


def words_after(prefix: str) -> tuple[str, str]:
    """The two words that a prefix asks for, normal first."""
    return prefix.words if isinstance(prefix, VerdictPrefix) else WORDS


def verdict_prefix(text: str) -> VerdictPrefix | None:
    """The answer up to its verdict word, with the words as it spells them; None when it states no status.

    The key is brought to its canonical spelling, so that the prefix ends in ``"status": "``; spaces between the quote
    and the word belong to the words. An answer that cannot be read as JSON (quotes in the reasoning that are not
    escaped) is read at its own status key, unless several contradict each other.

    Example:
        >>> verdict_prefix('{"COT": "x", "Status":"NORMAL", "anomalies": []}').words
        ('NORMAL', 'ABNORMAL')
    """
    if place := find_status(text):
        return VerdictPrefix(text[: place.key] + STATUS_PREFIX, spelling(place.value))
    if len(text) > MAX_ANSWER_LENGTH:
        return None
    found = list(_LOOSE_STATUS.finditer(straight_quotes(text)))
    if not found or len({match[2].strip().lower() for match in found}) > 1:
        return None
    return VerdictPrefix(text[: found[0].start(1)] + STATUS_PREFIX, spelling(found[0][2]))


def spelling(written: str) -> tuple[str, str]:
    """Both words in the spelling of the one that was written, spaces before it included.

    Example:
        >>> spelling(" Abnormal ")
        (' Normal', ' Abnormal')
    """
    match = _WRITTEN.fullmatch(written)
    if not match:
        return WORDS
    space, word = match[1], match[2]
    case = str.upper if word.isupper() else str.capitalize if word[0].isupper() else str.lower
    is_normal = word.lower() == WORDS[0]
    return space + (word if is_normal else case(WORDS[0])), space + (case(WORDS[1]) if is_normal else word)


def direct_prefix(stated: VerdictPrefix | None = None) -> VerdictPrefix:
    """The beginning of an answer with its verdict before any reasoning, for a judge that spells the words as at the
    place ``stated``.
    """
    return VerdictPrefix(forced_prefix(), words_after(stated) if stated else WORDS)


def completed_prefix(text: str) -> VerdictPrefix:
    """A truncated or broken answer brought to its verdict: the reasoning so far is closed and the status key forced
    after it. What stands before the answer's object is kept.
    """
    text = text[:MAX_ANSWER_LENGTH].strip()
    start = _OPEN_COT.search(straight_quotes(text))
    if not start:
        return VerdictPrefix(forced_prefix(text))
    return VerdictPrefix(text[: start.start()] + forced_prefix(_read_open_string(text[start.end() :])))


def _read_open_string(body: str) -> str:
    """The value of a JSON string that may never have been closed, or holds quotes that should have been escaped."""
    straight = straight_quotes(body)
    ends = (m.start() for m in _QUOTE_OR_ESCAPE.finditer(straight) if m[0] == '"')
    end = next((at for at in ends if _AFTER_COT.match(straight, at + 1)), len(body))
    raw = _ESCAPE.sub(lambda m: m[0] if len(m[0]) > 1 else '\\"' if m[0] == '"' else "", body[:end])
    return whole_characters(json.loads(f'"{raw}"', strict=False))


@dataclass(frozen=True)
class VerdictPlaces:
    """Places where the verdicts of several answered turns are read, one entry per turn.

    Attributes:
        after: prefixes that end after the reasoning; None: not read there.
        before: prefixes that end before any reasoning; None: not read there.
        forced: whether the answer states no status of its own, so that the place after it had to be made.
    """

    after: tuple[VerdictPrefix, ...] | None
    before: tuple[VerdictPrefix, ...] | None
    forced: tuple[bool, ...]


def verdict_places(turns: Sequence[Turn], readout: str, *, all_readouts: bool, reasoning: bool) -> VerdictPlaces:
    """The places that a readout needs; every place with ``all_readouts``. An answer that could not be read gets its
    status from the words after it, whatever the readout.

    Args:
        turns: turns of one number, answered and read.
        readout: one of :data:`READOUTS`.
        reasoning: whether the answers were written by the model; False: they end at the verdict word.
    """
    stated = [verdict_prefix(turn.text) for turn in turns]
    ends = [place or completed_prefix(turn.text) for place, turn in zip(stated, turns, strict=True)]
    starts = [direct_prefix(place) for place in stated]
    if not reasoning:
        return VerdictPlaces(None, tuple(starts), (False,) * len(turns))
    unread = any(turn.report is None and not turn.error for turn in turns)
    return VerdictPlaces(
        after=tuple(ends) if readout == "paper" or all_readouts or unread else None,
        before=tuple(starts) if readout != "paper" or all_readouts else None,
        forced=tuple(place is None for place in stated),
    )


def reward_value(score: VerdictScore, readout: str, temperature: float = 4.0) -> float:
    """The reward of one scored verdict.

    Args:
        score: log-probabilities of both words from the same prefix.
        readout: ``paper`` and ``direct`` apply Equation 7 as printed; ``log_odds`` divides the log-odds by
            ``temperature`` first.
        temperature: above zero; larger is flatter. It never changes the order of videos.

    Example:
        >>> round(reward_value(VerdictScore(-1, -2), "paper"), 4)
        0.7311
    """
    if readout not in READOUTS:
        raise ValueError(f"readout={readout!r} must be one of {', '.join(READOUTS)}")
    if readout != "log_odds":
        return score.p_normal
    if not temperature > 0:
        raise ValueError(f"log_odds temperature={temperature} must be above zero")
    if math.isinf(score.log_odds):
        return 1.0 if score.log_odds > 0 else 0.0
    return VerdictScore(score.log_odds / temperature, 0.0).p_normal


def turn_score(turn: Turn, readout: str) -> VerdictScore | None:
    """The scored verdict a readout goes by: after the reasoning for ``paper``, before it for the others."""
    return turn.score if readout == "paper" else turn.direct_score


def turn_value(turn: Turn, readout: str, temperature: float = 4.0) -> float | None:
    """:func:`reward_value` of a turn under a readout; None if the turn was not scored for it."""
    score = turn_score(turn, readout)
    return None if score is None else reward_value(score, readout, temperature)
