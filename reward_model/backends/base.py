"""The interface between judge and model: an answer to a conversation, and the probability of a word after a given
beginning of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.domain import Domain, Signs
from reward_model.schema import VerdictScore


class BackendError(RuntimeError):
    """The model could not be asked: server down, deadline passed, out of memory. Carries no secret."""


class CheckpointError(BackendError, ValueError):
    """A checkpoint is absent, of another kind, or broken. The message names it, the rule and the remedy."""


@runtime_checkable
class Backend(Protocol):
    """A model behind the judge. Batches keep their order; a failed item carries its own ``error`` and spoils no
    other.
    """

    name: str

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """One answer per conversation."""
        ...

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """Log-probabilities of the words ``normal`` and ``abnormal`` as whole continuations of each prefix of the
        answer.

        A prefix is the beginning of the assistant's answer and ends just before the word. None: the backend cannot
        tell.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Provenance: model id, revision, precision, versions. Never a key."""
        ...


@runtime_checkable
class Observing(Protocol):
    """A backend that sees inside its model: it can say how familiar a video is."""

    domain: Domain | None

    def observe(self, conversations: Sequence[Conversation]) -> list[Signs | None]:
        """The two statistics of each conversation's prefill, which is the one of the last ``generate`` or ``score``
        about these very conversations where the backend watched it, and a new one elsewhere. None: the conversation
        shows no picture, or cannot be read by the model.
        """
        ...


@dataclass(frozen=True)
class WordScores:
    """Log-probabilities (natural log) of words after one prefix, in the order of the words; ``error``: why there is
    nothing for this one.
    """

    log_probs: tuple[float, ...] = ()
    error: str | None = None


@runtime_checkable
class Choosing(Protocol):
    """A backend that scores any words, not the two of a verdict alone."""

    def choose(
        self, conversations: Sequence[Conversation], prefixes: Sequence[str], words: Sequence[str], *, after: str = ""
    ) -> list[WordScores | None]:
        """Log-probabilities of each word as a whole continuation of each prefix of the answer. None: the backend
        cannot tell.

        Args:
            after: what the answer has behind the word. A tokenizer may write a word and what follows as one token, and
                a model never writes it in another way.
        """
        ...


#: Says of a conversation, by its position and its score, whether an answer is wanted.
Wanted = Callable[[int, VerdictScore | None], bool]


@runtime_checkable
class Continuing(Protocol):
    """A backend that keeps what it has computed of a question, so that a score and the answer that may follow it cost
    one reading of the frames.
    """

    def look_then_answer(
        self, conversations: Sequence[Conversation], prefixes: Sequence[str], sampling: Sampling, wanted: Wanted
    ) -> list[tuple[VerdictScore | None, Completion | None]]:
        """The score after each prefix, as :meth:`Backend.score` gives it, and then an answer from the beginning to
        those that are ``wanted``, as :meth:`Backend.generate` gives it; None for the others.
        """
        ...
