"""Training curves: reward and anomalies over steps, a line for each training seed, rows beside each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.table2.training import Training
from reward_model.engine.run_log import METRICS
from reward_model.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#35618f", "#c4622d", "#3c8d5a", "#8a4f9e", "#7a6a2f", "#b23a5b")
#: Files of the curves: for light pages and paper, and for dark pages.
CURVES, DARK_CURVES = "curves.png", "curves_dark.png"
#: The same rows on a dark ground, and the colours of ground, text and grid there.
DARK_COLOURS = ("#7fb0e6", "#f0935f", "#6fcf94", "#c78fdb", "#cdb95c", "#f0788f")
_DARK_STYLE = {
    "figure.facecolor": "#101114",
    "axes.facecolor": "#101114",
    "savefig.facecolor": "#101114",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor"), "#ececea"),
    "axes.edgecolor": "#9ba0aa",
    "grid.color": "#6a6f78",
}
#: Steps of the running mean of training curves, whose own values stand faintly behind it.
SMOOTHED = 5
#: Panels after that of the row's own reward: key of a step's numbers, title, and whether 1 - value is shown.
_WATCHED = (("motion_energy", "motion energy, evaluation", False),)


def read_steps(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log; a line that broke off does not count. Empty where there is none."""
    path = folder / METRICS
    found = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            data = json.loads(line) if line.strip() else None
        except ValueError:
            continue
        if isinstance(data, dict) and "step" in data:
            found.append(data)
    return found


def series(steps: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of a key, where it was logged."""
    pairs = [(float(s["step"]), float(s[key])) for s in steps if key in s]
    return [x for x, _ in pairs], [y for _, y in pairs]


def logged_forwards(folder: Path) -> float | None:
    """Transformer forward passes of a whole training, to draw and to learn, as its log counted them; those of its
    evaluations and backward passes are not in it. None where there is no such log.
    """
    counted = step_forwards(read_steps(folder))
    return sum(counted.values()) if counted else None


def step_forwards(steps: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """Transformer forward passes of each step of a log, to draw and to learn; a resumed run's last word counts."""
    counted = {int(s["step"]): s for s in steps if "forwards/train" in s}
    return {step: s["forwards/train"] + s.get("forwards/sample", 0.0) for step, s in counted.items()}


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the last ``width`` values, of fewer at the start.

    >>> running_mean([1.0, 3.0, 5.0, 7.0], 2)
    [1.0, 2.0, 4.0, 6.0]
    """
    parts = [values[max(0, k + 1 - width) : k + 1] for k in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def panels(runs: Sequence[tuple[Training, list[dict[str, float]]]]) -> list[tuple[str, str, bool]]:
    """Panels of the figure: (key, title, True for one minus the value)."""
    keys = dict.fromkeys(key for _, steps in runs for s in steps for key in s)
    parts = [k for k in keys if k.startswith("eval/part/") and "/" not in k.removeprefix("eval/part/")]
    found = [("reward/mean", "the row's own reward, training videos", False)]
    found += [("eval/reward", "the row's own reward, evaluation videos", False)]
    for key in parts:
        name = key.removeprefix("eval/part/")
        rule = name == "rule"
        found.append(
            (f"part/{name}", "anomaly rate (rule), training videos" if rule else f"{name}, training videos", rule)
        )
        found.append((key, "anomaly rate (rule), evaluation videos" if rule else f"{name}, evaluation videos", rule))
    found += [(f"eval/{key}", title, flip) for key, title, flip in _WATCHED]
    return [p for p in found if p[0] in keys]


def plot_curves(trainings: Sequence[Training], folder: Path) -> list[Path]:
    """Draws the curves of all runs that have a log, once for light and once for dark pages; returns the files, or
    nothing where none has.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    runs = [(t, steps) for t in trainings if (steps := read_steps(t.folder))]
    shown = panels(runs)
    if not shown:
        return []
    return draw_twice((folder / CURVES, folder / DARK_CURVES), lambda colours: _figure(runs, shown, colours))


def draw_twice(paths: tuple[Path, Path], figure: Callable[[Sequence[str]], Figure]) -> list[Path]:
    """Saves a figure for light pages and once more for dark ones; returns both files.

    Args:
        paths: of the two files.
        figure: makes the figure with the given colours.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            'curves need matplotlib: pip install "cac-align[train]", or pip install matplotlib'
        ) from error
    styles: list[Any] = [{}, _DARK_STYLE]
    for path, style, colours in zip(paths, styles, (COLOURS, DARK_COLOURS), strict=True):
        with matplotlib.rc_context(style), atomic(path) as temporary:
            figure(colours).savefig(temporary, dpi=130, metadata={"Software": None})
    return list(paths)


def _figure(
    runs: Sequence[tuple[Training, list[dict[str, float]]]],
    shown: Sequence[tuple[str, str, bool]],
    colours: Sequence[str],
) -> Figure:
    from matplotlib.figure import Figure

    rows = -(-len(shown) // 2)
    figure = Figure(figsize=(11, 3.1 * rows), layout="constrained")
    places = list(figure.subplots(rows, 2, squeeze=False).flat)
    for place, (key, title, flip) in zip(places, shown, strict=False):
        _draw(place, runs, key, title, flip, colours)
    for place in places[len(shown) :]:
        place.axis("off")
    handles, labels = places[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw(
    place: Axes,
    runs: Sequence[tuple[Training, list[dict[str, float]]]],
    key: str,
    title: str,
    flip: bool,
    colours: Sequence[str],
) -> None:
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(t.row.name for t, _ in runs))
    labelled: set[str] = set()
    for training, steps in runs:
        x, y = series(steps, key)
        name = training.row.name
        label = f"{name} (a line for each seed)" if name not in labelled else None
        labelled.add(name)
        marker = "o" if key.startswith("eval/") else None
        colour = colours[names.index(name) % len(colours)]
        values = [1 - v for v in y] if flip else y
        if marker is None and len(values) > 2 * SMOOTHED:
            place.plot(x, values, color=colour, lw=0.7, alpha=0.25)
            values = running_mean(values, SMOOTHED)
        place.plot(x, values, color=colour, label=label, lw=1.3, alpha=0.85, marker=marker, ms=3)
    place.xaxis.set_major_locator(MaxNLocator(integer=True))
    place.set_title(title, fontsize=9, loc="left")
    place.set_xlabel("step", fontsize=8)
    plain_axes(place)


def plain_axes(place: Axes) -> None:
    """Small figures, two sides open, a faint grid: the look of every panel."""
    place.tick_params(labelsize=8)
    place.spines[["top", "right"]].set_visible(False)
    place.grid(alpha=0.25)
