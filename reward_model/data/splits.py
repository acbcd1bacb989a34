"""Splits that do not leak: by source footage, the same on every machine, hardly moved by new videos.

A group (the extra key ``group``, else the video itself) goes to the split that a hash of its name and the seed points
at. So a corrupted twin lands beside its original, and adding videos never moves the others. Whether a group is held out
is a separate draw: were it the same number, what is held out would all be missing from the same stage.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reward_model.data.records import Record

Balance = Literal["drop", "error", "keep"]

#: The paper's stages: 20K frames, 20K + 15K videos and clips, 7.5K instances (C.2).
STAGE_PROPORTIONS: Mapping[str, float] = {"stage1": 20.0, "stage2": 35.0, "stage3": 7.5}
#: The split that no stage trains on.
TEST = "test"


@dataclass(frozen=True)
class SplitRecords:
    """Records with their new ``split``, in their old order, and those that balancing left out."""

    records: list[Record]
    dropped: list[Record]

    def counts(self) -> dict[str, dict[str, int]]:
        """Normal and abnormal videos of each split."""
        found: dict[str, dict[str, int]] = {}
        for record in self.records:
            found.setdefault(record.split, {"normal": 0, "abnormal": 0})[record.truth.status] += 1
        return dict(sorted(found.items()))


def split_records(
    records: Iterable[Record],
    proportions: Mapping[str, float] = STAGE_PROPORTIONS,
    *,
    seed: int = 0,
    balance: Balance = "keep",
    test: float = 0.0,
) -> SplitRecords:
    """Gives every record a split.

    Args:
        proportions: weight of each split; they need not add up to 1. Sizes follow them as a draw does: exactly in the
            long run, with a spread of sqrt(n) for small sets.
        seed: another seed, another draw.
        balance: ``"drop"`` leaves out surplus videos of the larger class of each split until both are equal,
            ``"error"`` demands that they are, ``"keep"`` takes them as they come. Dropping starts with groups of one
            class, so that twins stay together.
        test: share of the footage that goes to the split ``test`` before the rest is dealt; which split the rest goes
            to does not depend on it.

    Raises:
        ValueError: weights that are not positive, a test share outside [0, 1) or that leaves the test set or the other
            splits without a video, or classes that differ under ``balance="error"``.
    """
    names = _check_proportions(proportions)
    if not 0 <= test < 1:
        raise ValueError(f"test={test:g} must be a share of the footage from 0 to below 1, for instance 0.1")
    if test and TEST in proportions:
        raise ValueError(f"both test={test:g} and a weight for the split {TEST!r} are given; use one of the two")
    drawn = []
    for record in records:
        held = held_out(record.group, test, seed, TEST)
        drawn.append(replace(record, split=TEST if held else _draw(record.group, names, proportions, seed)))
    kept = drawn if balance == "keep" else _balanced(drawn, balance, seed)
    if test:
        _check_test(drawn, kept, test, seed)
    ids = {id(r) for r in kept}
    return SplitRecords(kept, [r for r in drawn if id(r) not in ids])


def held_out(group: str, share: float, seed: int, purpose: str) -> bool:
    """True if a group belongs to the ``share`` that is held out: a draw for each purpose, the same each time."""
    return share > 0 and position(f"{purpose}\0{group}", seed) < share


def _check_test(drawn: Sequence[Record], kept: Sequence[Record], test: float, seed: int) -> None:
    """Both the test set and the other splits must hold a video."""
    groups = {r.group for r in drawn}
    for part, inside in (("test set", lambda r: r.split == TEST), ("other splits", lambda r: r.split != TEST)):
        if any(map(inside, kept)):
            continue
        number = sum(map(inside, drawn))
        if number:
            raise ValueError(
                f"test={test:g} gives the {part} {number} videos of one class only, and balancing leaves out all of "
                "them; use another seed, add videos of the other class, or keep all (balance='keep')"
            )
        fits = (k for k in range(1000) if 0 < sum(held_out(g, test, k, TEST) for g in groups) < len(groups))
        other = next(fits, None)
        seeds = "" if other is None else f", or use another share or seed (seed {other} gives both some)"
        raise ValueError(
            f"test={test:g} of {len(groups)} groups of footage leaves no video for the {part} with seed {seed}: a "
            f"group is never divided, and each is drawn by chance. Add footage{seeds}"
        )


def _check_proportions(proportions: Mapping[str, float]) -> list[str]:
    if not proportions:
        raise ValueError("proportions is empty; give each split a weight, such as train=0.9 test=0.1")
    for name, weight in proportions.items():
        if not name or not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"split {name!r} has weight {weight}; it must have a name and a weight above zero")
    return list(proportions)


def _draw(group: str, names: Sequence[str], proportions: Mapping[str, float], seed: int) -> str:
    point = position(group, seed) * sum(proportions.values())
    for name in names:
        point -= proportions[name]
        if point < 0:
            return name
    return names[-1]


def position(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on the name and the seed alone, evenly spread (SHA-256)."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _balanced(records: Sequence[Record], balance: Balance, seed: int) -> list[Record]:
    dropped: set[int] = set()
    for split in {r.split: None for r in records}:
        inside = [r for r in records if r.split == split]
        counts = Counter(r.truth.status for r in inside)
        surplus = counts["abnormal"] - counts["normal"]
        if surplus and balance == "error":
            raise ValueError(
                f"split {split!r} holds {counts['normal']} normal and {counts['abnormal']} abnormal videos; "
                "add videos of the smaller class, or drop the surplus (balance='drop')"
            )
        larger = "abnormal" if surplus > 0 else "normal"
        order = _by_worth([r for r in inside if r.truth.status == larger], inside, seed)
        dropped |= {id(r) for r in order[len(order) - abs(surplus) :]}
    return [r for r in records if id(r) not in dropped]


def _by_worth(larger: Sequence[Record], inside: Sequence[Record], seed: int) -> list[Record]:
    """Least wanted last: one twin of every mixed group, then the second ones, ...; then groups of one class."""
    classes: dict[str, set[str]] = {}
    for record in inside:
        classes.setdefault(record.group, set()).add(record.truth.status)
    ranks: Counter[str] = Counter()
    keyed = []
    for record in sorted(larger, key=lambda r: position(r.truth.video_id, seed)):
        group = record.group
        keyed.append(((len(classes[group]) < 2, ranks[group], position(group, seed)), record))
        ranks[group] += 1
    return [record for _, record in sorted(keyed, key=lambda pair: pair[0])]
