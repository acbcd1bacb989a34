"""A model as a policy: any backend that answers chats, asked in the wording of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from reward_model.active.environment import Observation
from reward_model.active.episodes import State
from reward_model.active.moves import Move, read_move
from reward_model.backends.base import Backend, BackendError
from reward_model.config import JudgeConfig
from reward_model.conversation import Conversation, Sampling
from reward_model.prompts.active_wording import ActiveWording, load_active_wording
from reward_model.turns import direct_prefix
from reward_model.video.framing import AS_IT_IS, Framing


@dataclass
class ModelPolicy:
    """Asks a model where to look and what it means.

    Args:
        backend: who answers.
        config: how this checkpoint is asked, its ``judge.json``: wording, limits of answers, how strict they are read.
        temperature, seed: of sampling; None: those of ``config``.
    """

    backend: Backend
    config: JudgeConfig
    temperature: float | None = None
    seed: int | None = None
    wording: ActiveWording = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.wording = load_active_wording(self.config.prompts)

    def next(self, states: Sequence[State]) -> list[Move]:
        if not states:
            return []
        config = self.config
        asked = [episode_conversation(s, self.wording) for s in states]
        limit = max(config.answer_limit(2, len(s.now.indices)) for s in states)
        temperature = config.temperature if self.temperature is None else self.temperature
        sampling = Sampling(limit, temperature, seed=config.seed if self.seed is None else self.seed)
        moves = []
        for state, answer in zip(states, self.backend.generate(asked, sampling), strict=True):
            if answer.error is not None:
                moves.append(Move(answer.text, failed=answer.error, num_tokens=answer.num_tokens))
                continue
            cut_after = None if answer.finished else answer.num_tokens
            fps, framing = state.environment.footage.fps, framing_of(state)
            move = read_move(
                answer.text, state.now.indices, fps, config, framing, cut_after=cut_after, num_tokens=answer.num_tokens
            )
            moves.append(move)
        return moves

    def believe(self, states: Sequence[State]) -> list[float]:
        """The probability of ``abnormal`` in each state: both words forced before any reasoning (Equation 7).

        Raises:
            BackendError: if the backend gives no probabilities, or some from which nothing can be read.
        """
        if not states:
            return []
        asked = [episode_conversation(s, self.wording) for s in states]
        scores = self.backend.score(asked, [direct_prefix() for _ in asked])
        for score in scores:
            if score is None or score.fault:
                raise BackendError(
                    f"no belief can be read: {score.fault if score else 'the backend gives no probabilities'}"
                )
        return [1 - score.p_normal for score in scores if score is not None]


def episode_conversation(state: State, wording: ActiveWording, upto: int | None = None) -> Conversation:
    """The chat of an episode up to its next move, or up to that after the observation of number ``upto``.

    Raises:
        ValueError: if the environment shows captions in place of frames.
    """
    limits, footage = state.environment.limits, state.environment.footage
    last = len(state.observations) - 1 if upto is None else upto
    chat: Conversation = ()
    for number, shown in enumerate(state.observations[: last + 1]):
        must_answer = number >= limits.max_operators or (state.closing and number == len(state.observations) - 1)
        if number == 0:
            numbers = {
                "seconds": f"{footage.end - footage.start:.2f}",
                "max_operators": limits.max_operators,
                "max_frames": limits.max_frames,
                "max_view_frames": limits.max_view_frames,
            }
            frames, times = _frames(shown), _times(shown, footage.fps)
            chat = wording.first(frames, times, state.environment.prompt, must_answer=must_answer, **numbers)
        elif shown.refused is not None:
            chat = wording.refused(chat, state.moves[number - 1].text, shown.text, must_answer=must_answer)
        else:
            said, frames, times = state.moves[number - 1].text, _frames(shown), _times(shown, footage.fps)
            chat = wording.more(chat, said, frames, times, must_answer=must_answer)
    return chat


def framing_of(state: State) -> Framing:
    """Placement of an episode's frames in what is shown."""
    video = getattr(state.environment, "video", None)
    return AS_IT_IS if video is None else video.framing


def _frames(shown: Observation) -> list[np.ndarray]:
    if shown.frames is None:
        raise ValueError("a model needs frames; an environment of captions has none to show")
    return list(shown.frames)


def _times(shown: Observation, fps: float) -> list[float]:
    return [n / fps for n in shown.indices]
