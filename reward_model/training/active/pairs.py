"""Choice of the better of two episodes of a video. Pure functions of what episodes were worth.

A right answer beats a wrong one whatever either cost; of two right ones the better has to be worth clearly more. Wrong
answers are never compared with each other. Quotas keep the plentiful kind from crowding out the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["correct", "efficient", "branch"]
KINDS: tuple[Kind, ...] = ("correct", "efficient", "branch")


@dataclass(frozen=True)
class Judged:
    """An episode as pairs are made of it.

    Attributes:
        correct: whether its answer states the right status.
        utility: what it was worth.
        operators: what it asked for, in words; how two episodes differ is told from them.
        branch: the episode of the same video it began as, and the number of the first move of its own; None: of its own
            from the start.
    """

    correct: bool
    utility: float
    operators: tuple[str, ...] = ()
    branch: tuple[int, int] | None = None


@dataclass(frozen=True)
class EpisodePair:
    """The better and the worse episode of a video, by their numbers in it."""

    video: int
    winner: int
    loser: int
    kind: Kind


def is_better(one: Judged, other: Judged, least_gap: float) -> bool:
    """True if ``one`` is preferred: right against wrong, or both right and worth more by ``least_gap``."""
    if one.correct != other.correct:
        return one.correct
    return one.correct and one.utility - other.utility >= least_gap - 1e-12


def differ_in_one_operator(episodes: Sequence[Judged], first: int, second: int) -> bool:
    """True if one is a branch of the other, or both of the same, and what they ask for differs from the branch on at
    its first operator.
    """
    common = _common_moves(episodes, first, second)
    if common is None:
        return False
    a, b = (episodes[k].operators for k in (first, second))
    return a[:common] == b[:common] and a[common : common + 1] != b[common : common + 1]


def _common_moves(episodes: Sequence[Judged], first: int, second: int) -> int | None:
    """Moves that two episodes have in common, word for word; None if neither branched off the other."""
    one, other = episodes[first].branch, episodes[second].branch
    if one is not None and one[0] == second:
        return one[1]
    if other is not None and other[0] == first:
        return other[1]
    return min(one[1], other[1]) if one and other and one[0] == other[0] else None


def all_pairs(video: int, episodes: Sequence[Judged], least_gap: float) -> list[EpisodePair]:
    """Every pair of a video's episodes of which one is better, each of one kind: ``branch`` if they differ in one
    operator, else ``correct`` or ``efficient``.
    """
    pairs = []
    for a, b in itertools.permutations(range(len(episodes)), 2):
        if not is_better(episodes[a], episodes[b], least_gap):
            continue
        kind: Kind = "correct" if not episodes[b].correct else "efficient"
        if differ_in_one_operator(episodes, a, b):
            kind = "branch"
        pairs.append(EpisodePair(video, a, b, kind))
    return pairs


def choose_pairs(
    videos: Mapping[int, Sequence[Judged]],
    *,
    quotas: Mapping[Kind, float],
    least_gap: float,
    per_video: int,
    seed: int,
) -> list[EpisodePair]:
    """The pairs of a round, in an order that depends on the seed alone.

    Args:
        videos: episodes of each video.
        quotas: shares of the kinds. The rarest kind with a share decides how many pairs of the others are kept, down to
            twice what its share would allow: a kind that hardly occurs does not empty the round.
        per_video: most pairs of a video; kinds take turns in filling them.
        seed: of the choice among a video's pairs.
    """
    rng = np.random.default_rng([seed, 77])
    found: dict[Kind, list[EpisodePair]] = {kind: [] for kind in KINDS}
    for video, episodes in sorted(videos.items()):
        pairs = all_pairs(video, episodes, least_gap)
        queues = [[p for p in _shuffled(pairs, rng) if p.kind == kind] for kind in KINDS if quotas.get(kind, 0) > 0]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
        for pair in itertools.islice((p for p in turns if p is not None), per_video):
            found[pair.kind].append(pair)
    kept = _by_quota(found, quotas, rng)
    return sorted(kept, key=lambda p: (p.video, p.winner, p.loser))


def _by_quota(
    found: Mapping[Kind, Sequence[EpisodePair]], quotas: Mapping[Kind, float], rng: np.random.Generator
) -> list[EpisodePair]:
    """The pairs of each kind that its quota leaves."""
    shares = {kind: quotas.get(kind, 0.0) for kind in KINDS if found[kind]}
    if not shares:
        return []
    whole = sum(shares.values())
    # The size at which every kind that occurs fills its share; at least half of what there is.
    most = max(min(len(found[k]) * whole / share for k, share in shares.items()), sum(map(len, found.values())) / 2)
    return [p for kind, share in shares.items() for p in _shuffled(found[kind], rng)[: round(most * share / whole)]]


def _shuffled(pairs: Sequence[EpisodePair], rng: np.random.Generator) -> list[EpisodePair]:
    return [pairs[k] for k in rng.permutation(len(pairs))]
