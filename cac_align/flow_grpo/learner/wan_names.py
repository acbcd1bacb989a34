"""Names of the linear modules of Wan's transformer: those of the original code, which ComfyUI and most trainers read,
and those of diffusers. The same for Wan 2.1 and 2.2, text-to-video and image-to-video.
"""

from __future__ import annotations

import re

#: Inside ``blocks.N``: the original name -> that of diffusers.
IN_BLOCK = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
#: Outside of the blocks.
OUTSIDE = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "head.head": "proj_out",
}
_BLOCK = re.compile(r"blocks[._](\d+)[._](.+)")


def original_name(module: str) -> str:
    """The original name of a module, which may be given by any of its names.

    Raises:
        ValueError: if Wan's transformer has no such linear module.

    >>> original_name("blocks.3.attn2.to_out.0")
    'blocks.3.cross_attn.o'
    """
    return _translated(module, {ours: theirs for theirs, ours in IN_BLOCK.items()}, {v: k for k, v in OUTSIDE.items()})


def diffusers_name(module: str) -> str:
    """The name of a module in diffusers; see :func:`original_name`. Names whose dots were made underscores, as kohya's
    programs write them, are understood as well.

    Raises:
        ValueError: if Wan's transformer has no such linear module.

    >>> diffusers_name("blocks.3.ffn.0"), diffusers_name("blocks_3_cross_attn_k_img")
    ('blocks.3.ffn.net.0.proj', 'blocks.3.attn2.add_k_proj')
    """
    return _translated(module, IN_BLOCK, OUTSIDE)


def _translated(module: str, in_block: dict[str, str], outside: dict[str, str]) -> str:
    found = _BLOCK.fullmatch(module)
    table, rest = (in_block, found[2]) if found else (outside, module)
    for name, other in table.items():
        if rest in (name, other, name.replace(".", "_"), other.replace(".", "_")):
            return f"blocks.{found[1]}.{other}" if found else other
    raise ValueError(
        f"{module!r} is not a linear module of Wan's transformer; its modules have names such as "
        "blocks.0.self_attn.q (original) or blocks.0.attn1.to_q (diffusers)"
    )
