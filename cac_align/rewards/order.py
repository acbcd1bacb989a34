"""Order of several candidates: the only place where the best is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from reward_model.schema import Verdict

RankBy = Literal["verdict", "score"]
RANKINGS: tuple[str, ...] = get_args(RankBy)


def check_rank_by(rank_by: str) -> None:
    """Raises ValueError unless it is one of :data:`RANKINGS`."""
    if rank_by not in RANKINGS:
        raise ValueError(
            f"rank_by={rank_by!r} must be 'verdict' (a video judged abnormal never beats one judged normal, then the "
            "score decides) or 'score' (the score alone)"
        )


def order(
    scores: Sequence[float | None], abnormal: Sequence[bool | None] | None = None, rank_by: RankBy | str = "verdict"
) -> list[int]:
    """Positions from best to worst; ties in their order, those without a score last.

    Args:
        scores: one per candidate, higher is better.
        abnormal: whether a judge's final verdict objects to it; None if there is no verdict, which counts as no
            objection.
        rank_by: ``"verdict"`` puts what is judged abnormal behind everything else, ``"score"`` goes by scores alone.

    >>> order([0.2, 0.9, None, 0.4], [False, True, None, False])
    [3, 0, 1, 2]
    >>> order([0.2, 0.9, None, 0.4], [False, True, None, False], "score")
    [1, 3, 0, 2]
    """
    check_rank_by(rank_by)
    objected = [bool(a) and rank_by == "verdict" for a in abnormal or [None] * len(scores)]
    return sorted(range(len(scores)), key=lambda k: (scores[k] is None, objected[k], -(scores[k] or 0.0), k))


def objections(verdicts: Sequence[Verdict | None]) -> list[bool | None]:
    """True for each verdict that says abnormal; None for a missing one."""
    return [None if v is None or v.status is None else v.status == "abnormal" for v in verdicts]
