"""Cross-attention over short prompts, equal to ``WanPipeline``'s padded attention.

``WanPipeline`` pads prompt embeddings with zeros to ``max_sequence_length`` (512 by default) and Wan attends to the
padding. All padded positions have the same key and value, so n of them weigh as much as one with ``log(n)`` on its
logit. Training on prompts of a dozen words with that bias gives the numbers of the padded computation (to 2e-6) at a
fraction of its cost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from diffusers.models.attention_processor import Attention
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel


class BiasedPromptProcessor(WanAttnProcessor):
    """Diffusers' processor with an additive bias on the prompt positions, (B, 1, 1, L)."""

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.bias = bias

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *args: object,
        **kwargs: object,
    ) -> torch.Tensor:
        return super().__call__(attn, hidden_states, encoder_hidden_states, self.bias)


@contextlib.contextmanager
def prompt_bias(transformer: WanTransformer3DModel, bias: torch.Tensor) -> Iterator[None]:
    """Adds ``bias`` to the cross-attention logits inside the block."""
    stock = [block.attn2.processor for block in transformer.blocks]
    processor = BiasedPromptProcessor(bias)
    for block in transformer.blocks:
        block.attn2.processor = processor
    try:
        yield
    finally:
        for block, old in zip(transformer.blocks, stock, strict=True):
            block.attn2.processor = old


def encode_compact(
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_sequence_length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, L, D) with at least one zero position each, and the bias (B, 1, 1, L) that stands for the rest.

    Args:
        max_sequence_length: the padded length that is imitated; longer than every prompt.
    """
    device = next(text_encoder.parameters()).device
    tokens = tokenizer(prompts, padding=True, return_tensors="pt").to(device)
    mask = tokens.attention_mask
    hidden = text_encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]
    hidden = torch.nn.functional.pad(hidden, (0, 0, 0, 1))
    lengths, total = mask.sum(dim=1), hidden.shape[1]
    padding_bias = ((max_sequence_length - lengths) / (total - lengths)).log()
    is_padding = torch.arange(total, device=device)[None] >= lengths[:, None]
    bias = torch.where(is_padding, padding_bias[:, None], torch.zeros((), device=device))
    return hidden, bias[:, None, None, :].to(hidden.dtype)
