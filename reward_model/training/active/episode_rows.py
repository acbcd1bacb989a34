"""Episodes as token ids: the chat as the judge read it, and which of its tokens it wrote, turn by turn.

Ids come from the sampler, or from a script's text, and are never made again from text. What lies between two turns (the
end of the chat's message, the frames, what the environment says) is put there as template ids that are not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from reward_model.active.environment import Observation, VideoEnvironment
from reward_model.active.episodes import State
from reward_model.active.judging import episode_limits
from reward_model.active.model_policy import episode_conversation
from reward_model.active.moves import Move, read_move
from reward_model.backends.local import verdict_tokens
from reward_model.config import JudgeConfig
from reward_model.conversation import Message
from reward_model.prompts.active_wording import ActiveWording, load_active_wording
from reward_model.training.active.videos import ActiveSample
from reward_model.training.grpo.rows import EncodedPrompt, Pictures, PromptBuilder, SequenceRow, as_read
from reward_model.turns import VideoView, direct_prefix
from reward_model.video.framing import Framing

#: Stands for a turn's text while the chat around it is made into text.
_TURN = "\N{WHITE SQUARE}turn\N{WHITE SQUARE}"


class EpisodeCase:
    """One video of a training: its environment, and frames and prompts that its episodes share.

    Args:
        sample: the video.
        builder: makes prompts of conversations.
        judge: how episodes are asked.
    """

    def __init__(self, sample: ActiveSample, builder: PromptBuilder, judge: JudgeConfig) -> None:
        self.sample, self.builder, self.judge = sample, builder, judge
        self.wording: ActiveWording = load_active_wording(judge.prompts)
        truth = sample.truth
        self.framing = Framing((truth.height, truth.width), judge.frame_size, judge.frame_fit)
        self._shown: dict[tuple[int, ...], Pictures] = {}
        self._first: EncodedPrompt | None = None
        self.view = VideoView(
            truth.num_frames, truth.fps, lambda n: self.pictures(tuple(n)).frames, truth.prompt, self.framing
        )

    def environment(self) -> VideoEnvironment:
        """A new environment of this video."""
        return VideoEnvironment(self.view, episode_limits(self.judge), self.sample.part)

    def pictures(self, indices: tuple[int, ...]) -> Pictures:
        """Native frames as they are shown, one object for equal ``indices``.

        Raises:
            ValueError, OSError, RuntimeError: if they cannot be read.
        """
        if indices not in self._shown:
            frames = self.sample.frames(indices)
            if len(frames) != len(indices):
                raise ValueError(f"{self.sample.truth.video_id}: asked for {len(indices)} frames, got {len(frames)}")
            native = (frames[0].shape[0], frames[0].shape[1])
            self._shown[indices] = self.builder.pictures(replace(self.framing, native=native).show(frames))
        return self._shown[indices]

    def first(self, state: State) -> EncodedPrompt:
        """The question of the first view; one object for all episodes, so that it is read once."""
        if self._first is None:
            chat = episode_conversation(state, self.wording, 0)
            self._first = self.builder.prompt(chat, [self.pictures(state.observations[0].indices)])
        return self._first

    def read(self, ids: Sequence[int], shown: Observation, *, finished: bool) -> Move:
        """The move that sampled ids are.

        Args:
            ids: as drawn, the end token included if ``finished``.
            shown: what the judge had in view.
        """
        kept = list(ids[:-1] if finished else ids)
        tokenizer = self.builder.processor.tokenizer
        text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cut_after = None if finished else len(ids)
        fps = self.sample.truth.fps
        return read_move(text, shown.indices, fps, self.judge, self.framing, cut_after=cut_after, num_tokens=len(ids))


@dataclass
class EpisodeTokens:
    """An episode's ids so far.

    Attributes:
        case: the video.
        prompt: the question of the first view.
        turns: ids of each turn the judge wrote, end token included.
        between: template ids after each turn but the last, and the frames among them.
    """

    case: EpisodeCase
    prompt: EncodedPrompt
    turns: list[tuple[int, ...]] = field(default_factory=list)
    between: list[tuple[np.ndarray, Pictures | None]] = field(default_factory=list)

    @classmethod
    def of(cls, state: State, case: EpisodeCase) -> EpisodeTokens:
        """The ids of an episode that is about to make its first move."""
        return cls(case, case.first(state))

    def observe(self, state: State) -> None:
        """Takes up what the environment answered to the last turn, if that is not there yet."""
        while len(self.between) < min(len(self.turns), len(state.observations) - 1):
            number = len(self.between) + 1
            chat = episode_conversation(state, self.case.wording, number)
            held = Message("assistant", (_TURN,))
            text = self.case.builder.processor.apply_chat_template(
                [m.to_chat() for m in (*chat[:-2], held, chat[-1])], add_generation_prompt=True, tokenize=False
            )
            after = text.rsplit(_TURN, 1)[1].removeprefix(self.case.builder.processor.tokenizer.eos_token)
            shown = state.observations[number]
            pictures = None if shown.refused is not None else self.case.pictures(shown.indices)
            self.between.append((self.case.builder.encode(after, [pictures] if pictures else []), pictures))

    def context(self) -> EncodedPrompt:
        """Tokens the judge reads before its next turn."""
        if not self.turns:
            return self.prompt
        row = self.row(whole=False)
        read = np.where(row.mask, as_read(row.ids, self.case.builder.processor), row.ids)
        return EncodedPrompt(read, row.pictures)

    def row(self, *, whole: bool = True) -> SequenceRow:
        """The episode as a training sequence, all turns learned; without ``whole`` it ends where a turn is to come."""
        ids, mask, pictures = [self.prompt.ids], [np.zeros(len(self.prompt.ids), bool)], list(self.prompt.pictures)
        for number, turn in enumerate(self.turns):
            ids.append(np.asarray(turn, np.int64))
            mask.append(np.ones(len(turn), bool))
            if number < len(self.between):
                after, shown = self.between[number]
                ids.append(after)
                mask.append(np.zeros(len(after), bool))
                pictures += [shown] if shown is not None else []
        if whole and len(self.between) >= len(self.turns):
            raise ValueError(f"an episode of {len(self.turns)} turns ends with a turn, not with what was shown")
        return SequenceRow(np.concatenate(ids), np.concatenate(mask), tuple(pictures))

    def copy(self, turns: int) -> EpisodeTokens:
        """The ids up to before turn number ``turns``."""
        return EpisodeTokens(self.case, self.prompt, self.turns[:turns], self.between[:turns])


def write_script(case: EpisodeCase, observations: Sequence[Observation], moves: Sequence[Move]) -> EpisodeTokens:
    """The ids of an episode that a script wrote."""
    tokenizer = case.builder.processor.tokenizer
    state = State(case.environment(), list(observations), list(moves))
    tokens = EpisodeTokens(case, case.first(state))
    tokens.turns = [tuple(tokenizer.encode(m.text + tokenizer.eos_token, add_special_tokens=False)) for m in moves]
    tokens.observe(state)
    return tokens


def replay_episode(case: EpisodeCase, turns: Sequence[Sequence[int]], stop_ids: Sequence[int]) -> EpisodeTokens:
    """The ids of an episode, of the turns that were drawn: the environment shows again what it showed."""
    environment = case.environment()
    state = State(environment, [environment.start()])
    tokens = EpisodeTokens.of(state, case)
    for number, ids in enumerate(turns):
        tokens.turns.append(tuple(ids))
        state.moves.append(case.read(ids, state.now, finished=bool(ids) and ids[-1] in stop_ids))
        if number + 1 < len(turns):
            operator = state.moves[-1].operator
            if operator is None:
                raise ValueError(f"{case.sample.truth.video_id}: turn {number + 1} of an episode is not an operator")
            state.observations.append(environment.step(operator))
            tokens.observe(state)
    return tokens


def belief_rows(contexts: Sequence[EncodedPrompt], builder: PromptBuilder) -> list[SequenceRow]:
    """Two rows of each context: the verdict forced before any reasoning, normal and then abnormal, of which only the
    word counts.
    """
    tokenizer = builder.processor.tokenizer
    prefix = np.asarray(tokenizer.encode(str(direct_prefix()), add_special_tokens=False), np.int64)
    rows = []
    for context in contexts:
        for word in verdict_tokens(tokenizer):
            ids = np.concatenate([context.ids, prefix, np.asarray(word, np.int64)])
            mask = np.zeros(len(ids), bool)
            mask[-len(word) :] = True
            rows.append(SequenceRow(ids, mask, context.pictures))
    return rows
