"""An answer that goes on from the cache of the question it was scored on.

A verdict before reasoning is read after the question and the forced beginning of an answer. Its prefill holds the
question's keys and values; cut back to the question, and to the rows that want an answer, they are where the answer
begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from reward_model.backends.base import Wanted
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.schema import VerdictScore
from reward_model.turns import words_after

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel

    from reward_model.backends.signs import SignsWatch

#: A score, and an answer where one was wanted.
Looked = tuple[VerdictScore | None, Completion | None]


@dataclass(frozen=True)
class ReadQuestions:
    """A batch of questions that a model has read, each followed by the beginning of an answer.

    Attributes:
        ids, mask: tokens of both, (B, L), padded on the left.
        cache: keys and values of them.
        deltas: how far the positions of text stand behind its count of tokens, (B, 1); None: no pictures.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    cache: Cache
    deltas: torch.Tensor | None

    def behind(self, questions: torch.Tensor) -> int | None:
        """Number of tokens behind the questions, which are (B, L') alone; None where a row does not begin with its
        question, because the tokenizer joined it with what follows or the rows are followed by different numbers.
        """
        after = self.ids.shape[1] - questions.shape[1]
        begins = after > 0 and questions.shape[1] > 1 and bool((self.ids[:, :-after] == questions).all())
        return after if begins else None

    def begin(self, model: PreTrainedModel, rows: Sequence[int], after: int) -> dict[str, Any]:
        """Arguments of ``model.generate`` that continue these rows from the cache; it is used up.

        Args:
            model: the Qwen3-VL that has read them.
            rows: at least one.
            after: of :meth:`behind`.
        """
        import torch

        picked = torch.tensor(list(rows), device=self.ids.device)
        self.cache.crop(-(after + 1))  # the question's last token is read again: it is what predicts the first
        if len(rows) < self.ids.shape[0]:
            self.cache.batch_select_indices(picked)
        model.model.rope_deltas = None if self.deltas is None else self.deltas[picked]
        return {
            "input_ids": self.ids[picked, :-after],
            "attention_mask": self.mask[picked, :-after],
            "past_key_values": self.cache,
        }


class Reader(Protocol):
    """A model in this process, as :class:`~reward_model.backends.local.LocalBackend` holds it."""

    model: Any
    _signs: SignsWatch

    def _word_ids(self, words: tuple[str, str]) -> tuple[list[int], list[int]]: ...

    def _follow(
        self,
        part: Sequence[int],
        conversations: Sequence[Conversation],
        prefixes: Sequence[str],
        options: Sequence[Sequence[Sequence[int]]],
        kept: list[ReadQuestions] | None = None,
    ) -> list[tuple[float, ...]]: ...

    def _inputs(self, conversations: Sequence[Conversation], suffixes: Sequence[str]) -> dict[str, Any]: ...

    def _answer(
        self, conversations: Sequence[Conversation], sampling: Sampling, begun: dict[str, Any] | None = None
    ) -> list[Completion]: ...

    def _each(
        self,
        conversations: Sequence[Conversation],
        ask: Callable[[Sequence[int]], list[Looked]],
        failed: Callable[[str], Looked],
    ) -> list[Looked]: ...


def look_then_answer(
    backend: Reader,
    conversations: Sequence[Conversation],
    prefixes: Sequence[str],
    sampling: Sampling,
    wanted: Wanted,
) -> list[Looked]:
    """:meth:`~reward_model.backends.base.Continuing.look_then_answer` of a model in this process; the questions are
    read again only where the tokenizer leaves no boundary behind them.
    """

    backend._signs.keep_only(conversations)
    words = [backend._word_ids(words_after(prefix)) for prefix in prefixes]

    def ask(part: Sequence[int]) -> list[Looked]:
        kept: list[ReadQuestions] = []
        scores = [VerdictScore(p, q) for p, q in backend._follow(part, conversations, prefixes, words, kept)]
        rows = [row for row, (k, score) in enumerate(zip(part, scores, strict=True)) if wanted(k, score)]
        if not rows:
            return [(score, None) for score in scores]
        read, asked = kept.pop(), [conversations[part[row]] for row in rows]
        after = read.behind(backend._inputs([conversations[k] for k in part], [""] * len(part))["input_ids"])
        begun = None if after is None else read.begin(backend.model, rows, after)
        del read  # and with it the cache of a batch that is not continued
        answers = dict(zip(rows, backend._answer(asked, sampling, begun), strict=True))
        return [(score, answers.get(row)) for row, score in enumerate(scores)]

    def failed(reason: str) -> Looked:
        return VerdictScore(math.nan, math.nan, error=reason), Completion("", finished=False, error=reason)

    if sampling.temperature > 0 and sampling.seed is not None:
        import torch

        torch.manual_seed(sampling.seed)
    return backend._each(conversations, ask, failed)
