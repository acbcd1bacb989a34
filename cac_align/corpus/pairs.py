"""Preference pairs of judged candidates: which video of a prompt is better than which, by all that judged them.

Every judge is a table of differences: how much more it likes candidate a than candidate b, from -1 to 1. Scores of
single videos give differences of scores, comparisons of two videos give shares of the preference. A pair is made
where all tables prefer the same video by at least their margin, and a judge's verdict does not contradict it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from cac_align.rewards.ranking import Comparison
    from cac_align.rewards.unified import UnifiedReward

Pick = Literal["widest", "random", "all"]
PICKS: tuple[str, ...] = get_args(Pick)
#: Differences this close to a margin reach it: 0.9 - 0.8 is less than 0.1 in floating point.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PreferencePair:
    """Two candidates of one prompt, by their positions, and how far apart each judge puts them, above 0."""

    chosen: int
    rejected: int
    differences: tuple[float, ...]


@dataclass(frozen=True)
class Pairing:
    """The pairs of one prompt, and how many other pairs there were by the reason they are left out.

    Reasons, the first that holds: ``disagree`` (two judges prefer different videos, both by their margin), ``close`` (a
    judge calls a tie, or prefers one by less than its margin), ``verdict`` (the better score belongs to the video that
    is judged abnormal), ``unjudged`` (a judge says nothing about one of the two), ``spare`` (fit, but not picked).
    """

    pairs: list[PreferencePair]
    left_out: Counter[str] = field(default_factory=Counter)


def score_differences(scores: Sequence[float | None]) -> np.ndarray:
    """Differences of scores, (N, N): entry (a, b) is that of a minus that of b; NaN where one is unknown.

    >>> score_differences([0.75, 0.25, None])[0].tolist()
    [0.0, 0.5, nan]
    """
    values = np.array([np.nan if s is None else s for s in scores], dtype=np.float64)
    found: np.ndarray = values[:, None] - values[None, :]
    return found


def share_differences(comparisons: Mapping[tuple[int, int], Comparison], num_videos: int) -> np.ndarray:
    """Preferences of comparisons in both orders, (N, N): 2 share - 1 for a over b; NaN where there is no answer.

    Two orders that prefer different videos tell where a video stood, not which is better: they count as a tie.

    Args:
        comparisons: by pairs (a, b) of positions, as :class:`cac_align.rewards.ranking.Ranking` holds them.
        num_videos: N.
    """
    found = np.full((num_videos, num_videos), np.nan)
    np.fill_diagonal(found, 0)
    for (a, b), comparison in comparisons.items():
        if comparison.share is not None:
            found[a, b] = 2 * comparison.share - 1 if comparison.consistent else 0.0
            found[b, a] = -found[a, b]
    return found


def unified_differences(reward: UnifiedReward, videos: Sequence[str], prompt: str, protocol: str) -> np.ndarray:
    """Preferences of a UnifiedReward model between the videos of a prompt, (N, N).

    Args:
        reward: the model.
        videos: paths.
        prompt: the text they were made from.
        protocol: ``"point"`` asks for a score of each video, ``"pair"`` compares all of them in both orders, n (n - 1)
            questions.
    """
    if protocol == "point":
        return score_differences(reward(videos, [prompt] * len(videos)))
    return share_differences(reward.rank(videos, prompt).comparisons, len(videos))


def find_pairs(
    differences: Sequence[np.ndarray],
    margins: Sequence[float],
    abnormal: Sequence[bool | None] | None = None,
    *,
    pick: Pick | str = "widest",
    seed: str = "0",
) -> Pairing:
    """The preference pairs of one prompt.

    Args:
        differences: of each judge, (N, N), antisymmetric.
        margins: of each judge, the least difference, 0 or more; a difference of 0 is a tie whatever the margin.
        abnormal: whether the final verdict on a candidate is "abnormal"; then it is never chosen over one that is not.
            None, as a whole or for a candidate: no objection.
        pick: ``"widest"``, the one pair that the first judge puts farthest apart (then the second, ...);
            ``"random"``, one pair; ``"all"``.
        seed: decides between equally wide pairs and draws the random one.

    Raises:
        ValueError: if the numbers of judges or of candidates differ, a margin is negative, or ``pick`` is unknown.
    """
    count = _check_tables(differences, margins, abnormal, pick)
    objected = [bool(a) for a in abnormal] if abnormal is not None else [False] * count
    fit: list[PreferencePair] = []
    left_out: Counter[str] = Counter()
    for a, b in combinations(range(count), 2):
        found = [float(table[a, b]) for table in differences]
        reason, a_is_better = _objection(found, margins)
        chosen, rejected = (a, b) if a_is_better else (b, a)
        if a_is_better is not None and objected[chosen] and not objected[rejected]:
            reason = "verdict"
        if reason is None:
            fit.append(PreferencePair(chosen, rejected, tuple(abs(d) for d in found)))
        else:
            left_out[reason] += 1
    pairs = _picked(fit, pick, random.Random(seed))
    if len(pairs) < len(fit):
        left_out["spare"] = len(fit) - len(pairs)
    return Pairing(pairs, left_out)


def _check_tables(
    differences: Sequence[np.ndarray], margins: Sequence[float], abnormal: Sequence[bool | None] | None, pick: str
) -> int:
    if not differences or len(differences) != len(margins):
        raise ValueError(f"{len(differences)} judges and {len(margins)} margins; each judge needs its own")
    if wrong := [m for m in margins if not 0 <= m < np.inf]:
        raise ValueError(f"margin={wrong[0]} must be 0 or more")
    if pick not in PICKS:
        raise ValueError(f"pick={pick!r} must be one of {', '.join(PICKS)}")
    count = len(differences[0])
    lengths = [*(n for table in differences for n in table.shape), *([] if abnormal is None else [len(abnormal)])]
    if any(n != count for n in lengths):
        raise ValueError(f"the judges know different numbers of candidates: {sorted(set(lengths))}")
    return count


def _objection(differences: Sequence[float], margins: Sequence[float]) -> tuple[str | None, bool | None]:
    """Reason why two candidates make no pair, None if they do; and True if all who judged prefer the first, False if
    they prefer the second, None if they do not say.

    What is known decides before what is not: a pair on which two judges disagree needs no third.
    """
    known = [(d, m) for d, m in zip(differences, margins, strict=True) if not np.isnan(d)]
    far = [abs(d) > _ROUNDING and abs(d) >= m - _ROUNDING for d, m in known]
    sides = {d > 0 for (d, _), counts in zip(known, far, strict=True) if counts}
    if len(sides) > 1:
        return "disagree", None
    if not all(far):
        return "close", None
    return "unjudged" if len(known) < len(differences) else None, sides.pop() if sides else None


def _picked(fit: Sequence[PreferencePair], pick: str, chance: random.Random) -> list[PreferencePair]:
    if pick == "all" or not fit:
        return list(fit)
    if pick == "widest":
        # Rounded: candidates equally far apart on paper must not be told apart by the last bit.
        widths = [tuple(round(d, 9) for d in pair.differences) for pair in fit]
        fit = [pair for pair, width in zip(fit, widths, strict=True) if width == max(widths)]
    return [chance.choice(fit)]
