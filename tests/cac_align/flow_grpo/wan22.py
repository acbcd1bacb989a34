"""Tiny real pipelines in the layouts of Wan 2.2: A14B with two experts, TI2V-5B with timesteps per token."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from tests.cac_align.flow_grpo.runs import PROMPTS, own, settings
from tests.conftest import _quiet, _wan_parts

#: Of four steps, two belong to each expert.
BOUNDARY = 0.875


def a14b(*, image: bool = False) -> Any:
    """Two experts of different weights, 16x16 pixels; the same every time. All share what no training touches."""
    from diffusers import WanImageToVideoPipeline, WanPipeline

    parts = own(_a14b_parts(image))
    if image:
        more = {"image_processor": None, "image_encoder": None, "boundary_ratio": BOUNDARY}
        return _quiet(WanImageToVideoPipeline(**parts, **more))
    return _quiet(WanPipeline(**parts, boundary_ratio=BOUNDARY))


@functools.cache
def _a14b_parts(image: bool) -> dict[str, Any]:
    import torch
    from diffusers import WanTransformer3DModel

    parts = _wan_parts(36 if image else 16)
    torch.manual_seed(1)
    return {**parts, "transformer_2": WanTransformer3DModel.from_config(parts["transformer"].config)}


def ti2v_5b(*, image: bool = False) -> Any:
    """One transformer, 16 pixels a latent cell, 32x32 pixels at least."""
    from diffusers import WanImageToVideoPipeline, WanPipeline

    parts = own(_ti2v_5b_parts())
    if image:
        more = {"image_processor": None, "image_encoder": None, "expand_timesteps": True}
        return _quiet(WanImageToVideoPipeline(**parts, **more))
    return _quiet(WanPipeline(**parts, expand_timesteps=True))


@functools.cache
def _ti2v_5b_parts() -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    parts = _wan_parts(16)
    torch.manual_seed(2)
    parts["vae"] = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
    )
    parts["transformer"] = WanTransformer3DModel.from_config(parts["transformer"].config)
    return parts


def pictures(prompts: Any = PROMPTS, size: int = 16) -> dict[str, Any]:
    """A first frame of noise for each prompt."""
    from PIL import Image

    draw = np.random.default_rng(0)
    return {text: Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)) for text in prompts}


def build(folder: Any, pipe: Any, *, images: Any = None, eval_prompts: Any = (), **changes: Any) -> FlowGRPOTrainer:
    """A trainer on one of the pipelines, of one group a step."""
    return FlowGRPOTrainer(
        settings(folder, **{"batch": "1x4", **changes}),
        pipe=pipe,
        prompts=PROMPTS,
        eval_prompts=list(eval_prompts),
        images=images,
    )


def of(part: str, state: Any) -> Any:
    """The weights of one expert."""
    return {name: value for name, value in state.items() if name.startswith(f"{part}.")}
