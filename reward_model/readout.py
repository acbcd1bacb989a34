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

from reward_model.parsing import COT, STATUS_PREFIX, forced_prefix
from reward_model.schema import Turn, VerdictScore

READOUTS = ("paper", "direct", "log_odds")

_STATUS = re.compile(r'"status"\s*:\s*"\s*(?=(?:ab)?normal\b)', re.IGNORECASE)
_OPEN_COT = f'{{"{COT}": "'


def verdict_prefix(text: str) -> str | None:
    """The answer up to its verdict word, ending in the canonical ``"status": "``; None when the answer states no
    status.
    """
    found = list(_STATUS.finditer(text))
    if not found:
        return None
    return text[: found[-1].start()] + STATUS_PREFIX


def completed_prefix(text: str) -> str:
    """A truncated or broken answer brought to its verdict: the reasoning so far is closed and the status key forced
    after it.
    """
    text = text.strip()
    if text.startswith(_OPEN_COT):
        body = text[len(_OPEN_COT) :]
        cot = _read_open_string(body)
    else:
        cot = text
    return forced_prefix(cot)


def _read_open_string(body: str) -> str:
    """The value of a JSON string that may never have been closed."""
    end = re.match(r'(?:[^"\\]|\\.)*', body, re.DOTALL)
    raw = end[0] if end else ""
    try:
        return json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return raw.encode("utf-8", "replace").decode("utf-8").replace("\\", "")


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
    """:func:`reward_value` of a turn under a readout; None where the turn was not scored for it."""
    score = turn_score(turn, readout)
    return None if score is None else reward_value(score, readout, temperature)
