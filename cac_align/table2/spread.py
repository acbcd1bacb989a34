"""Learnable signal of a reward: how far it spreads over videos of one prompt, and whether it ranks them as the rule
does.

Group-relative training sees nothing else of a reward. A readout whose values stand still within a group teaches
nothing, however well it tells prompts apart; one that spreads but orders a group otherwise than the truth teaches what
nobody wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cac_align.table2.correlations import MAX_RESAMPLES
from cac_align.table2.maths import redraw, sum_ratio
from cac_align.table2.matrix import Matrix, column_of
from reward_model.statistics.table import Estimate, Table

#: A group whose standard deviation is below this, on a scale of 0 to 1, is called flat.
FLAT = 0.01
FAULT = "world/anomaly"


@dataclass(frozen=True)
class GroupSpread:
    """A reward within groups.

    Attributes:
        name: name of the reward or readout.
        num_groups: groups with at least two values.
        std: mean over groups of the (population) standard deviation; None without groups.
        flat: share of groups below :data:`FLAT`.
        num_pairs: pairs within a group of which the rule objects to one video only.
        ordered: share of them in which that video has the lower reward, ties half; with a 95 % interval over groups.
    """

    name: str
    num_groups: int
    std: float | None
    flat: float | None
    num_pairs: int
    ordered: Estimate

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        return plain | {
            "ordered": self.ordered.value,
            "ordered_interval": list(self.ordered.interval) if self.ordered.interval else None,
        }


def group_spread(
    name: str,
    values: np.ndarray,
    faults: np.ndarray,
    groups: np.ndarray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> GroupSpread:
    """Spread and order of a reward within groups.

    Args:
        name: name of the reward.
        values: (N,) rewards, NaN where there is none.
        faults: (N,) 1 where the rule objects, 0 where not, NaN where it was not asked.
        groups: (N,) labels.
        num_resamples, seed: resamples and seed of the bootstrap over groups.

    Example:
        >>> found = group_spread("r", np.array([0.2, 0.8, 0.5, 0.5]), np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1]))
        >>> round(found.std, 3), found.flat, found.num_pairs, found.ordered.value
        (0.15, 0.5, 2, 0.75)
    """
    stds, won, pairs = [], [], []
    for group in np.unique(groups):
        own = (groups == group) & ~np.isnan(values)
        if own.sum() < 2:
            continue
        stds.append(float(values[own].std()))
        bad, good = values[own & (faults == 1)], values[own & (faults == 0)]
        gaps = good[:, None] - bad[None, :]
        won.append(float((gaps > 0).sum() + 0.5 * (gaps == 0).sum()))
        pairs.append(float(gaps.size))
    if not stds:
        return GroupSpread(name, 0, None, None, 0, Estimate(None))
    flat = float(np.mean(np.array(stds) < FLAT))
    draws = redraw(1, len(pairs), num_resamples=num_resamples, seed=seed)
    found = sum_ratio(np.array([won]), np.array([pairs]), draws)
    ordered = Estimate(found.value, found.interval)
    return GroupSpread(name, len(stds), float(np.mean(stds)), flat, int(sum(pairs)), ordered)


def spreads(matrix: Matrix) -> list[GroupSpread]:
    """All rewards, their parts and readouts over the base's candidates, a group for each prompt; a readout that is the
    reward itself is left out.
    """
    rows, groups = matrix.videos(matrix.candidates)
    rewards = tuple(matrix.settings.reward_specs)
    names = dict.fromkeys(k for row in rows for k, v in row.items() if v is not None and _is_reward(k, rewards))
    columns, faults = {name: column_of(rows, name) for name in names}, column_of(rows, FAULT)

    def repeats(name: str) -> bool:
        whole = name.partition("/")[0]
        return whole != name and whole in columns and np.array_equal(columns[name], columns[whole], equal_nan=True)

    options = {"num_resamples": min(matrix.settings.num_resamples, MAX_RESAMPLES), "seed": matrix.settings.seed}
    return [group_spread(n, columns[n], faults, groups, **options) for n in names if not repeats(n)]


def spread_table(found: Sequence[GroupSpread]) -> Table:
    """A row for each reward."""
    lines = [(f.name, f.num_groups, f.std, f.flat, f.num_pairs, f.ordered) for f in found]
    notes = (
        f"Candidates of the base, a group for each prompt: what group-relative training sees. Flat: standard deviation "
        f"below {FLAT}. Ordered as the rule: of the pairs with a video the rule objects to and one it does not, the "
        "share in which the first has the lower reward, ties half; 95% bootstrap intervals over prompts.",
    )
    heads = ("reward", "groups", "std within", "flat groups", "pairs", "ordered as the rule")
    return Table("Rewards within a prompt", heads, [lines], notes)


def _is_reward(key: str, rewards: Sequence[str]) -> bool:
    """True if a value is a reward, or one of its readouts or axes; a verdict's 0 or 1 is not."""
    whole, _, part = key.partition("/")
    return whole in rewards and part != "abnormal"
