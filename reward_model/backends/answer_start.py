"""The beginning of an answer: after its question, in the text that a chat template writes, and as the tokens of the
words that continue it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reward_model.backends.base import BackendError
from reward_model.parsing import STATUS_PREFIX
from reward_model.turns import WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: What opens a thought, and what closes it: chat templates of thinking models end in an opened one.
_MARKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
}


def question(prompt: str) -> str:
    """The part of a prompt that is the same whatever answer follows: without the line breaks behind an opened thought,
    which :func:`begin_answer` may close.

    Example:
        >>> question("<|im_start|>assistant\\n<think>\\n")
        '<|im_start|>assistant\\n<think>'
    """
    return prompt.rstrip() if prompt.rstrip().endswith(tuple(_MARKS)) else prompt


def begin_answer(prompt: str, prefix: str) -> str:
    """The prompt, as a chat template wrote it, followed by the beginning of an answer.

    A thought that the template has opened is closed first, empty, as the templates themselves do where thinking is
    switched off; unless there is nothing to follow, or the beginning holds the end of the thought itself.

    Example:
        >>> begin_answer("<|im_start|>assistant\\n<think>\\n", '{"COT": "')
        '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n{"COT": "'
    """
    for opened, closed in _MARKS.items():
        if prefix and prompt.rstrip().endswith(opened) and closed not in prefix:
            return f"{prompt.rstrip()}\n\n{closed}\n\n{prefix}"
    return prompt + prefix


def word_tokens(
    tokenizer: PreTrainedTokenizerBase, prefix: str, words: Sequence[str], after: str = ""
) -> list[list[int]]:
    """Token ids of each word right after ``prefix``, as a text has them that goes on with ``after``: the last one may
    hold a part of that.

    Raises:
        BackendError: the tokenizer joins the end of the prefix with a word, so that the words share no common prefix to
            be scored from.
    """
    start = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    ids = []
    for word in words:
        joined = tokenizer(prefix + word + after, add_special_tokens=False)["input_ids"]
        while after and tokenizer.decode(joined[:-1], clean_up_tokenization_spaces=False).startswith(prefix + word):
            joined = joined[:-1]
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
