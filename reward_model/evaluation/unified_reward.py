"""UnifiedReward as a baseline: its official protocols over any backend, one number per video (F-74)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reward_model.backends.base import Backend, Completion, Conversation, Sampling
from reward_model.evaluation.unified_protocols import PROTOCOLS, ScoreError
from reward_model.video import VideoError, load_video


@dataclass(frozen=True)
class UnifiedScore:
    """One scored video: the mean of its axes in [0, 1], or None and the reason; ``text`` is the answer."""

    value: float | None
    axes: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    text: str = ""


class UnifiedReward:
    """Scores videos with a UnifiedReward checkpoint; greedy, as the official scripts.

    Checkpoints on Qwen3-VL run in :class:`~reward_model.backends.local.LocalBackend`, the others behind an
    OpenAI-compatible server. The scalar is the mean of the axes, each brought from its range to [0, 1]; the overall
    1-10 of ``video5`` was never trained (its authors say so) and is not read.

    Args:
        backend: who answers.
        protocol: ``"aps"`` for 2.0 checkpoints, ``"video5"`` for the first generation.

    Example:
        >>> backend = OpenAIBackend("UnifiedReward", base_url="http://judge:8000/v1")            # doctest: +SKIP
        >>> UnifiedReward(backend)([frames], ["a dog catches a ball"], fps=16)                   # doctest: +SKIP
        [0.61]
    """

    def __init__(self, backend: Backend, protocol: str = "aps") -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol={protocol!r} must be one of {', '.join(PROTOCOLS)}")
        self.backend, self.protocol = backend, PROTOCOLS[protocol]

    def __call__(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Any = None, **kwargs: Any
    ) -> list[float | None]:
        """The score in [0, 1] of each video; None where the answer held none."""
        return [found.value for found in self.score(videos, prompts, fps=fps)]

    def explain(
        self, videos: Sequence[Any], prompts: Any = None, *, fps: Any = None
    ) -> list[tuple[float | None, str | None]]:
        """Score of each video, or None with the reason."""
        return [(found.value, found.error) for found in self.score(videos, prompts, fps=fps)]

    def score(
        self, videos: Sequence[Any], prompts: Sequence[str] | str | None = None, *, fps: Any = None
    ) -> list[UnifiedScore]:
        """Everything about each video's score.

        Args:
            videos: anything :func:`reward_model.video.load_video` reads.
            prompts: the text each video was made from; one string serves all.
            fps: frames per second, one number or one each. The protocols go by frames and ignore it.

        Raises:
            ValueError: the numbers of prompts and videos differ.
        """
        texts = [prompts or ""] * len(videos) if prompts is None or isinstance(prompts, str) else list(prompts)
        if len(texts) != len(videos):
            raise ValueError(f"{len(texts)} prompts for {len(videos)} videos; give one for all, or one each")
        rates = list(fps) if isinstance(fps, Sequence) else [fps] * len(videos)
        asked = [self._ask(v, t or "", r) for v, t, r in zip(videos, texts, rates, strict=True)]
        ready = [c for c in asked if not isinstance(c, str)]
        answers = iter(self.backend.generate(ready, Sampling(self.protocol.max_new_tokens)) if ready else [])
        return [UnifiedScore(None, error=c) if isinstance(c, str) else self._read(next(answers)) for c in asked]

    def describe(self) -> dict[str, Any]:
        """Provenance of the model, and the protocol."""
        return {**self.backend.describe(), "protocol": self.protocol.name}

    def _ask(self, video: Any, prompt: str, fps: float | None) -> Conversation | str:
        try:
            return self.protocol.conversation(load_video(video, fps).frames, prompt)
        except VideoError as error:
            return str(error)

    def _read(self, answer: Completion) -> UnifiedScore:
        if answer.error:
            return UnifiedScore(None, error=answer.error)
        try:
            axes = self.protocol.read(answer.text)
        except ScoreError as error:
            return UnifiedScore(None, error=str(error), text=answer.text)
        return UnifiedScore(sum(axes.values()) / len(axes), axes, text=answer.text)
