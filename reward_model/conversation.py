"""Conversations with a model: messages of text and frames, how an answer is drawn, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reward_model.terminal.described import check_settings, described, setting


@dataclass(frozen=True)
class Message:
    """One chat message. ``content`` alternates freely between text and frames, each frame (H, W, 3) uint8."""

    role: str
    content: tuple[str | np.ndarray, ...]

    def to_chat(self) -> dict[str, Any]:
        """The message as chat templates read it: text parts and image parts (the image itself is not included)."""
        parts = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in self.content]
        return {"role": self.role, "content": parts}


Conversation = tuple[Message, ...]


@described
@dataclass(frozen=True)
class Sampling:
    """Settings for sampling answers.

    Raises:
        ValueError: if a value is not of its kind or out of bounds; the message names it.
    """

    max_new_tokens: int = setting(4096, least=1)
    """Most tokens of an answer."""
    temperature: float = setting(0.0, least=0, hint="0 takes the likeliest answer")
    """Sampling temperature; 0 takes the likeliest answer."""
    top_p: float = setting(1.0, above=0, most=1, hint="1 draws from all tokens")
    """Share of the probability to draw from, the likeliest tokens first."""
    seed: int | None = None
    """Seed of answers sampled at a temperature above 0. None: drawn anew each time."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Completion:
    """An answer, or the reason there is none. ``finished`` is False when the token limit cut it."""

    text: str
    finished: bool = True
    num_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
