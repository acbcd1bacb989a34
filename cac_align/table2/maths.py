"""Uncertainty of a table's numbers: means, differences and ratios over prompts and training seeds.

Everything is a pure function of arrays ``(R, P, S)``: R training seeds (1 for rows that are not trained), P prompts, S
evaluation seeds; NaN is a video without a value. Videos of one prompt are not independent, so intervals redraw
prompts with all their videos, and, where there are several training seeds, those as well, crossed with the prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reward_model.statistics.intervals import Interval, wilson
from reward_model.statistics.significance import paired_permutation

#: A ratio whose base is 0 in more than this share of the resamples has no interval.
MAX_UNDEFINED = 0.05


class Found(NamedTuple):
    """A number, its 95 % interval (None if there is too little to resample), and how many videos it stands on."""

    value: float | None
    interval: Interval | None
    num: int


class Redraw(NamedTuple):
    """Counts of each training seed, (B, R), and each prompt, (B, P), in each of B resamples."""

    seeds: np.ndarray
    prompts: np.ndarray


def redraw(num_seeds: int, num_prompts: int, *, num_resamples: int = 2000, seed: int = 0) -> Redraw:
    """Resamples with replacement. Prompts are redrawn alike for any number of training seeds.

    Raises:
        ValueError: nothing to draw from.
    """
    if num_seeds < 1 or num_prompts < 1 or num_resamples < 1:
        raise ValueError(f"cannot redraw {num_seeds} seeds and {num_prompts} prompts {num_resamples} times")
    rng = np.random.default_rng(seed)
    prompts = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=num_resamples)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_resamples)
    return Redraw(seeds.astype(float), prompts.astype(float))


def mean_of(values: np.ndarray, draws: Redraw, *, rate: bool = False) -> Found:
    """The mean over all videos with a value.

    Args:
        values: (R, P, S).
        draws: draws of :func:`redraw` for R and P.
        rate: values are 0 or 1. A share of exactly 0 or 1 then gets Wilson's interval over prompts, for the bootstrap
            would call it certain.
    """
    found = sum_ratio(_sums(values), _counts(values), draws)
    if rate and found.value in (0.0, 1.0):
        prompts = int((~np.isnan(values)).any(axis=(0, 2)).sum())
        return found._replace(interval=wilson(prompts if found.value else 0, prompts))
    return found


def difference_of(values: np.ndarray, base: np.ndarray, draws: Redraw) -> Found:
    """Mean of (row minus base) over the videos that both have a value of.

    Args:
        values: (R, P, S) of the row.
        base: (1, P, S); video (r, p, s) of the row is compared with base video (p, s), which starts from the same
            latents.
    """
    gaps = values - base
    return sum_ratio(_sums(gaps), _counts(gaps), draws)


def ratio_of(values: np.ndarray, base: np.ndarray, draws: Redraw) -> Found:
    """The row's mean over the base's, on the videos that both have a value of; None if the base's is 0."""
    both = ~np.isnan(values) & ~np.isnan(base)
    return sum_ratio(_sums(np.where(both, values, np.nan)), _sums(np.where(both, base, np.nan)), draws, _counts(both))


def p_value(values: np.ndarray, base: np.ndarray, *, seed: int = 0) -> float | None:
    """Two-sided p-value of the difference under exchange of row and base, prompt by prompt.

    A prompt's value is the mean over its videos and training seeds, so that p tells of other prompts and not of other
    trainings. None for fewer than two prompts.
    """
    gaps = values - base
    counts = _counts(gaps).sum(0)
    known = counts > 0
    if known.sum() < 2:
        return None
    means = _sums(gaps).sum(0)[known] / counts[known]
    return paired_permutation(means, np.zeros(len(means)), seed=seed)


def by_seed(values: np.ndarray) -> list[float | None]:
    """The mean of each training seed."""
    counts = _counts(values).sum(1)
    return [float(s / c) if c else None for s, c in zip(_sums(values).sum(1), counts, strict=True)]


def _sums(values: np.ndarray) -> np.ndarray:
    """(R, P): sums over evaluation seeds."""
    return np.nansum(values, axis=2)


def _counts(values: np.ndarray) -> np.ndarray:
    """(R, P): how many values there are; for booleans, how many are true."""
    there = values if values.dtype == bool else ~np.isnan(values)
    return there.sum(axis=2).astype(float)


def sum_ratio(above: np.ndarray, below: np.ndarray, draws: Redraw, counts: np.ndarray | None = None) -> Found:
    """Sum over sum, (R, P) each, with the percentile interval of its resamples."""
    counts = below if counts is None else counts
    num, bottom = int(counts.sum()), float(below.sum())
    if not num or bottom == 0:
        return Found(None, None, num)
    value = float(above.sum() / bottom)
    if int((counts.sum(0) > 0).sum()) < 2:
        return Found(value, None, num)
    tops, bottoms = (np.einsum("br,rp,bp->b", draws.seeds, x, draws.prompts) for x in (above, below))
    usable = bottoms != 0
    if (~usable).mean() > MAX_UNDEFINED:
        return Found(value, None, num)
    low, high = np.quantile(tops[usable] / bottoms[usable], [0.025, 0.975])
    return Found(value, Interval(float(low), float(high)), num)
