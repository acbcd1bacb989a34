"""Kinds of anomalies in the world: fifteen in the paper's five families, and where each can happen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reward_model.schema import AnomalyType, FrameRange

#: Each kind and the family it belongs to. A kind is accepted by name wherever a type is.
KINDS: dict[str, AnomalyType] = {
    "squash": AnomalyType.OBJECT,
    "split": AnomalyType.OBJECT,
    "extra_limb": AnomalyType.HUMAN,
    "missing_limb": AnomalyType.HUMAN,
    "bent_limb": AnomalyType.HUMAN,
    "vanish": AnomalyType.MOTION,
    "appear": AnomalyType.MOTION,
    "flicker": AnomalyType.MOTION,
    "teleport": AnomalyType.MOTION,
    "float": AnomalyType.PHYSICAL,
    "overlap": AnomalyType.PHYSICAL,
    "rebound": AnomalyType.PHYSICAL,
    "scramble": AnomalyType.CHARACTER,
    "mirror": AnomalyType.CHARACTER,
    "change": AnomalyType.CHARACTER,
}
#: What the affected thing does; a reason is "the <name> <words>".
REASONS: dict[str, str] = {
    "squash": "is squashed",
    "split": "splits in two",
    "extra_limb": "has an extra limb",
    "missing_limb": "lacks a limb",
    "bent_limb": "has a limb bent the wrong way",
    "vanish": "vanishes",
    "appear": "appears out of nowhere",
    "flicker": "flickers",
    "teleport": "jumps elsewhere",
    "float": "hangs in the air",
    "overlap": "passes through the block",
    "rebound": "bounces higher than it fell",
    "scramble": "shows broken letters",
    "mirror": "shows mirrored letters",
    "change": "changes its word",
}
#: Kinds that a single frame shows (paper, section B.1.2); the others need frames to be compared. A changed word is a
#: family exception.
SINGLE_FRAME = ("squash", "split", "extra_limb", "missing_limb", "bent_limb", "overlap", "scramble", "mirror")

#: Kinds whose boxes stand on the last and first frame around the event instead of on every frame (section B.1.3).
BOUNDARY = ("vanish", "appear")

SETTINGS = ("single", "objects", "person", "physics", "sign")
_THINGS = ("single", "objects")
SETTINGS_OF: dict[str, tuple[str, ...]] = {
    kind: {
        AnomalyType.OBJECT: _THINGS,
        AnomalyType.MOTION: _THINGS,
        AnomalyType.HUMAN: ("person",),
        AnomalyType.PHYSICAL: ("physics",),
        AnomalyType.CHARACTER: ("sign",),
    }[family]
    for kind, family in KINDS.items()
}


@dataclass(frozen=True)
class Fault:
    """The anomaly of a scene. ``strength`` means what its kind makes of it (the stretch of a squash, the gap of a
    split in radii); ``draw`` is a number in [0, 1) that settles its details.
    """

    kind: str
    frames: FrameRange
    strength: float
    draw: float

    @property
    def type(self) -> AnomalyType:
        return KINDS[self.kind]


def find_kinds(anomaly: AnomalyType | str) -> list[str]:
    """The kinds a name stands for: itself, or all of a family.

    Raises:
        ValueError: if no kind and no family has that name.
    """
    names = [k for k, family in KINDS.items() if anomaly in (k, family)]
    if not names:
        raise ValueError(
            f"the world has no anomaly {str(anomaly)!r}; kinds: {', '.join(KINDS)}, or the types they belong to"
        )
    return names


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises ValueError for an empty list, or a kind that the world does not know."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds={list(kinds)} must name some of {', '.join(KINDS)}")
