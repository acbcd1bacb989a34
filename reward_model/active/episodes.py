"""Episodes: look after look, until the judge answers. Many run in step, so that a model is asked in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reward_model.active.environment import Environment, Observation
from reward_model.active.moves import Move
from reward_model.active.operators import Operator
from reward_model.active.utility import LookValue, UtilityConfig, utility
from reward_model.schema import Status
from reward_model.video.clip import VideoError


@dataclass(eq=False)
class State:
    """An episode so far, as a policy sees it.

    Attributes:
        environment: asked for its limits, and for whether the answer has to come.
        observations: what was shown, the first view at the beginning.
        moves: what was written, one fewer than ``observations`` while the episode runs.
        memory: what a policy keeps for this episode.
        closing: the next move has to be the answer although operators are left.
        error: why it broke off: frames that cannot be read, a model that cannot be asked.
    """

    environment: Environment
    observations: list[Observation]
    moves: list[Move] = field(default_factory=list)
    memory: Any = None
    closing: bool = False
    error: str | None = None

    @property
    def now(self) -> Observation:
        """The last observation."""
        return self.observations[-1]

    @property
    def must_answer(self) -> bool:
        """True if the next move has to be the answer."""
        return self.closing or self.environment.must_answer


class EvidencePolicy(Protocol):
    """Whoever decides where to look and what it means."""

    def next(self, states: Sequence[State]) -> list[Move]:
        """The next move of each episode, in order; an operator, or the answer about the view of ``state.now``."""
        ...


#: The probability of ``abnormal`` in each state, forced and never sampled (Equation 7).
Believe = Callable[[Sequence[State]], Sequence[float]]


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode that has ended.

    Attributes:
        observations, moves: equally many; the last move is the answer, or could not be read. One that broke off may
            have a last move that was not carried out.
        beliefs: probability of ``abnormal`` at each observation; empty where nobody was asked.
        memory: what the policy kept.
        error: why it broke off; such an episode says nothing.
    """

    observations: tuple[Observation, ...]
    moves: tuple[Move, ...]
    beliefs: tuple[float, ...] = ()
    memory: Any = None
    error: str | None = None

    @property
    def status(self) -> Status | None:
        """The status of its answer; None if there is none."""
        return self.moves[-1].status if self.moves and self.error is None else None

    @property
    def operators(self) -> tuple[Observation, ...]:
        """The observations that an operator asked for."""
        return self.observations[1:]

    @property
    def num_frames(self) -> int:
        """Frames shown in all."""
        return sum(o.num_frames for o in self.observations)

    @property
    def format_error(self) -> bool:
        """True if it ended with a text that can be read as neither operator nor answer."""
        return not self.moves or self.moves[-1].error is not None

    def looks(self) -> list[LookValue]:
        """Its operators as the utility sees them.

        Raises:
            ValueError: if beliefs were not read.
        """
        if len(self.beliefs) != len(self.observations):
            raise ValueError("the utility needs the belief at every observation; run the episode with believe=...")
        return [
            LookValue(shown.novelty, shown.num_frames, before, after)
            for shown, before, after in zip(self.operators, self.beliefs, self.beliefs[1:], strict=False)
        ]

    def utility(self, truth: Status, max_view_frames: int, config: UtilityConfig | None = None) -> float:
        """Worth of the episode (:func:`reward_model.active.utility.utility`) for a video of that status."""
        return utility(
            self.looks(),
            correct=self.status == truth,
            abnormal=truth == "abnormal",
            max_view_frames=max_view_frames,
            format_error=self.format_error,
            config=config,
        )


def run_episodes(
    policy: EvidencePolicy, environments: Sequence[Environment], *, believe: Believe | None = None
) -> list[Episode]:
    """An episode in each environment, all in step.

    An operator where the answer has to come ends its episode as a text that cannot be read.

    Raises:
        ValueError: if a first view exceeds its limits.
        VideoError: if frames cannot be read.
    """
    return continue_episodes(policy, [State(e, [e.start()]) for e in environments], believe=believe)


def continue_episodes(
    policy: EvidencePolicy, states: Sequence[State], *, believe: Believe | None = None
) -> list[Episode]:
    """Brings episodes that have begun to their ends, in the order of ``states``.

    Beliefs are read from here on; those of earlier observations are the caller's.
    """
    beliefs: dict[int, list[float]] = {id(s): [] for s in states}
    alive = list(states)
    while alive:
        for state, belief in zip(alive, believe(alive) if believe else [], strict=False):
            beliefs[id(state)].append(float(belief))
        going = []
        for state, move in zip(alive, policy.next(alive), strict=True):
            state.moves.append(_allowed(move, state))
            if move.failed is not None:
                state.error = move.failed
            elif (operator := state.moves[-1].operator) is not None and _looked(state, operator):
                going.append(state)
        alive = going
    return [Episode(tuple(s.observations), tuple(s.moves), tuple(beliefs[id(s)]), s.memory, s.error) for s in states]


def _looked(state: State, operator: Operator) -> bool:
    """Shows the episode what it asked for; False where that cannot be read, which ends it."""
    try:
        state.observations.append(state.environment.step(operator))
    except (VideoError, OSError, MemoryError) as error:
        state.error = str(error) or "not enough memory for the frames of this video"
    return state.error is None


def run_episode(policy: EvidencePolicy, environment: Environment, *, believe: Believe | None = None) -> Episode:
    """One episode; see :func:`run_episodes`."""
    return run_episodes(policy, [environment], believe=believe)[0]


def _allowed(move: Move, state: State) -> Move:
    if move.operator is None or not state.must_answer:
        return move
    return Move(move.text, error="an operator where the answer had to come", num_tokens=move.num_tokens)
