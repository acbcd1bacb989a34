"""The selective anchor: only videos on which the rewards disagree are held to the model before training.

A video that the reward in training puts high and the others put low (or the other way round) is where that reward may
be cheated; there the anchor holds, and elsewhere the policy is free. That the regularisation of Astrolabe
(arXiv 2603.17051) is selective and goes by the uncertainty between several rewards is all that its abstract says; the
measure of disagreement, its threshold and everything else here are this project's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

Scores = Sequence[float | None]


def rank_in_group(scores: Scores, groups: Sequence[Hashable]) -> list[float | None]:
    """The place of each score in its group, from 0 (the lowest) to 1 (the highest); ties share the middle of theirs.

    Scales and spreads of rewards do not matter to it. None where a score is unknown, or the only known one.

    >>> rank_in_group([0.1, 0.9, 0.5, None, 7.0], ["a", "a", "a", "a", "b"])
    [0.0, 1.0, 0.5, None, None]
    """
    members: dict[Hashable, list[float]] = {}
    for score, group in zip(scores, groups, strict=True):
        if score is not None:
            members.setdefault(group, []).append(score)
    found: list[float | None] = []
    for score, group in zip(scores, groups, strict=True):
        if score is None or len(members[group]) < 2:
            found.append(None)
            continue
        below = sum(other < score for other in members[group])
        equal = sum(other == score for other in members[group]) - 1
        found.append((below + equal / 2) / (len(members[group]) - 1))
    return found


def disagreement(main: Scores, others: Sequence[Scores], groups: Sequence[Hashable]) -> list[float | None]:
    """Distance of a video's rank by the main reward from the mean of its ranks by the others, 0 to 1.

    Args:
        main: a score for each video by the reward that is trained on.
        others: the scores of each auxiliary reward; at least one.
        groups: which group each video belongs to.

    Returns:
        None where a rank is unknown.

    Raises:
        ValueError: if there is no auxiliary reward.

    >>> disagreement([1, 2, 3], [[1, 2, 3], [3, 2, 1]], "aaa")
    [0.5, 0.0, 0.5]
    """
    if not others:
        raise ValueError("disagreement needs at least one auxiliary reward beside the main one")
    ranks = [rank_in_group(scores, groups) for scores in (main, *others)]
    found: list[float | None] = []
    for first, *rest in zip(*ranks, strict=True):
        known = [rank for rank in rest if rank is not None]
        if first is None or len(known) < len(rest):
            found.append(None)
        else:
            found.append(abs(first - sum(known) / len(known)))
    return found


def selective_anchor(
    main: Scores, others: Sequence[Scores], groups: Sequence[Hashable], threshold: float
) -> list[float]:
    """The anchor's factor of each video: 1 where the :func:`disagreement` is at the threshold or above, or unknown; 0
    elsewhere.

    >>> selective_anchor([1, 2, 3, 4], [[1, 2, 4, 3]], "aaaa", 0.25)
    [0.0, 0.0, 1.0, 1.0]
    """
    return [float(d is None or d >= threshold) for d in disagreement(main, others, groups)]
