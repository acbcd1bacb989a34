"""The two-turn judge as one policy of many: at most one operator, ``zoom(window, zoom_fps)``, where turn one is
abnormal (section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_model.active.environment import VideoEnvironment
from reward_model.active.episodes import State
from reward_model.active.moves import Hypothesis, Move
from reward_model.active.operators import FACTORS, Zoom
from reward_model.active.views import Limits
from reward_model.backends.base import Backend
from reward_model.config import JudgeConfig
from reward_model.conversation import Sampling
from reward_model.prompts import PromptSet, load_prompts
from reward_model.schema import TurnReport
from reward_model.turns import Reading, TurnRequest, VideoView, read_turn, scan_request, turn_two_clips, zoom_request


def two_turn_limits(config: JudgeConfig, num_frames: int, fps: float) -> Limits:
    """Limits of an episode in which a two-turn judge can do what it does.

    Args:
        num_frames, fps: length and rate of the video.
    """
    scan = int((num_frames - 1) / fps * config.scan_fps) + 2
    most = max(scan, config.max_zoom_frames)
    operators = config.num_turns - 1
    return Limits(config.scan_fps, operators, max_frames=scan + config.max_zoom_frames, max_view_frames=most)


@dataclass
class TwoTurnPolicy:
    """Asks the questions of :class:`~reward_model.judge.TwoTurnJudge` through an environment.

    Args:
        backend: who answers.
        config: settings of the judge; ``zoom_fps`` must be 2, 4 or 8 times ``scan_fps``, and one clip serves all
            windows (``crop="hull"``).

    Raises:
        ValueError: if the settings ask for a turn two that no operator can bring.
    """

    backend: Backend
    config: JudgeConfig
    wording: PromptSet = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ratio = self.config.zoom_fps / self.config.scan_fps
        if ratio not in FACTORS:
            raise ValueError(
                f"zoom_fps={self.config.zoom_fps:g} is {ratio:g} times scan_fps={self.config.scan_fps:g}; as a policy "
                f"the judge zooms by {', '.join(map(str, FACTORS))}"
            )
        if self.config.crop != "hull":
            raise ValueError(f"crop={self.config.crop!r} must be 'hull': an operator shows one interval")
        self.wording = load_prompts(self.config.prompts)

    def next(self, states: Sequence[State]) -> list[Move]:
        requests = [self._request(state) for state in states]
        if not requests:
            return []
        config = self.config
        sampling = Sampling(max(r.max_new_tokens for r in requests), config.temperature, seed=config.seed)
        answers = self.backend.generate([r.conversation for r in requests], sampling)
        moves = []
        for state, request, answer in zip(states, requests, answers, strict=True):
            if answer.error is not None:
                moves.append(Move(answer.text, failed=answer.error))
                continue
            cut_after = None if answer.finished else answer.num_tokens
            how = (len(request.indices), config, request.framing)
            reading = read_turn(answer.text, request.number, *how, cut_after=cut_after, times=request.times)
            moves.append(self._move(state, request, answer.text, reading, answer.num_tokens))
        return moves

    def _request(self, state: State) -> TurnRequest:
        video = _video(state)
        if not state.moves:
            state.memory = scan_request(video, state.now.indices, self.config, self.wording)
            return state.memory
        scan, said = state.memory
        shown = state.now.indices
        return zoom_request(video, scan, said.text, said.report, shown, self.config, self.wording)

    def _move(self, state: State, request: TurnRequest, text: str, reading: Reading, tokens: int) -> Move:
        reason = reading.error.reason if reading.error is not None else None
        answer = Move(text, answer=reading, error=reason, num_tokens=tokens)
        video = _video(state)
        if request.number == 2 or reading.report is None or state.must_answer:
            return answer
        clips = turn_two_clips(reading.report, request.indices, video.num_frames, video.fps, self.config)
        if not clips:
            return answer
        state.memory = request, _Said(text, reading.report)
        start, end = clips[0][0] / video.fps, clips[0][-1] / video.fps
        held = Hypothesis("abnormal", 100.0, reading.report.types, (start, end))
        factor = round(self.config.zoom_fps / self.config.scan_fps)
        return Move(text, Zoom(start, end, factor), reading.report.cot, held, num_tokens=tokens)


@dataclass(frozen=True)
class _Said:
    """Turn one's answer and its report."""

    text: str
    report: TurnReport


def _video(state: State) -> VideoView:
    assert isinstance(state.environment, VideoEnvironment)
    return state.environment.video
