"""Token ids of words as they continue a given beginning of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reward_model.backends.base import BackendError
from reward_model.parsing import STATUS_PREFIX
from reward_model.turns import WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def word_tokens(tokenizer: PreTrainedTokenizerBase, prefix: str, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word right after ``prefix``.

    Raises:
        BackendError: the tokenizer joins the end of the prefix with a word, so that the words share no common prefix to
            be scored from.
    """
    start = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    ids = []
    for word in words:
        joined = tokenizer(prefix + word, add_special_tokens=False)["input_ids"]
        if joined[: len(start)] != start or len(joined) == len(start):
            raise BackendError(
                f"this tokenizer merges the end of {prefix!r} into {word!r} ({start} against {joined}); the "
                "words cannot be scored from one prefix. Use a model with a Qwen-family tokenizer"
            )
        ids.append(joined[len(start) :])
    return ids


def verdict_tokens(tokenizer: PreTrainedTokenizerBase, words: tuple[str, str] = WORDS) -> tuple[list[int], list[int]]:
    """Token ids of ``normal`` and ``abnormal``, in the spelling of ``words``, right after ``"status": "``.

    Raises:
        BackendError: the tokenizer joins the quote with the word.
    """
    normal, abnormal = word_tokens(tokenizer, STATUS_PREFIX, words)
    return normal, abnormal
