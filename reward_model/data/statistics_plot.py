"""The figure of a data set (Fig. S1): type, saliency, temporal span, item and area, each in a panel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.data.statistics import SALIENCY_NAMES, DatasetStatistics
from reward_model.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
MAX_ITEMS = 12
COLOURS = ("#35618f", "#8fb3d9", "#c9c9c9")


def plot_statistics(statistics: DatasetStatistics, path: str | Path) -> Path:
    """Draws the panels and writes them, atomically.

    Args:
        path: ends in .png, .svg or .pdf.

    Raises:
        ValueError: another suffix.
        ImportError: if matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{str(path)!r} must end in {', '.join(SUFFIXES)}")
    figure = draw_statistics(statistics)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def draw_statistics(statistics: DatasetStatistics) -> Figure:
    """The figure itself, without pyplot: no display and no global state is touched.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "cac-align[train]", or pip install matplotlib') from error
    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, 3).flat
    types, saliency, spans, items, areas, classes = panels
    _bars(types, "Videos by type", {n: c["videos"] for n, c in statistics.types.items()})
    _stacked(saliency, "Anomalies by saliency", statistics.saliency)
    _bars(spans, "Temporal span of anomalies", statistics.span_bins)
    _bars(items, "Affected items", dict(list(statistics.items.items())[:MAX_ITEMS]))
    _bars(areas, "Area of anomalies", statistics.area_bins)
    _bars(classes, "Videos by class", statistics.videos)
    return figure


def _bars(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    # Names come from annotators: a "$" would start mathematics.
    names = [name.replace("$", r"\$") for name in counts]
    bars = axes.barh(range(len(names)), list(counts.values()), color=COLOURS[0])
    axes.bar_label(bars, padding=2, fontsize=8)
    _finish(axes, title, names, max(counts.values(), default=0))


def _stacked(axes: Axes, title: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    left = [0] * len(counts)
    for word, colour in zip(SALIENCY_NAMES.values(), COLOURS, strict=True):
        values = [row[word] for row in counts.values()]
        axes.barh(range(len(values)), values, left=left, color=colour, label=word)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.legend(fontsize=8)
    _finish(axes, title, list(counts), max(left, default=0))


def _finish(axes: Axes, title: str, names: list[str], longest: int) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(longest, 1) * 1.15)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
