"""Scripted policies: one that knows the truth, and those it is compared with.

The oracle looks where something happens and answers what it then sees; it writes texts a model can be taught from. The
others only decide where to look: what it means is asked of an ``answers`` policy, so that all are judged by one eye.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from reward_model.active.episodes import EvidencePolicy, State
from reward_model.active.moves import Hypothesis, Move, read_move, write_look
from reward_model.active.operators import FACTORS, WIDTHS, Backtrack, Expand, Operator, OperatorError, Zoom, next_view
from reward_model.active.views import CLOSE, view_indices
from reward_model.config import JudgeConfig
from reward_model.parsing import format_report
from reward_model.schema import FrameRange, TurnReport, VideoAnnotation
from reward_model.turns import Reading
from reward_model.video.framing import AS_IT_IS, Framing
from reward_model.world.narration import narrate_zoom

#: What the oracle thinks at an operator. It says nothing of what is there: both members of a pair read the same.
THOUGHTS = {"zoom": "Look closer.", "expand": "Look wider.", "backtrack": "Look back."}
#: Rate at which what happens between the frames of the first view can be told, in frames per second.
CLEAR_FPS = 8.0

#: (annotation, native frames) -> the report of a perfect judge about a clip of these frames.
Narrate = Callable[[VideoAnnotation, Sequence[int]], TurnReport]


@dataclass
class OraclePolicy:
    """Knows the annotations: zooms on what happens, and answers the truth about the view it has.

    Args:
        truths: annotation of each episode, in order.
        windows: native frames in which something happens that has to be looked at, in abnormal and normal videos alike;
            None: nothing, the first view tells all.
        narrate: makes answers.
        detours: operators to be asked for before the oracle's own, for each episode.
        frames_in_moves: name frames of the view in operators, as the compact wording does.
        framing: how frames are shown, for boxes; one for all.
    """

    truths: Sequence[VideoAnnotation]
    windows: Sequence[FrameRange | None]
    narrate: Narrate = narrate_zoom
    detours: Sequence[Sequence[Operator]] = ()
    frames_in_moves: bool = False
    framing: Framing = AS_IT_IS
    _numbers: dict[int, int] = field(default_factory=dict, repr=False)

    def next(self, states: Sequence[State]) -> list[Move]:
        return [self._next(state, self._number(state)) for state in states]

    def _number(self, state: State) -> int:
        """Number of an episode: the order in which environments were first seen."""
        return self._numbers.setdefault(id(state.environment), len(self._numbers))

    def _next(self, state: State, number: int) -> Move:
        window = self.windows[number]
        detours = self.detours[number] if number < len(self.detours) else ()
        operator = None if state.must_answer else self._look(state, window, detours)
        if operator is None:
            return answer_move(state, self.narrate(self.truths[number], state.now.indices), self.framing)
        return look_move(state, operator, frames=self.frames_in_moves)

    @staticmethod
    def _look(state: State, window: FrameRange | None, detours: Sequence[Operator]) -> Operator | None:
        asked = len(state.moves)
        if asked < len(detours):
            return detours[asked]
        if window is None:
            return None
        return look_at(window, state)


def look_at(window: FrameRange, state: State) -> Operator | None:
    """The operator that brings a window of native frames into view, clearly; None once it is.

    A view that does not hold the window is widened; one that does is zoomed into, around the window to the nearest
    frames that are shown.
    """
    view, fps = state.now.view, state.environment.footage.fps
    first, last = window.start / fps, window.end / fps
    if first < view.start - CLOSE or last > view.end + CLOSE:
        # By half seconds, which judges can write without counting frames.
        return Expand(*(max(0.0, math.ceil(2 * gap) / 2) for gap in (view.start - first, last - view.end)))
    if view.rate >= min(CLEAR_FPS, fps) - CLOSE:
        return None
    shown = state.now.indices
    before = max((n for n in shown if n <= window.start), default=shown[0])
    after = min((n for n in shown if n >= window.end), default=shown[-1])
    factor = next((k for k in FACTORS if k * view.rate >= min(CLEAR_FPS, fps) - CLOSE), FACTORS[-1])
    return Zoom(before / fps, after / fps, factor)


@dataclass
class NeverLook:
    """Answers at the first view: the passive judge."""

    answers: EvidencePolicy

    def next(self, states: Sequence[State]) -> list[Move]:
        return _asked_or_answered(states, [None] * len(states), self.answers)


@dataclass
class RandomLooks:
    """Asks for operators drawn at random, and then lets ``answers`` answer.

    Args:
        answers: answers once no operator comes.
        seed: seed of the draws.
        budget: frames that an episode may show in all; None: until its limits. At equal budgets policies are compared
            by where they look.
        stop: chance to answer before each operator.
    """

    answers: EvidencePolicy
    seed: int = 0
    budget: int | None = None
    stop: float = 0.0
    _rngs: dict[int, np.random.Generator] = field(default_factory=dict, repr=False)

    def next(self, states: Sequence[State]) -> list[Move]:
        return _asked_or_answered(states, [self._operator(s) for s in states], self.answers)

    def _operator(self, state: State) -> Operator | None:
        rng = self._rngs.setdefault(id(state.environment), np.random.default_rng([self.seed, len(self._rngs)]))
        if state.must_answer or rng.random() < self.stop:
            return None
        left = state.environment.limits.max_frames if self.budget is None else self.budget
        left -= state.environment.used
        drawn = (random_operator(state, rng) for _ in range(20))
        return next((o for o in drawn if 0 < frames_of(o, state) <= left), None)


@dataclass
class AlwaysZoom:
    """Zooms into the middle of what it sees for as long as it may, and then lets ``answers`` answer."""

    answers: EvidencePolicy
    factor: int = 2

    def next(self, states: Sequence[State]) -> list[Move]:
        return _asked_or_answered(states, [self._operator(s) for s in states], self.answers)

    def _operator(self, state: State) -> Operator | None:
        if state.must_answer:
            return None
        view = state.now.view
        half = view.seconds / (2 * self.factor)
        middle = (view.start + view.end) / 2
        return Zoom(middle - half, middle + half, self.factor)


def _asked_or_answered(
    states: Sequence[State], operators: Sequence[Operator | None], answers: EvidencePolicy
) -> list[Move]:
    """A look where there is an operator, else what ``answers`` says where the answer has to come."""
    silent = [s for s, operator in zip(states, operators, strict=True) if operator is None]
    for state in silent:
        state.closing = True
    said = iter(answers.next(silent) if silent else [])
    return [
        next(said) if operator is None else look_move(state, operator)
        for state, operator in zip(states, operators, strict=True)
    ]


def random_operator(state: State, rng: np.random.Generator) -> Operator:
    """An operator with drawn arguments on the grid of the view, each kind as often."""
    view, footage, shown = state.now.view, state.environment.footage, state.now.indices
    kind = int(rng.integers(3))
    if kind == 0:
        return Backtrack(shown[int(rng.integers(len(shown)))] / footage.fps, float(rng.choice(WIDTHS)))
    if kind == 1:
        left, right = (float(rng.choice((0.0, 0.5, 1.0, 2.0))) for _ in range(2))
        return Expand(left, right)
    first, last = sorted(int(k) for k in rng.choice(len(shown), 2, replace=len(shown) < 2))
    start, end = (min(max(shown[k] / footage.fps, view.start), view.end) for k in (first, last))
    return Zoom(start, end, int(rng.choice(FACTORS)))


def frames_of(operator: Operator, state: State) -> int:
    """Frames that an operator would show; 0 of one that would be refused."""
    environment = state.environment
    try:
        asked = next_view(operator, state.now.view, environment.footage, environment.limits)
    except OperatorError:
        return 0
    count = len(view_indices(asked, environment.footage))
    limits = environment.limits
    return count if count <= limits.max_view_frames and environment.used + count <= limits.max_frames else 0


# --- moves of a script ------------------------------------------------------------------------------------------------


def look_move(state: State, operator: Operator, hypothesis: Hypothesis | None = None, *, frames: bool = False) -> Move:
    """A script's operator as a move: what its canonical text says, read back. With ``frames`` moments lie on the view's
    frames.
    """
    indices, fps = state.now.indices, state.environment.footage.fps
    text = write_look(operator, THOUGHTS[operator.name], hypothesis, indices=indices, fps=fps, frames=frames)
    return read_move(text, indices, fps, JudgeConfig())


def answer_move(state: State, report: TurnReport, framing: Framing = AS_IT_IS) -> Move:
    """A script's answer about the view of a state as a move, with the canonical text.

    Args:
        report: boxes on native frames.
        framing: how frames are shown; the text has its boxes there.
    """
    return Move(format_report(framing.shown_report(report)), answer=Reading(report, report.status))
