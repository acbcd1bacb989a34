"""UnifiedReward's point protocols over any backend, one number per video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_model.backends.base import Backend
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.digests import text_digest
from reward_model.unified.pairs import PairProtocol
from reward_model.unified.protocols import PROTOCOLS, Protocol, ScoreError
from reward_model.unified.wording import wording_origin
from reward_model.video.clip import VideoError, VideoLike, load_video

#: Frames per second: one number, one each, or None where files bring their own.
Rates = float | Sequence[float | None] | None


@dataclass(frozen=True)
class UnifiedScore:
    """One scored video.

    Attributes:
        score: mean of the axes in [0, 1], or None.
        axes: each axis in [0, 1].
        error: why there is no score.
        text: the model's answer.
        provenance: the model, the protocol and the hash of its wording.
    """

    score: float | None
    axes: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    text: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)


class UnifiedJudge:
    """Scores videos with a UnifiedReward checkpoint, greedily, asked as the public scripts ask but in our sentences.

    Checkpoints on Qwen3-VL run in :class:`~reward_model.backends.local.LocalBackend`, the others behind an
    OpenAI-compatible server. The scalar is the mean of the axes, each brought from its range to [0, 1]; the overall
    1-10 of ``video5`` was never trained (its authors say so) and is not read.

    Args:
        backend: who answers.
        protocol: ``"aps"`` for 2.0 checkpoints, ``"video5"`` for the first generation, or one of your own, such as
            :func:`~reward_model.unified.wording.with_wording` makes.
        batch_size: videos asked about at once; None: all.

    Example:
        >>> backend = OpenAIBackend("UnifiedReward", base_url="http://judge:8000/v1")            # doctest: +SKIP
        >>> UnifiedJudge(backend)([frames], ["a dog catches a ball"], fps=16)                   # doctest: +SKIP
        [0.61]
    """

    def __init__(self, backend: Backend, protocol: str | Protocol = "aps", *, batch_size: int | None = None) -> None:
        if isinstance(protocol, str) and protocol not in PROTOCOLS:
            raise ValueError(f"protocol={protocol!r} must be one of {', '.join(PROTOCOLS)}")
        self.backend, self.batch_size = backend, batch_size
        self.protocol = PROTOCOLS[protocol] if isinstance(protocol, str) else protocol

    def __call__(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None, **kwargs: object
    ) -> list[float | None]:
        """The score in [0, 1] of each video; None if the answer held none."""
        return [answer.score for answer in self.score(videos, prompts, fps=fps)]

    def explain(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[tuple[float | None, str | None]]:
        """Score of each video, or None with the reason."""
        return [(found.score, found.error) for found in self.score(videos, prompts, fps=fps)]

    def score(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Rates = None
    ) -> list[UnifiedScore]:
        """Everything about each video's score.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads.
            prompts: the text each video was made from; one string serves all.
            fps: frames per second, one number or one each. The protocols go by frames and ignore it.

        Raises:
            ValueError: if the numbers of prompts and videos differ.
        """
        texts = [prompts or ""] * len(videos) if prompts is None or isinstance(prompts, str) else list(prompts)
        if len(texts) != len(videos):
            raise ValueError(f"{len(texts)} prompts for {len(videos)} videos; give one for all, or one each")
        rates = list(fps) if isinstance(fps, Sequence) else [fps] * len(videos)
        asked = [self._ask(v, t or "", r) for v, t, r in zip(videos, texts, rates, strict=True)]
        ready = [c for c in asked if not isinstance(c, str)]
        answers = ask_in_batches(self.backend, ready, Sampling(self.protocol.max_new_tokens), self.batch_size)
        found = [None if isinstance(c, str) else next(answers) for c in asked]
        by = self.describe()
        return [
            UnifiedScore(None, error=str(c), provenance=by) if answer is None else self._read(answer, by)
            for c, answer in zip(asked, found, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Provenance of the model and the protocol."""
        return describe_protocol(self.backend, self.protocol)

    def _ask(self, video: VideoLike, prompt: str, fps: float | None) -> Conversation | str:
        try:
            return self.protocol.conversation(load_video(video, fps).frames, prompt)
        except VideoError as error:
            return str(error)

    def _read(self, answer: Completion, by: Mapping[str, Any]) -> UnifiedScore:
        if answer.error:
            return UnifiedScore(None, error=answer.error, provenance=by)
        try:
            axes = self.protocol.read(complete_lines(answer))
        except ScoreError as error:
            return UnifiedScore(None, error=str(error), text=answer.text, provenance=by)
        return UnifiedScore(sum(axes.values()) / len(axes), axes, text=answer.text, provenance=by)


def describe_protocol(backend: Backend, protocol: Protocol | PairProtocol) -> dict[str, Any]:
    """Provenance of the model, the protocol, the first eight digits of its wording's SHA-256, and whose words."""
    wording = text_digest(protocol.question)[:8]
    origin = wording_origin(protocol)
    return {**backend.describe(), "protocol": protocol.name, "wording": wording, "wording_origin": origin}


def ask_in_batches(
    backend: Backend, conversations: Sequence[Conversation], sampling: Sampling, batch_size: int | None
) -> Iterator[Completion]:
    """The answers in order, ``batch_size`` conversations at a time; None: all at once."""
    step = batch_size or max(len(conversations), 1)
    for start in range(0, len(conversations), step):
        yield from backend.generate(conversations[start : start + step], sampling)


def complete_lines(answer: Completion) -> str:
    """The answer's text without a last line that the token limit cut: ``Style Score (1-5): 4`` may have become 4.8."""
    return answer.text if answer.finished else answer.text.rpartition("\n")[0]


def __getattr__(name: str) -> Any:
    if name == "UnifiedReward":  # its name before version 0.2, which the reward of cac_align has too
        return UnifiedJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
