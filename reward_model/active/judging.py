"""Episodes as turns of a verdict: each look is a turn with the frames it showed, the answer is the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reward_model.active.environment import Observation, VideoEnvironment
from reward_model.active.episodes import EvidencePolicy, State, continue_episodes
from reward_model.active.model_policy import ModelPolicy, episode_conversation
from reward_model.active.moves import Move, hypothesis_report
from reward_model.active.views import Limits
from reward_model.backends.base import Backend
from reward_model.chunks import scan_grids
from reward_model.config import JudgeConfig
from reward_model.conversation import Conversation
from reward_model.parsing import forced_prefix
from reward_model.prompts.active_wording import ActiveWording, load_active_wording
from reward_model.schema import Turn
from reward_model.turns import VideoView
from reward_model.video.clip import VideoError


@dataclass(frozen=True)
class Sought:
    """Looks of a judge at a part of a video, as turns without scores, and the question of each turn.

    ``error``: why it broke off.
    """

    turns: tuple[Turn, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    error: str | None = None


def episode_limits(config: JudgeConfig) -> Limits:
    """Limits of an episode. A judge that has a single turn, or writes no reasoning, answers at the first view."""
    operators = config.max_operators if config.num_turns == 2 and config.reasoning else 0
    return Limits(config.start_fps, operators, config.max_episode_frames, config.max_view_frames)


def episode_parts(num_frames: int, fps: float, config: JudgeConfig) -> list[tuple[int, int]]:
    """First and last native frame of each episode about a video: one, or one of each overlapping part where the first
    view has too many frames (with ``long_videos="thin"`` one episode, whose first view is thinner).

    Example:
        >>> episode_parts(81, 16.0, JudgeConfig())
        [(0, 80)]
    """
    if config.long_videos == "thin":
        return [(0, num_frames - 1)]
    first = replace(config, scan_fps=config.start_fps, max_scan_frames=config.max_view_frames, scan_overlap=None)
    grids = scan_grids(num_frames, fps, first)
    return [(g[0], num_frames - 1 if g is grids[-1] else g[-1]) for g in grids]


def seek(
    parts: Sequence[tuple[VideoView, tuple[int, ...]]], backend: Backend, config: JudgeConfig, *, strict: bool = False
) -> list[Sought]:
    """Episodes about parts of videos, in step.

    Args:
        parts: a video, and the first and last of its native frames that may be looked at.
        strict: raise what makes a video unreadable.

    Raises:
        VideoError: with ``strict``, if frames cannot be read.
    """
    states: list[State | str] = [_begun(view, part, config, strict) for view, part in parts]
    policy: EvidencePolicy = ModelPolicy(backend, config) if config.reasoning else _Silent()
    begun = [s for s in states if isinstance(s, State)]
    errors = [episode.error for episode in continue_episodes(policy, begun)]
    unread = next((e for s, e in zip(begun, errors, strict=True) if e and s.moves[-1].failed is None), None)
    if strict and unread is not None:
        raise VideoError(unread)
    ended = iter(errors)
    wording = load_active_wording(config.prompts)
    return [
        Sought(error=s) if isinstance(s, str) else Sought(_turns(s), tuple(_questions(s, wording)), next(ended))
        for s in states
    ]


def active_provenance(config: JudgeConfig) -> dict[str, Any]:
    """Settings of episodes for a verdict's provenance; none of a two-turn judge."""
    if config.policy != "active":
        return {}
    names = ("policy", "start_fps", "max_operators", "max_episode_frames", "max_view_frames")
    wording = load_active_wording(config.prompts).version
    return {**{name: getattr(config, name) for name in names}, "active_prompts": wording}


class _Silent:
    """Answers nothing: the verdict is read right after the question."""

    def next(self, states: Sequence[State]) -> list[Move]:
        return [Move(forced_prefix()) for _ in states]


def _begun(view: VideoView, part: tuple[int, ...], config: JudgeConfig, strict: bool) -> State | str:
    limits = episode_limits(config)
    if config.long_videos == "thin" and part[-1] > part[0]:
        most = (config.max_view_frames - 1) * view.fps / (part[-1] - part[0])
        limits = replace(limits, start_fps=min(limits.start_fps, most))
    environment = VideoEnvironment(view, limits, (part[0], part[-1]))
    try:
        return State(environment, [environment.start()])
    except (VideoError, MemoryError) as error:
        if strict and isinstance(error, VideoError):
            raise
        return str(error)


def _turns(state: State) -> tuple[Turn, ...]:
    fps = state.environment.footage.fps
    turns = []
    for number, (shown, move) in enumerate(zip(state.observations, state.moves, strict=False)):
        turn = Turn(
            1 if number == 0 else 2,
            shown.indices,
            shown.view.rate,
            move.text,
            error=move.failed,
            num_tokens=move.num_tokens,
            operator=_named(shown),
            parse_error=move.error,
        )
        if move.operator is not None:
            report = hypothesis_report(move, shown.indices, fps)
            turn = replace(turn, report=report, status=move.hypothesis.status)
        elif move.answer is not None:
            turn = replace(turn, report=move.answer.report, status=move.answer.status)
        turns.append(turn)
    return tuple(turns)


def _named(shown: Observation) -> str:
    if shown.operator is None:
        return ""
    return f"{shown.operator}" + (f" (refused: {shown.refused})" if shown.refused else "")


def _questions(state: State, wording: ActiveWording) -> list[Conversation]:
    """The question of each turn: the chat up to it. The observations that came later are left out."""
    return [
        episode_conversation(state, wording, number) for number in range(min(len(state.moves), len(state.observations)))
    ]
