"""The operators of an episode: from the view a judge has to the next one. Pure functions.

    backtrack(t, w)        [t - w, t] at the view's rate           look again at what led to t
    expand(left, right)    [start - left, end + right], coarser    widen the context
    zoom(start, end, k)    a part of the view, k times as dense    sample finely

An operator that is malformed, leaves nothing to show or exceeds a limit is refused with the reason; the episode goes on
with the view it had, and the cost is paid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from reward_model.active.views import CLOSE, Limits, Stretch, View, view_indices

#: Seconds that ``backtrack`` may go back, and factors of ``zoom``.
WIDTHS = (0.25, 0.5, 1.0, 2.0)
FACTORS = (2, 4, 8)
#: Seconds that a moment with two decimals may lie beside the one it stands for.
TWO_DECIMALS = 0.0051


class OperatorError(ValueError):
    """An operator that cannot be carried out. The message is the reason, as the judge is told it."""


@dataclass(frozen=True)
class Backtrack:
    """Look again at the ``width`` seconds before second ``moment``."""

    moment: float
    width: float
    name = "backtrack"

    def __str__(self) -> str:
        return f"backtrack {self.width:g} s from {self.moment:.2f} s"


@dataclass(frozen=True)
class Expand:
    """Look at ``left`` seconds before the view and ``right`` seconds after it as well."""

    left: float
    right: float
    name = "expand"

    def __str__(self) -> str:
        return f"expand by {self.left:g} s and {self.right:g} s"


@dataclass(frozen=True)
class Zoom:
    """Look at the part of the view from second ``start`` to second ``end``, ``factor`` times as dense."""

    start: float
    end: float
    factor: int
    name = "zoom"

    def __str__(self) -> str:
        return f"zoom {self.start:.2f}-{self.end:.2f} s x{self.factor}"


Operator: TypeAlias = Backtrack | Expand | Zoom
#: The operators by their names.
OPERATORS: dict[str, type[Backtrack] | type[Expand] | type[Zoom]] = {o.name: o for o in (Backtrack, Expand, Zoom)}


def next_view(operator: Operator, view: View, footage: Stretch, limits: Limits) -> View:
    """The view an operator asks for, clipped to the footage.

    Raises:
        OperatorError: if an argument is not allowed, or nothing of the footage is left.
    """
    numbers = [v for v in vars(operator).values() if isinstance(v, int | float)]
    if not all(math.isfinite(v) for v in numbers):
        raise OperatorError(f"{operator.name} needs finite numbers")
    if isinstance(operator, Backtrack):
        asked = _backtracked(operator, view, footage)
    elif isinstance(operator, Expand):
        asked = _expanded(operator, view, footage, limits)
    else:
        asked = _zoomed(operator, view, footage)
    clipped = View(max(asked.start, footage.start), min(asked.end, footage.end), asked.rate)
    if clipped.end < clipped.start - CLOSE:
        raise OperatorError(
            f"nothing from {asked.start:.2f} to {asked.end:.2f} s; the video has {footage.start:.2f} to "
            f"{footage.end:.2f} s"
        )
    return View(clipped.start, max(clipped.end, clipped.start), clipped.rate)


def snapped(moment: float, fps: float) -> float:
    """A moment, or that of the native frame that two decimals of a second cannot tell from it: judges name moments as
    they are shown them, 2.08 s for frame 50 at 24 fps.
    """
    near = round(moment * fps) / fps
    return near if abs(near - moment) <= TWO_DECIMALS else moment


def _backtracked(operator: Backtrack, view: View, footage: Stretch) -> View:
    if operator.width not in WIDTHS:
        raise OperatorError(f"backtrack goes back {', '.join(f'{w:g}' for w in WIDTHS)} s, not {operator.width:g}")
    moment = snapped(operator.moment, footage.fps)
    return View(moment - operator.width, moment, view.rate)


def _expanded(operator: Expand, view: View, footage: Stretch, limits: Limits) -> View:
    if operator.left < 0 or operator.right < 0:
        raise OperatorError(f"expand needs seconds of at least 0, not {operator.left:g} and {operator.right:g}")
    start, end = max(view.start - operator.left, footage.start), min(view.end + operator.right, footage.end)
    rate = view.rate if end - start <= CLOSE else min(view.rate, (limits.max_view_frames - 1) / (end - start))
    if rate <= 0:
        raise OperatorError(f"a view of {limits.max_view_frames} frame cannot be expanded")
    return View(start, end, rate)


def _zoomed(operator: Zoom, view: View, footage: Stretch) -> View:
    if operator.factor not in FACTORS:
        raise OperatorError(f"zoom is by {', '.join(map(str, FACTORS))}, not {operator.factor}")
    if operator.end < operator.start:
        raise OperatorError(f"zoom from {operator.start:.2f} to {operator.end:.2f} s ends before it starts")
    start, end = (snapped(moment, footage.fps) for moment in (operator.start, operator.end))
    if start < view.start - CLOSE or end > view.end + CLOSE:
        raise OperatorError(
            f"zoom {operator.start:.2f} to {operator.end:.2f} s leaves the view of {view.start:.2f} to {view.end:.2f} s"
        )
    return View(start, end, min(operator.factor * view.rate, footage.fps))


def frames_of_look(
    operator: Operator, view: View, footage: Stretch, limits: Limits, used: int
) -> tuple[View, tuple[int, ...]]:
    """The view an operator asks for and its native frames, within the limits.

    Args:
        used: frames that the episode has shown before.

    Raises:
        OperatorError: if it cannot be carried out, or a limit is exceeded.
    """
    asked = next_view(operator, view, footage, limits)
    indices = view_indices(asked, footage)
    if len(indices) > limits.max_view_frames:
        raise OperatorError(f"{len(indices)} frames exceed the {limits.max_view_frames} of a view")
    if used + len(indices) > limits.max_frames:
        raise OperatorError(f"{len(indices)} frames more exceed the {limits.max_frames} of an episode ({used} shown)")
    return asked, indices


def novelty(indices: tuple[int, ...], seen: frozenset[int] | set[int]) -> float:
    """Share of shown frames that were not shown before; 0 of none.

    Example:
        >>> novelty((32, 34, 36), {32})
        0.6666666666666666
    """
    return sum(n not in seen for n in indices) / len(indices) if indices else 0.0
