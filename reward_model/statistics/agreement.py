"""Agreement of annotators beyond chance: Cohen's kappa and Krippendorff's alpha for nominal labels, as pure functions.

Both are 1 for full agreement, 0 for what chance would give, and negative below that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Two raters, the same items: ``(p_o - p_e) / (1 - p_e)``, p_e from each rater's own label shares (Cohen 1960).

    Args:
        first, second: one label per item, in the same order.

    Returns:
        None if both used one and the same label throughout: agreement cannot be told from chance then.

    Raises:
        ValueError: no items, or sequences of different lengths.

    Example:
        >>> cohen_kappa("aaaabbbb", "aaabbbba")
        0.5
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"two raters need the same items, at least one; got {len(first)} and {len(second)} labels")
    num = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True))
    left, right = Counter(first), Counter(second)
    # In whole numbers, so that a perfect score is exactly 1.
    expected = sum(left[label] * right[label] for label in left)
    if expected == num * num:
        return None
    return (observed * num - expected) / (num * num - expected)


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float | None:
    """Any number of raters, labels may be missing: ``1 - D_o / D_e`` with the nominal metric (Krippendorff 2011).

    Args:
        units: one entry per item: the labels it received, None if a rater gave none. Items with fewer than two
            labels do not count.

    Returns:
        None if all labels that count are the same one.

    Raises:
        ValueError: if no item has two labels.

    Example:
        >>> krippendorff_alpha([["a", "a"], ["b", "b"], ["a", "b"], ["a", None]])
        0.4444444444444444
    """
    labelled = [[label for label in unit if label is not None] for unit in units]
    paired = [unit for unit in labelled if len(unit) > 1]
    if not paired:
        raise ValueError("no item has labels of two raters; agreement needs at least one that has")
    totals = Counter(label for unit in paired for label in unit)
    num = sum(totals.values())
    expected = num * num - sum(count * count for count in totals.values())
    if expected == 0:
        return None
    observed = sum((len(u) ** 2 - sum(c * c for c in Counter(u).values())) / (len(u) - 1) for u in paired)
    return 1 - (num - 1) * observed / expected
