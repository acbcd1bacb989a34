"""Criteria for a judge that looks itself on the aliasing suite. Pure functions of rows; thresholds are this
project's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import chi2_contingency

from reward_model.evaluation.active.play import PlayedRow
from reward_model.statistics.intervals import Interval, mean_interval
from reward_model.world.aliasing import ALIASED, EASY

#: What an episode that used no operator did.
ANSWER = "answer"


@dataclass(frozen=True)
class Criterion:
    """One line of the acceptance: what was asked, what was found, and whether it was met; None: nothing to judge by."""

    number: int
    asked: str
    found: str
    met: bool | None


def of_story(rows: Sequence[PlayedRow], story: str) -> list[PlayedRow]:
    """The rows about aliased, or about easy videos."""
    return [row for row in rows if row.story == story]


def mean_over(values: Sequence[float]) -> float:
    """Mean; NaN of none."""
    return math.fsum(values) / len(values) if values else math.nan


def accuracy(rows: Sequence[PlayedRow]) -> float:
    """Share of right answers."""
    return mean_over([float(row.correct) for row in rows])


def interval_of(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Bootstrap interval (95 %) of a mean; None of none."""
    return mean_interval(values, seed=seed) if values else None


def first_acts(rows: Sequence[PlayedRow]) -> Counter[str]:
    """First moves of episodes: an operator, or the answer. A judge that always looks, or never, has one of them."""
    return Counter(row.operators[0] if row.operators else ANSWER for row in rows)


def used(rows: Sequence[PlayedRow]) -> Counter[str]:
    """Number of uses of each operator."""
    return Counter(name for row in rows for name in row.operators)


def entropy(counts: Mapping[str, int]) -> float:
    """Entropy of shares in bits."""
    total = sum(counts.values())
    return max(0.0, -sum(c / total * math.log2(c / total) for c in counts.values() if c)) if total else 0.0


def g_test(first: Mapping[str, int], second: Mapping[str, int]) -> float:
    """p-value of the likelihood-ratio test that two counts have one distribution; 1 where there is one kind only.

    Example:
        >>> g_test({"zoom": 5}, {"zoom": 9})
        1.0
    """
    names = sorted({k for counts in (first, second) for k, c in counts.items() if c})
    table = [[counts.get(name, 0) for name in names] for counts in (first, second)]
    if len(names) < 2 or any(sum(row) == 0 for row in table):
        return 1.0
    return float(chi2_contingency(table, lambda_="log-likelihood").pvalue)


def sees_what_is_hidden(
    learned: Sequence[PlayedRow], passive: Sequence[PlayedRow], oracle: Sequence[PlayedRow], drawn: Sequence[PlayedRow]
) -> list[Criterion]:
    """Criterion 6: accuracy on aliased videos, of the judge and of scripts beside it."""
    ours, blind, best, random = (accuracy(of_story(rows, ALIASED)) for rows in (learned, passive, oracle, drawn))
    return [
        Criterion(6, "passive at 2 fps .50 +- .05", f"{blind:.3f}", abs(blind - 0.5) <= 0.05),
        Criterion(6, "scripted oracle 1.0", f"{best:.3f}", best == 1.0),
        Criterion(6, "judge at least .75", f"{ours:.3f}", ours >= 0.75),
        Criterion(
            6,
            "judge at least .15 above random operators at equal frames",
            f"{ours:.3f} against {random:.3f} ({mean_over([r.num_frames for r in drawn]):.1f} frames against "
            f"{mean_over([r.num_frames for r in learned]):.1f})",
            ours - random >= 0.15,
        ),
    ]


def does_not_collapse(learned: Sequence[PlayedRow], others: Mapping[str, Sequence[PlayedRow]]) -> list[Criterion]:
    """Criterion 7: what it does first differs, and follows the video; scripts are worth less.

    Args:
        others: rows of always-zoom, never-look and random.
    """
    acts = entropy(first_acts(learned))
    p = g_test(first_acts(of_story(learned, ALIASED)), first_acts(of_story(learned, EASY)))
    ours = mean_over([row.utility for row in learned])
    worths = {name: mean_over([row.utility for row in rows]) for name, rows in others.items()}
    kinds = entropy(used(learned))
    return [
        Criterion(
            7, "entropy of what it does first at least .5 bit", f"{acts:.2f} (operators alone {kinds:.2f})", acts >= 0.5
        ),
        Criterion(7, "aliased and easy videos differ in it, G-test p < .01", f"p = {p:.2g}", p < 0.01),
        Criterion(
            7,
            "always-zoom, never-look and random have a lower mean utility",
            f"{ours:.3f} against " + ", ".join(f"{name} {worth:.3f}" for name, worth in worths.items()),
            all(worth < ours for worth in worths.values()),
        ),
    ]


def learns_to_save(learned: Sequence[PlayedRow], cold: Sequence[PlayedRow]) -> Criterion:
    """Criterion 8: operators on easy videos, after the cold start and after the rounds."""
    before, after = of_story(cold, EASY), of_story(learned, EASY)
    first, last = (mean_over([len(row.operators) for row in rows]) for rows in (before, after))
    lost = accuracy(before) - accuracy(after)
    return Criterion(
        8,
        "30 % fewer operators on easy videos than after the cold start, accuracy within 2 points",
        f"{first:.2f} to {last:.2f}; accuracy {accuracy(before):.3f} to {accuracy(after):.3f}",
        first > 0 and last <= 0.7 * first and lost <= 0.02 + 1e-12,
    )


def generalises(implicit: float | None) -> Criterion:
    """Criterion 9: held-out pairs of the last round that come out right."""
    found = "not logged" if implicit is None else f"{implicit:.3f}"
    return Criterion(
        9, "held-out pairs come out right at least .65", found, None if implicit is None else implicit >= 0.65
    )
