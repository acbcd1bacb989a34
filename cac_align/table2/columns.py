"""The columns a table can have: where their values come from, what they are called, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cac_align.metrics.dimensions import DIMENSIONS


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: in settings.
        key: key of a video's values, ``scorer`` or ``scorer/part``.
        label: as the table shows it.
        better: 1 where higher is better, -1 where lower, 0 where neither.
        rate: its values are 0 or 1 and their mean is a share.
    """

    name: str
    key: str
    label: str
    better: int = 1
    rate: bool = False

    @property
    def title(self) -> str:
        """The label with an arrow."""
        return self.label + {1: " \u2191", -1: " \u2193", 0: ""}[self.better]


#: Computed from pixels here. None is a VBench metric, nor named like one.
PIXELS = (
    Column("motion", "world/motion", "motion of the tracked object, px/s"),
    Column("appearance_drift", "world/appearance_drift", "appearance drift", -1),
    Column("sharpness", "world/sharpness", "edge sharpness"),
    Column("anomaly_rule", "world/anomaly", "anomaly rate (rule)", -1, True),
    Column("motion_energy", "canaries/motion_energy", "motion energy"),
    Column("edge_density", "canaries/edge_density", "edge density"),
    Column("colour_entropy", "canaries/colour_entropy", "colour entropy, bits", 0),
    Column("first_last_drift", "canaries/first_last_drift", "first-last drift", 0),
)
#: Of several videos of a prompt, see :func:`cac_align.table2.measures.diversity`.
DIVERSITY = Column("diversity", "diversity", "difference between videos of a prompt")
PEOPLE = Column("anomaly_people", "people", "anomaly rate (people)", -1, True)
JUDGE = Column("anomaly_judge", "judge/abnormal", "anomaly rate (judge)", -1, True)
VBENCH = tuple(Column(d, f"vbench/{d}", d.replace("_", " ").title(), 1, d == "dynamic_degree") for d in DIMENSIONS)
#: Faults that the rule tells apart.
FAULTS = ("missing", "vanishes", "grows", "deforms", "splits", "jumps")
#: The rule's verdict and its faults, a table of their own.
RULE = (
    Column("any fault", "world/anomaly", "any fault", -1, True),
    *(Column(f"fault {name}", f"world/fault {name}", name, -1, True) for name in FAULTS),
)
COLUMNS = {c.name: c for c in (*PIXELS, DIVERSITY, JUDGE, PEOPLE, *VBENCH)}


def find_column(name: str) -> Column:
    """The column of a name.

    Raises:
        ValueError: if there is none.
    """
    if name not in COLUMNS:
        raise ValueError(f"column {name!r} is unknown; there are {', '.join(COLUMNS)}")
    return COLUMNS[name]


def reward_column(name: str) -> Column:
    """The mean of a reward."""
    return Column(f"reward_{name}", name, f"reward {name}")


def all_columns(names: Iterable[str], rewards: Iterable[str]) -> list[Column]:
    """The columns of a table: those of its settings, then one for each reward."""
    return [*map(find_column, names), *map(reward_column, rewards)]


def fault_columns(names: Iterable[str]) -> tuple[Column, ...]:
    """The columns of single faults, where a table has one that the rule's file of measures fills; else none."""
    return RULE if any(find_column(name).key.startswith("world/") for name in names) else ()
