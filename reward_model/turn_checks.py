"""Answered turns, made fit to decide: with the true rate of their frames, without scores that nothing can be read from,
and with a status where they state none.
"""

from __future__ import annotations

from dataclasses import replace

from reward_model.schema import Status, Turn


def at_true_rate(turn: Turn, fps: float) -> Turn:
    """The turn of a video of ``fps`` frames per second, with the rate its frames really have where they were
    thinned.
    """
    index, steps = turn.frame_indices, len(turn.frame_indices) - 1
    if steps < 1:
        return turn
    stride, full = (index[-1] - index[0]) / steps, max(fps / turn.fps, 1.0)
    # Indices are rounded to whole frames, which moves the mean by less than one frame over all steps.
    return replace(turn, fps=fps / stride) if stride > full + 1 / steps + 1e-9 else turn


def sound(turn: Turn, readout: str) -> Turn:
    """A turn without scores that nothing can be read from; the turn has failed where its verdict depends on one."""
    lost = {name: s.fault for name in ("score", "direct_score") if (s := getattr(turn, name)) is not None and s.fault}
    if not lost:
        return turn
    needed = "score" if readout == "paper" else "direct_score"
    rest = replace(
        turn,
        score=None if "score" in lost else turn.score,
        direct_score=None if "direct_score" in lost else turn.direct_score,
    )
    decides = needed in lost or (turn.status is None and rest.score is None and rest.direct_score is None)
    reason = turn.error or lost.get(needed) or next(iter(lost.values()))
    return replace(rest, status=None, error=reason) if decides else rest


def decided(turn: Turn) -> Turn:
    """A turn without a report takes the likelier word; without probabilities either, it has no status and says so."""
    if turn.error or turn.status is not None:
        return turn
    score = turn.score or turn.direct_score
    if score is None:
        return replace(
            turn, error=f"the answer could not be parsed ({turn.parse_error}) and the backend gives no probabilities"
        )
    status: Status = "normal" if score.log_odds >= 0 else "abnormal"
    return replace(turn, status=status)
