"""The two statistics of a prefill that tell how familiar a video is (:mod:`reward_model.domain`), taken from the
forward pass that answers or scores the question anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from reward_model.conversation import Conversation
from reward_model.domain import Signs


class SignsWatch:
    """Signs of the conversations that a model was asked about last, kept by identity.

    Args:
        model: a Qwen3-VL; the hidden state is taken behind the first half of its language model's layers.
    """

    def __init__(self, model: Any) -> None:
        layers = model.model.language_model.layers
        self._layer = layers[max(len(layers) // 2, 1) - 1]
        #: By identity; the conversation is kept with its signs, for an id is only unique while its object lives.
        self._seen: dict[int, tuple[Conversation, Signs]] = {}

    def find(self, conversation: Conversation) -> Signs | None:
        """Signs of this very conversation, if it was among the last."""
        return found[1] if (found := self._seen.get(id(conversation))) else None

    def keep_only(self, conversations: Sequence[Conversation]) -> None:
        """Forgets the signs of all other conversations."""
        asked = {id(c) for c in conversations}
        self._seen = {key: value for key, value in self._seen.items() if key in asked}

    @contextmanager
    def watching(
        self, conversations: Sequence[Conversation], appearances: Sequence[np.ndarray | None], after: Sequence[int]
    ) -> Iterator[None]:
        """Keeps the signs of the first forward pass within the block, if the block ends well.

        Args:
            conversations: of a left-padded batch.
            appearances: of each, see :func:`appearances`; None: it shows no picture.
            after: tokens of each row behind its question, the forced beginning of an answer.
        """
        states: list[np.ndarray] = []

        def take(_module: Any, _inputs: Any, output: Any) -> None:
            if states:
                return  # the tokens that follow the prefill
            hidden = output[0] if isinstance(output, tuple) else output
            rows = [hidden[k, hidden.shape[1] - 1 - behind] for k, behind in enumerate(after)]
            states.extend(row.float().cpu().numpy() for row in rows)

        hook = self._layer.register_forward_hook(take)
        try:
            yield
        finally:
            hook.remove()
        for conversation, looks, state in zip(conversations, appearances, states, strict=True):
            if looks is not None:
                self._seen[id(conversation)] = (conversation, Signs(looks, state))


def appearances(features: Any, counts: Sequence[int], pictures: Sequence[int]) -> list[np.ndarray | None]:
    """Mean and standard deviation (2 D,) over each conversation's picture tokens; None where it shows no picture.

    Args:
        features: what ``get_image_features`` returns for all pictures of a batch: (tokens, D), or one such per picture.
        counts: tokens of each picture.
        pictures: how many pictures each conversation shows, in order.
    """
    import torch

    tokens = getattr(features, "pooler_output", features)
    tokens = torch.cat(list(tokens)) if isinstance(tokens, list | tuple) else tokens
    found: list[np.ndarray | None] = []
    picture = start = 0
    for shown in pictures:
        if not shown:
            found.append(None)
            continue
        end = start + sum(counts[picture : picture + shown])
        part = tokens[start:end].float()
        found.append(torch.cat([part.mean(0), part.std(0, correction=0)]).cpu().numpy())
        picture, start = picture + shown, end
    return found
