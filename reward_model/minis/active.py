"""Tokens a mini needs to write operators: one token for each piece of their text, as its answers have.

Byte by byte an operator would be a hundred and fifty tokens, of which a model of this size gets one wrong; in pieces it
is seven. The pieces are added behind the vocabulary, so every token that a checkpoint knows keeps its number.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken

from reward_model.active.operators import FACTORS, WIDTHS
from reward_model.active.policies import THOUGHTS

#: Half seconds an ``expand`` can reach, to each side.
_REACHES = [k / 2 for k in range(13)]
#: Spread of what is added to the mean of a piece's bytes.
_NOISE = 0.02


def active_pieces() -> list[str]:
    """The pieces of operators in the compact wording, single tokens each."""
    held = '", "p": 50, "types": [], "frames": null}, "act": {"op": '
    return [
        "\nLook.",
        *(f'{{"think": "{thought}", "hyp": {{"status": "' for thought in THOUGHTS.values()),
        f'{held}"zoom", "frames": "',
        f'{held}"backtrack", "frame": ',
        f'{held}"expand", "dl": ',
        *(f'", "k": {factor}}}}}' for factor in FACTORS),
        *(f', "w": {width}}}}}' for width in WIDTHS),
        *(f'{reach}, "dr": ' for reach in _REACHES),
        *(f"{reach}}}}}" for reach in _REACHES),
    ]


def add_active_pieces(model: Any, processor: Any, seed: int = 0) -> int:
    """Gives a mini the tokens of :func:`active_pieces`; those it has already stay.

    A new token begins as the mean of the tokens it replaces, with a little noise, so that it means something.

    Returns:
        How many tokens were added.
    """
    tokenizer = processor.tokenizer
    new = [piece for piece in active_pieces() if len(tokenizer.encode(piece, add_special_tokens=False)) > 1]
    if not new:
        return 0
    parts = [tokenizer.encode(piece, add_special_tokens=False) for piece in new]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in new])
    with torch.no_grad():
        before = model.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(seed)
        noise = _NOISE * torch.randn(len(new), before.shape[1], generator=generator)
        rows = torch.stack([before[ids].mean(0) for ids in parts]) + noise.to(before)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        weight = model.get_input_embeddings().weight
        for piece, row in zip(new, rows, strict=True):
            weight[tokenizer.convert_tokens_to_ids(piece)] = row
    return len(new)
