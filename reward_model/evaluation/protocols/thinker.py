"""VR-Thinker (arXiv 2510.10518): a model that sees a few frames, asks for more while it thinks, and then decides.

The loop, the tool and the window of memory follow the paper and the model cards. Its weights were trained to compare
two videos; the question about one is a conversion of ours, in our own sentences, and has not been run on the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from reward_model.backends.base import Backend
from reward_model.conversation import Conversation, Message, Sampling
from reward_model.evaluation.protocols.status import open_videos, read_word
from reward_model.prompts import clean_line, clean_text
from reward_model.schema import Status, Verdict
from reward_model.terminal.described import check_settings, described, setting
from reward_model.unified.protocols import ScoreError, even_indices, last_answer
from reward_model.unified.score import ask_in_batches
from reward_model.video.clip import Video

if TYPE_CHECKING:
    from reward_model.judge import Rates

_CALL = re.compile(r"<(/?)tool_call>", re.IGNORECASE)
_LIST = re.compile(r"\[([\d\s,]{1,400})\]")
_WORDS: dict[str, Status] = {"normal": "normal", "abnormal": "abnormal"}


@described
@dataclass(frozen=True)
class FrameSelection:
    """Number of frames a model can ask for, and how long they are kept."""

    pool: int = setting(128, least=1)
    """Frames of a video that can be asked for, evenly spaced."""
    first: int = setting(4, least=1)
    """Frames shown at the start."""
    per_call: int = setting(12, least=1)
    """Frames shown of one request at most."""
    max_turns: int = setting(6, least=1)
    """Answers at most; the last one must decide."""
    memory: int = setting(2, least=1)
    """Requests whose frames stay in view; older ones are named but no longer shown. The model's cards give no
    number."""
    max_new_tokens: int = setting(4096, least=1)
    """Most new tokens of one answer."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass
class _Sitting:
    """One video under way."""

    pool: np.ndarray
    asked: list[Message] = field(default_factory=list)
    outcome: Verdict | None = None


class ThinkerJudge:
    """Asks for a verdict and shows the frames that are asked for.

    Args:
        backend: who answers.
        selection: numbers of frames and turns.
        batch_size: videos asked about at once; None: all.
    """

    name = "vr-thinker"

    def __init__(
        self, backend: Backend, selection: FrameSelection | None = None, *, batch_size: int | None = None
    ) -> None:
        self.backend, self.batch_size = backend, batch_size
        self.selection = selection or FrameSelection()

    def judge_batch(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[Verdict]:
        """One verdict per video; without a readable answer it has no status and says why."""
        texts = [prompts] * len(videos) if prompts is None or isinstance(prompts, str) else list(prompts)
        sittings = [self._begin(v, t or "") for v, t in zip(open_videos(videos, fps), texts, strict=True)]
        sampling = Sampling(self.selection.max_new_tokens)
        for turn in range(1, self.selection.max_turns + 1):
            waiting = [s for s in sittings if s.outcome is None]
            shown = [self._in_view(s.asked) for s in waiting]
            answers = ask_in_batches(self.backend, shown, sampling, self.batch_size)
            for sitting, answer in zip(waiting, answers, strict=True):
                if answer.error:
                    sitting.outcome = self._verdict(None, answer.error)
                else:
                    self._hear(sitting, answer.text, last=turn == self.selection.max_turns)
        return [s.outcome or self._verdict(None, "no verdict") for s in sittings]

    def describe(self) -> dict[str, Any]:
        """Provenance of the model and the protocol."""
        return {**self.backend.describe(), "protocol": self.name, **asdict(self.selection)}

    def _begin(self, video: Video | str, prompt: str) -> _Sitting:
        if isinstance(video, str):
            return _Sitting(np.empty(0), outcome=self._verdict(None, video))
        pool = video.take(even_indices(video.num_frames, self.selection.pool))
        first = even_indices(len(pool), self.selection.first)
        text = (
            f"These are {len(first)} of the {len(pool)} frames of a generated video, in order: frames "
            f"{', '.join(str(k + 1) for k in first)}. Decide whether a part of the video is anomalous: a thing, a "
            "person, a movement, the physics or the writing. Think inside <think></think>. To see more frames, write\n"
            '<tool_call>{"name": "select_frames", "arguments": {"target_frames": [1, 2, 3]}}</tool_call>\n'
            f"with up to {self.selection.per_call} frames from 1 to {len(pool)}, and wait. Once you are sure, write "
            f"<answer>normal</answer> or <answer>abnormal</answer>.\nText prompt: [{clean_line(prompt)}]"
        )
        return _Sitting(pool, [Message("user", (*pool[first], text))])

    def _hear(self, sitting: _Sitting, text: str, *, last: bool) -> None:
        wanted = requested_frames(text, len(sitting.pool), self.selection.per_call)
        if wanted and not last:
            words = f"Frames {', '.join(str(k + 1) for k in wanted)}. Go on."
            sitting.asked += [
                Message("assistant", (clean_text(text),)),
                Message("user", (*sitting.pool[wanted], words)),
            ]
            return
        try:
            sitting.outcome = self._verdict(read_word(last_answer(text), _WORDS))
        except ScoreError as error:
            sitting.outcome = self._verdict(None, str(error))

    def _in_view(self, asked: Sequence[Message]) -> Conversation:
        """The chat with the frames of the latest requests and the first ones only."""
        users = [k for k, message in enumerate(asked) if message.role == "user"]
        kept = {users[0], *users[-self.selection.memory :]}
        return tuple(
            m if k in kept or m.role != "user" else Message("user", tuple(p for p in m.content if isinstance(p, str)))
            for k, m in enumerate(asked)
        )

    def _verdict(self, status: Status | None, error: str | None = None) -> Verdict:
        return Verdict(status, None, readout=self.name, error=error, provenance=self.describe())


def requested_frames(text: str, pool: int, most: int) -> list[int]:
    """Frames that the last complete tool call of an answer asks for, from 0, in order; none where there is no call.

    Example:
        >>> requested_frames('<tool_call>{"arguments": {"target_frames": [9, 3, 99]}}</tool_call>', pool=16, most=12)
        [2, 8]
    """
    begun: int | None = None
    call = ""
    for tag in _CALL.finditer(text):
        if not tag[1]:
            begun = tag.end()
        elif begun is not None:
            call, begun = text[begun : tag.start()], None
    found = _LIST.search(call)
    numbers = [int(n) for n in re.findall(r"\d{1,9}", found[1])] if found else []
    return sorted({n - 1 for n in numbers if 1 <= n <= pool})[:most]
