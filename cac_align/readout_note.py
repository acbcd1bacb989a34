"""What to say where a reward and the verdict beside it lean to different sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reward_model.schema import Verdict


def readout_note(verdict: Verdict | None, score: float | None) -> str:
    """Half a sentence for people, ``""`` where reward and verdict agree.

    The readouts ``direct`` and ``log_odds`` are read before the judge has reasoned (``docs/method.md``), the verdict
    after it; a judge that changes its mind in between gives a normal video a low reward, or an abnormal one a high.
    """
    if verdict is None or score is None or verdict.readout == "paper":
        return ""
    if score < 0.5 and verdict.status == "normal":
        return "before reasoning, where the score is read, it leaned towards an anomaly"
    if score > 0.5 and verdict.status == "abnormal":
        return "before reasoning, where the score is read, it leaned towards normal"
    return ""
