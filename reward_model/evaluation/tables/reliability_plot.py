"""Reliability plots: stated probability against observed share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.config import READOUTS
from reward_model.evaluation.metrics.calibration import calibration_error, reliability_bins
from reward_model.evaluation.running.measure import readout_values
from reward_model.evaluation.running.row import Row
from reward_model.extras import need
from reward_model.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Probabilities of "normal", and whether it was.
Stated = tuple[list[float], list[bool]]


def plot_reliability(rows: Mapping[str, Sequence[Row]], path: str | Path, *, num_bins: int = 10) -> Path | None:
    """One panel per judge, one line per readout; dots grow with the number of videos in the bin.

    Args:
        rows: rows of each judge, by its name. Judges without probabilities have no panel.
        path: path of the picture; its suffix names the format.

    Returns:
        The path, or None if no judge states probabilities and nothing was written.

    Raises:
        ImportError: if matplotlib is missing.
    """
    panels = {name: found for name, of_judge in rows.items() if (found := _probabilities(of_judge))}
    if not panels:
        return None
    figure = draw_reliability(panels, num_bins)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={})
    return Path(path)


def draw_reliability(panels: Mapping[str, Mapping[str, Stated]], num_bins: int = 10) -> Figure:
    """The matplotlib figure of :func:`plot_reliability`, from the probabilities of each judge and readout."""
    Figure = need("matplotlib.figure", "a reliability plot").Figure  # noqa: N806
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 4 * lines), layout="constrained")
    for number, (name, readouts) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(lines, columns, number)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for readout, (stated, happened) in readouts.items():
            bins = reliability_bins(stated, happened, num_bins=num_bins)
            gap = calibration_error(stated, happened, num_bins=num_bins)
            x, y = [b.stated for b in bins], [b.observed for b in bins]
            color = f"C{READOUTS.index(readout)}"  # the same in every panel
            axes.plot(x, y, linewidth=1, color=color, label=f"{readout} (ECE {gap:.3f})")
            axes.scatter(x, y, s=[8 + 80 * b.num / len(stated) for b in bins], color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated P(normal)", ylabel="share of normal videos")
        # A dollar sign would start a formula.
        axes.set_title(name.replace("$", r"\$"), fontsize=10)
        axes.legend(fontsize=8, loc="upper left")
    return figure


def _probabilities(rows: Sequence[Row]) -> dict[str, Stated]:
    found = {}
    for readout, values in readout_values(rows).items():
        known = [(v, r.truth == "normal") for v, r in zip(values, rows, strict=True) if v is not None and 0 <= v <= 1]
        if readout != "score" and known:
            found[readout] = ([v for v, _ in known], [n for _, n in known])
    return found
