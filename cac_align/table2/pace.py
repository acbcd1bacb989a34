"""The price of being as good as another training: share of evaluation videos with a fault, by the rule that no training
listens to, against the transformer forward passes that it took to get there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cac_align.selection.costs import as_count
from cac_align.table2.curves import draw_twice, plain_axes, read_steps, step_forwards
from cac_align.table2.training import Training
from reward_model.statistics.intervals import wilson
from reward_model.statistics.table import Cell, Estimate, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Files of the picture, for light and for dark pages.
PACE, DARK_PACE = "pace.png", "pace_dark.png"
#: Of a log: the share of evaluation videos in which the rule finds nothing.
SOUND = "eval/part/rule"


@dataclass(frozen=True)
class Pace:
    """The evaluations of a training, in their order.

    Attributes:
        forwards: (E,) transformer passes of one video, to draw and to learn, up to each evaluation; evaluations
            themselves and backward passes are not in them.
        rates: (E,) shares of evaluation videos with a fault.
    """

    forwards: tuple[float, ...]
    rates: tuple[float, ...]

    def until(self, rate: float) -> float | None:
        """Forward passes at the first evaluation with at most this share of faults; None if there is none.

        >>> Pace((0, 100, 200, 300), (0.5, 0.3, 0.2, 0.25)).until(0.25)
        200
        """
        return next((f for f, found in zip(self.forwards, self.rates, strict=True) if found <= rate), None)


def pace(steps: Sequence[Mapping[str, float]]) -> Pace | None:
    """The pace that a log tells of; None where nothing was evaluated, or no passes were counted.

    Args:
        steps: lines of a log, as :func:`cac_align.table2.curves.read_steps` gives them.
    """
    spent, rates = step_forwards(steps), {int(s["step"]): 1 - float(s[SOUND]) for s in steps if SOUND in s}
    if not rates or not spent:
        return None
    at = sorted(rates)
    return Pace(tuple(sum(v for k, v in spent.items() if k <= step) for step in at), tuple(rates[k] for k in at))


def mean_pace(paces: Sequence[Pace]) -> Pace:
    """The mean of several trainings' paces, evaluation by evaluation, as far as all of them have come.

    >>> mean_pace([Pace((0, 10), (0.4, 0.2)), Pace((0, 20), (0.2, 0.2))]).forwards
    (0.0, 15.0)
    """
    count, num = min(len(c.rates) for c in paces), len(paces)
    return Pace(
        tuple(sum(c.forwards[k] for c in paces) / num for k in range(count)),
        tuple(sum(c.rates[k] for c in paces) / num for k in range(count)),
    )


def row_paces(trainings: Sequence[Training]) -> dict[str, list[Pace]]:
    """Of each row's name the paces of its trainings that have a log."""
    found: dict[str, list[Pace]] = {}
    for training in trainings:
        made = pace(read_steps(training.folder))
        if made is not None:
            found.setdefault(training.row.name, []).append(made)
    return found


def pace_table(paces: Mapping[str, Sequence[Pace]], reach: str, num_videos: int) -> Table:
    """Forward passes that each row takes to the last share of faults of one of them.

    Args:
        paces: of each row's name, one for each training seed.
        reach: name of that row.
        num_videos: videos of an evaluation.

    Raises:
        ValueError: if that row has no pace yet.
    """
    if reach not in paces:
        raise ValueError(f"no training of {reach!r} has a log with evaluations yet; run with --parts train")
    reference = mean_pace(paces[reach])
    goal = reference.rates[-1]
    own = reference.until(goal)
    lines: list[Sequence[Cell]] = []
    for name, several in paces.items():
        mean = mean_pace(several)
        there = mean.until(goal)
        count = num_videos * len(several)
        last = Estimate(mean.rates[-1], wilson(round(mean.rates[-1] * count), count))
        share = None if there is None or not own else there / own
        spent = (as_count(mean.forwards[-1]), None if there is None else as_count(there))
        lines.append((name, len(several), mean.rates[0], last, *spent, share))
    titles = ("row", "training seeds", "faults before", "faults at the end", "forwards", "until", f"share of {reach}'s")
    notes = (
        f"Faults: share of {num_videos} evaluation videos in which the rule finds one, mean over training seeds; "
        "intervals are Wilson's over the videos of all seeds, as if none shared a prompt.",
        "forwards: transformer passes of one video, to draw and to learn, of one training; evaluations and backward "
        f"passes are not in them. until: those before the first evaluation with at most {goal:.3f}, the last share of "
        f"{reach}; '-': none has so few.",
    )
    return Table("Faults against forward passes", titles, [lines], notes)


def plot_pace(paces: Mapping[str, Sequence[Pace]], reach: str, folder: Path) -> list[Path]:
    """Draws every training faintly and the mean of each row over it; returns the two files.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    return draw_twice((folder / PACE, folder / DARK_PACE), lambda colours: _figure(paces, reach, colours))


def _figure(paces: Mapping[str, Sequence[Pace]], reach: str, colours: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    place = figure.subplots()
    for number, (name, several) in enumerate(paces.items()):
        colour, mean = colours[number % len(colours)], mean_pace(several)
        for one in several:
            place.plot(one.forwards, one.rates, color=colour, lw=0.7, alpha=0.35)
        label = f"{name} (mean of {len(several)})" if len(several) > 1 else name
        place.plot(mean.forwards, mean.rates, color=colour, lw=1.8, marker="o", ms=4, label=label)
    place.axhline(mean_pace(paces[reach]).rates[-1], color="#8a8f98", lw=0.9, ls="--", label=f"{reach}, at the end")
    place.set_ylim(bottom=0)
    place.set_xlabel("transformer forward passes of one video, to draw and to learn", fontsize=9)
    place.set_ylabel("share of evaluation videos with a fault (rule)", fontsize=9)
    plain_axes(place)
    place.legend(frameon=False, fontsize=8)
    return figure
