"""Two judges on the same videos, with paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_model.evaluation.metrics.classification import auroc
from reward_model.evaluation.running.row import Row
from reward_model.statistics.significance import Difference, McNemar, mcnemar, paired_bootstrap, paired_permutation


@dataclass(frozen=True)
class JudgeDifference:
    """First judge minus second.

    Attributes:
        num: videos both were asked about.
        accuracy: difference of the shares judged right, with its paired bootstrap interval.
        mcnemar: exact test on the videos only one of them got right.
        permutation_p: p-value of the accuracy difference under random exchange.
        auroc: difference of the scores' AUROC, None unless both scored videos of both classes.
    """

    num: int
    accuracy: Difference
    mcnemar: McNemar
    permutation_p: float
    auroc: Difference | None


def compare_judges(first: Sequence[Row], second: Sequence[Row], *, num_resamples: int = 2000) -> JudgeDifference:
    """Paired comparison of the rows of two judges; an unparsed answer is wrong.

    Raises:
        ValueError: if they did not judge the same videos, or one gave scores only.
    """
    a, b = ({row.video: row for row in rows} for rows in (first, second))
    if a.keys() != b.keys() or not a or any(a[k].truth != b[k].truth for k in a):
        odd = sorted(a.keys() ^ b.keys())[:3]
        raise ValueError(
            f"paired tests need the same videos: {len(a)} and {len(b)} were judged"
            + (f", only one judged {', '.join(odd)}" if odd else "")
        )
    if not all(row.has_verdict for row in (*first, *second)):
        raise ValueError("paired tests need a status of every video; turn scores into one by a threshold first")
    videos = sorted(a)
    right = [np.array([rows[v].correct for v in videos], float) for rows in (a, b)]
    return JudgeDifference(
        num=len(videos),
        accuracy=paired_bootstrap(lambda values, _: float(values.mean()), *right, num_resamples=num_resamples),
        mcnemar=mcnemar(right[0] > 0, right[1] > 0),
        permutation_p=paired_permutation(*right),
        auroc=_auroc_difference([a[v] for v in videos], [b[v] for v in videos], num_resamples),
    )


def _auroc_difference(first: Sequence[Row], second: Sequence[Row], num_resamples: int) -> Difference | None:
    scored = [(x, y) for x, y in zip(first, second, strict=True) if x.score is not None and y.score is not None]
    truth = np.array([x.truth == "normal" for x, _ in scored], bool)
    if not truth.any() or truth.all():
        return None
    return paired_bootstrap(
        lambda values, k: auroc(values, truth[k]),
        np.array([x.score for x, _ in scored], float),
        np.array([y.score for _, y in scored], float),
        strata=truth,
        num_resamples=num_resamples,
    )
