"""What to say where a reward and its verdict do not tell one story, or the reward is less sure than it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.readout import turn_score

if TYPE_CHECKING:
    from reward_model.schema import Verdict

#: Below this share of the probability for the two verdict words, the judge would rather have written something else.
FEW_BOTH = 0.5


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
    read = turn_score(turns[-1], verdict.readout) if turns else None
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
