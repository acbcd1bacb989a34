"""Episodes drawn by the judge that is being trained, with its beliefs, as token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from reward_model.active.episodes import Episode, State, continue_episodes
from reward_model.active.moves import Move
from reward_model.active.utility import UtilityConfig
from reward_model.answer_object import COT
from reward_model.training.active.episode_rows import EpisodeCase, EpisodeTokens, belief_rows
from reward_model.training.active.pairs import Judged
from reward_model.training.grpo.rows import EncodedPrompt, SequenceRow
from reward_model.training.grpo.sampler import Generator

#: How every answer begins, and no operator does.
ANSWER_START = f'{{"{COT}": "'

#: Rows -> flat log-probabilities of their learned tokens.
LogProbs = Callable[[Sequence[SequenceRow]], torch.Tensor]


@dataclass(frozen=True)
class Drawn:
    """An episode that was drawn, light enough to be written down.

    Attributes:
        turns: token ids of each turn.
        beliefs: probability of ``abnormal`` at each view.
        judged: what pairs are made of.
        num_frames: frames it was shown.
        refused: operators that were refused.
        format_error: whether it ended with a text that cannot be read.
        reference: log-probability of each turn under the policy that drew it.
    """

    turns: tuple[tuple[int, ...], ...]
    beliefs: tuple[float, ...]
    judged: Judged
    num_frames: int = 0
    refused: int = 0
    format_error: bool = False
    reference: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        judged = self.judged
        return {
            "turns": [list(t) for t in self.turns],
            "beliefs": list(self.beliefs),
            "correct": judged.correct,
            "utility": judged.utility,
            "operators": list(judged.operators),
            "branch": None if judged.branch is None else list(judged.branch),
            "num_frames": self.num_frames,
            "refused": self.refused,
            "format_error": self.format_error,
            "reference": list(self.reference),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Drawn:
        branch = data["branch"]
        judged = Judged(
            data["correct"],
            data["utility"],
            tuple(data["operators"]),
            None if branch is None else (branch[0], branch[1]),
        )
        turns = tuple(tuple(t) for t in data["turns"])
        return cls(
            turns,
            tuple(data["beliefs"]),
            judged,
            data["num_frames"],
            data["refused"],
            data["format_error"],
            tuple(data["reference"]),
        )


@dataclass
class TokenPolicy:
    """The judge that is being trained, as a policy that remembers its token ids in ``State.memory``. Where a state is
    ``closing``, its move is an answer: how answers begin is put before what the judge writes, and the chat says nothing
    of it, so that such an episode can be compared with those that looked.

    Args:
        case: the video of all episodes.
        generator: draws answers.
        log_probs: for beliefs.
        stop_ids: tokens that end an answer.
        batch_size: rows of a pass that reads beliefs.
    """

    case: EpisodeCase
    generator: Generator
    log_probs: LogProbs
    stop_ids: Sequence[int]
    batch_size: int = 16
    _known: dict[bytes, float] = field(default_factory=dict, repr=False)

    def next(self, states: Sequence[State]) -> list[Move]:
        begun = [self._start(state) for state in states]
        contexts = [_continued(self._context(s), start) for s, start in zip(states, begun, strict=True)]
        unique = list({id(c): c for c in contexts}.values())
        users = {id(c): [k for k, one in enumerate(contexts) if one is c] for c in unique}
        limit = max((self.case.judge.answer_limit(2, len(s.now.indices)) for s in states), default=1)
        drawn = self.generator(unique, [len(users[id(c)]) for c in unique], limit)
        moves: dict[int, Move] = {}
        for context, answers in zip(unique, drawn, strict=True):
            for number, answer in zip(users[id(context)], answers, strict=True):
                state = states[number]
                ids = (*begun[number], *answer.ids)
                state.memory.turns.append(ids)
                moves[number] = self.case.read(ids, state.now, finished=answer.finished)
        return [moves[k] for k in range(len(states))]

    def believe(self, states: Sequence[State]) -> list[float]:
        """The probability of ``abnormal`` in each state; equal contexts are read once."""
        contexts = {self._key(state): self._context(state) for state in states}
        new = [key for key in contexts if key not in self._known]
        rows = belief_rows([contexts[key] for key in new], self.case.builder)
        size = max(2, self.batch_size // 2 * 2)
        values: list[float] = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            flat = self.log_probs(part).double().split([r.num_tokens for r in part])
            values += [float(v.sum()) for v in flat]
        for number, key in enumerate(new):
            normal, abnormal = values[2 * number : 2 * number + 2]
            self._known[key] = float(1 / (1 + np.exp(np.clip(normal - abnormal, -700, 700))))
        return [self._known[self._key(state)] for state in states]

    def _start(self, state: State) -> tuple[int, ...]:
        """The ids that the next move is made to begin with."""
        if not state.closing:
            return ()
        return tuple(self.case.builder.processor.tokenizer.encode(ANSWER_START, add_special_tokens=False))

    def _context(self, state: State) -> EncodedPrompt:
        if state.memory is None:
            state.memory = EpisodeTokens.of(state, self.case)
        state.memory.observe(state)
        context: EncodedPrompt = state.memory.context()
        return context

    def _key(self, state: State) -> bytes:
        """Equal for states in which the judge has read the same."""
        shown = [o.indices for o in state.observations]
        return repr((self._context(state).ids.tolist(), shown)).encode()


def _continued(context: EncodedPrompt, start: tuple[int, ...]) -> EncodedPrompt:
    if not start:
        return context  # one object for all episodes that read it, so that it is read once
    return EncodedPrompt(np.concatenate([context.ids, np.asarray(start, np.int64)]), context.pictures)


def draw_episodes(
    policy: TokenPolicy,
    count: int,
    num_branches: int,
    utility: UtilityConfig,
    rng: np.random.Generator,
    *,
    num_at_once: int = 0,
) -> list[Drawn]:
    """``count`` episodes of one video, the last ``num_branches`` of which leave another one at one of its operators,
    and the ``num_at_once`` before them at its first one, to answer in its place. Where no episode used an operator,
    they begin anew. Episodes that break off are left out.

    Args:
        policy: of this video.
        utility: what evidence and looks are worth.
        rng: chooses where branches leave.
    """
    truth, most = policy.case.sample.truth.status, policy.case.judge.max_view_frames
    free = _run(policy, [_begin(policy) for _ in range(count - num_branches - num_at_once)])
    found = [_drawn(e, e.beliefs, truth, most, utility, None) for e in free]
    leaves = [(k, j) for k, e in enumerate(free) if e.error is None for j in range(len(e.operators))]
    states, places, beliefs = list[State](), list[tuple[int, int] | None](), list[tuple[float, ...]]()
    for number in range(num_at_once + num_branches):
        at_once = number < num_at_once
        if leaves:
            parent, turn = leaves[int(rng.integers(len(leaves)))]
            turn = 0 if at_once else turn
            states.append(_branch(policy, free[parent], turn))
            states[-1].closing = at_once
            places.append((parent, turn))
            beliefs.append(free[parent].beliefs[:turn])
        else:
            states.append(_begin(policy))
            places.append(None)
            beliefs.append(())
    for episode, place, before in zip(_run(policy, states), places, beliefs, strict=True):
        found.append(_drawn(episode, (*before, *episode.beliefs), truth, most, utility, place))
    return [one for one in found if one is not None]


def _begin(policy: TokenPolicy) -> State:
    environment = policy.case.environment()
    return State(environment, [environment.start()])


def _branch(policy: TokenPolicy, parent: Episode, turn: int) -> State:
    """The state in which an episode was before its move number ``turn``."""
    state = _begin(policy)
    for move in parent.moves[:turn]:
        assert move.operator is not None
        state.moves.append(move)
        state.observations.append(state.environment.step(move.operator))
    state.memory = parent.memory.copy(turn)
    return state


def _run(policy: TokenPolicy, states: Sequence[State]) -> list[Episode]:
    return continue_episodes(policy, states, believe=policy.believe)


def _drawn(
    episode: Episode,
    beliefs: tuple[float, ...],
    truth: Any,
    max_view_frames: int,
    utility: UtilityConfig,
    branch: tuple[int, int] | None,
) -> Drawn | None:
    if episode.error is not None:
        return None
    whole = Episode(episode.observations, episode.moves, beliefs, episode.memory)
    worth = whole.utility(truth, max_view_frames, utility)
    named = tuple(str(o.operator) for o in episode.operators)
    judged = Judged(episode.status == truth, worth, named, branch)
    refused = sum(o.refused is not None for o in episode.operators)
    turns = tuple(episode.memory.turns)
    return Drawn(turns, beliefs, judged, episode.num_frames, refused, episode.format_error)
