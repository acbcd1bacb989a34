"""One training sample of the supervised stages, and how its answer becomes token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reward_model.conversation import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Label of tokens that the loss leaves out.
IGNORE = -100


@dataclass(frozen=True)
class Example:
    """One training sample: what is asked, and the text to answer.

    ``read`` is what the model sees of its answer while it learns to write it, where that is not the answer itself; it
    must be as many tokens long.
    """

    conversation: Conversation
    answer: str
    read: str | None = None


def read_ids(tokenizer: PreTrainedTokenizerBase, example: Example, answer: list[int]) -> list[int]:
    """Token ids the model reads in place of ``answer``, the ids of the answer and its end token.

    Raises:
        ValueError: if they are not as many as those of the answer.
    """
    if example.read is None:
        return answer
    read = tokenizer.encode(example.read + tokenizer.eos_token, add_special_tokens=False)
    if len(answer) != len(read):
        raise ValueError(f"read must be as long as answer, which has {len(answer)} tokens, got {len(read)} tokens")
    return read
