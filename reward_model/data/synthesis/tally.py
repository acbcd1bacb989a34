"""Counts of calls, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reward_model.terminal.described import check_settings, described, setting


@described
@dataclass(frozen=True)
class Price:
    """Price of a model per million tokens, in any one currency.

    Raises:
        ValueError: if a price is negative or not a finite number.
    """

    tokens_in: float = setting(0.0, "Price of a million tokens of questions.", least=0, below=math.inf)
    tokens_out: float = setting(0.0, "Price of a million tokens of answers.", least=0, below=math.inf)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass
class Tally:
    """Finished calls to one model.

    ``calls`` = ``answered`` + ``failed``; ``cut`` answers are among the answered. ``retries`` are further attempts the
    backend made by itself. ``seconds`` add up over parallel calls. Tokens are those the model reports, 0 where it does
    not.
    """

    calls: int = 0
    answered: int = 0
    failed: int = 0
    cut: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Counts one line of a ledger."""
        answered = is_answer(entry["text"], entry["error"])
        self.calls += 1
        self.answered += answered
        self.failed += not answered
        self.cut += answered and not entry["finished"]
        self.retries += entry["retries"]
        self.tokens_in += entry["tokens_in"]
        self.tokens_out += entry["tokens_out"]
        self.seconds += entry["seconds"]

    def cost(self, price: Price) -> float:
        """Example:
        >>> Tally(tokens_in=2_000_000, tokens_out=500_000).cost(Price(1.25, 10.0))
        7.5
        """
        return (self.tokens_in * price.tokens_in + self.tokens_out * price.tokens_out) / 1e6

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def is_answer(text: str, error: str | None) -> bool:
    """True if a call returned something to read."""
    return error is None and bool(text.strip())
