"""Log-probabilities of tokens from hidden states, without ever holding all logits.

The vocabulary is large (151,936 words: 1024 positions are 0.6 GB in fp32), so positions are projected in chunks, and
the backward pass projects each chunk again. All chunks are one call of the head and one node of the graph: hooks that
gather sharded weights for a call and release them after its gradient (FSDP2, ZeRO-3) then see a single call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from reward_model.engine.replaced_forward import replaced_forward

#: Positions projected to the vocabulary at once.
HEAD_CHUNK = 1024


def token_scores(
    head: nn.Linear, states: torch.Tensor, tokens: torch.Tensor, *, temperature: float = 1.0, chunk: int = HEAD_CHUNK
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (T,) of each token, and the entropy (T,) of its distribution (no gradient), both fp32 or wider.

    Args:
        head: hidden states to logits, without bias.
        states: (T, H).
        tokens: (T,) indices into the vocabulary.
        temperature: logits are divided by it.
        chunk: positions projected at once.
    """

    def scores(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _Scores.apply(hidden, head.weight, tokens, temperature, chunk)

    with replaced_forward(head, scores):
        return head(states)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weight: torch.Tensor, tokens: torch.Tensor, temperature: float, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values, entropies = [], []
        for part, wanted in zip(states.split(chunk), tokens.split(chunk), strict=True):
            logits = linear(part, weight)
            ctx.dtype = logits.dtype  # autocast's, where it is on: the backward pass runs outside of it
            log_all = _log_softmax(logits, temperature)
            values.append(log_all.gather(1, wanted[:, None])[:, 0])
            entropies.append(-(log_all.exp() * log_all).sum(-1))
        ctx.save_for_backward(states, weight, tokens)
        ctx.temperature, ctx.chunk = temperature, chunk
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(values), entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        """d log p(w) / d logits = onehot(w) - p, over the temperature."""
        states, weight, tokens = ctx.saved_tensors
        cast = weight.to(ctx.dtype)
        for_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if ctx.needs_input_grad[1] else None
        with torch.autocast(states.device.type, enabled=False):
            for start in range(0, len(states), ctx.chunk):
                here = slice(start, start + ctx.chunk)
                part, grad = states[here].to(ctx.dtype), grads[0][here, None] / ctx.temperature
                change = -_log_softmax(linear(part, cast), ctx.temperature).exp() * grad
                change.scatter_add_(1, tokens[here, None], grad.to(change.dtype))
                change = change.to(ctx.dtype)
                if for_states is not None:
                    for_states[here] = change @ cast
                if for_weight is not None:
                    for_weight += change.T @ part
        return for_states, None if for_weight is None else for_weight.to(weight.dtype), None, None, None


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(logits.to(_wide(logits.dtype)) / temperature, dim=-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
