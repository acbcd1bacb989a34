"""Conversations with a model: messages of text and frames, how an answer is drawn, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


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


@dataclass(frozen=True)
class Sampling:
    """Settings for sampling answers. ``temperature`` 0 is greedy."""

    max_new_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"sampling needs max_new_tokens >= 1, temperature >= 0 and 0 < top_p <= 1, got {self.max_new_tokens}, "
                f"{self.temperature} and {self.top_p}"
            )


@dataclass(frozen=True)
class Completion:
    """An answer, or the reason there is none. ``finished`` is False when the token limit cut it."""

    text: str
    finished: bool = True
    num_tokens: int = 0
    seconds: float = 0.0
    error: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
