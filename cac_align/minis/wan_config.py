"""Configuration of wan-mini beside that of the full-size Wan 2.1, and the untrained pipeline built from either.

Mini and full size are the same five classes with other numbers. Like Wan 2.1, the mini has 16 latent channels at 1/4 of
the frames and 1/8 of the height and width: 81 frames of 32x32 become 21x4x4 latents. Two choices come from Wan 2.2's
5B model, because they make a CPU training possible: the VAE folds 2x2 pixels into channels (``patch_size``) and has
averaging shortcuts (``is_residual``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cac_align.flow_grpo.wan_sizes import FULL

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MINI: dict[str, dict[str, Any]] = {
    "vae": {
        "base_dim": 16,
        "decoder_base_dim": 32,
        "z_dim": 16,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],  # sic: diffusers' spelling
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_temporal": 4,
        "scale_factor_spatial": 8,
        "latents_mean": [0.0] * 16,
        "latents_std": [1.0] * 16,
    },
    "transformer": {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 5,
        "attention_head_dim": 32,
        "num_layers": 6,
        "ffn_dim": 480,
        "text_dim": 64,
        "freq_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "rope_max_seq_len": 64,
    },
    "text_encoder": {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 32,
        "dropout_rate": 0.0,
    },
    "scheduler": {"flow_shift": 3.0},
}

SIZES = {"mini": MINI, "full": FULL}


def world_prompts() -> list[str]:
    """Every prompt the procedural world can say, in a fixed order; their words are the tokenizer's vocabulary."""
    from reward_model.world.palette import BACKGROUNDS, COLORS, SHAPES
    from reward_model.world.things import MOTIONS

    return [
        f"a {color} {shape} {motion} on a {background} background"
        for color in COLORS
        for shape in SHAPES
        for motion in MOTIONS
        for background in BACKGROUNDS
    ]


def build_wan_tokenizer(prompts: Iterable[str], model_max_length: int = 512) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with T5's special tokens: ``<pad>`` 0, ``</s>`` 1 (ends every prompt), ``<unk>`` 2."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words = {w for p in prompts for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(p))}
    vocabulary = {word: k for k, word in enumerate(["<pad>", "</s>", "<unk>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=model_max_length,
        padding_side="right",
    )


def build_wan_pipeline(size: str = "mini", *, seed: int = 0) -> WanPipeline:
    """The untrained pipeline, weights initialised for training from scratch.

    Args:
        size: ``"mini"`` (4.4 M parameters) or ``"full"`` (Wan-2.1-1.3B's numbers; its text encoder alone needs 23 GB).
        seed: seed of the initial weights.

    Raises:
        ValueError: if the size has no configuration.
    """
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    if size not in SIZES:
        raise ValueError(f"size={size!r} is not one of {', '.join(map(repr, SIZES))}")
    config = SIZES[size]
    tokenizer = build_wan_tokenizer(world_prompts())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(**config["vae"])
        transformer = WanTransformer3DModel(**config["transformer"])
        text_encoder = UMT5EncoderModel(UMT5Config(**{"vocab_size": len(tokenizer), **config["text_encoder"]}))
        init_vae(vae)
        init_transformer(transformer)
        init_text_encoder(text_encoder)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, **config["scheduler"])
    return WanPipeline(tokenizer, text_encoder.eval(), vae.eval(), scheduler, transformer.eval())


@torch.no_grad()
def init_vae(vae: AutoencoderKLWan) -> None:
    """Fan-in weights, and a network that starts out treating every frame alone.

    Causal convolutions put their weight on the newest frame, zeros on the past; temporal resampling starts as a copy.
    What single frames teach then carries over to clips unchanged. Residual branches start small, posterior noise at
    exp(-3): with the stock unit noise a prototype predicted little but the mean picture for its first 80 steps.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock

    for module in vae.modules():
        if isinstance(module, nn.Conv3d | nn.Conv2d):
            newest = module.weight[:, :, -1] if module.weight.ndim == 5 else module.weight
            module.weight.zero_()
            newest.normal_(std=1 / math.sqrt(newest[0].numel()))
            if module.bias is not None:
                module.bias.zero_()
    for module in vae.modules():
        if isinstance(module, WanResidualBlock):
            module.conv2.weight.mul_(0.3)
        if isinstance(module, WanResample) and hasattr(module, "time_conv"):
            weight = module.time_conv.weight
            weight.zero_()
            weight[:, :, -1, 0, 0] = torch.eye(weight.shape[1]).repeat(weight.shape[0] // weight.shape[1], 1)
    num_channels = vae.config.z_dim
    vae.quant_conv.weight[num_channels:].zero_()
    vae.quant_conv.bias[num_channels:].fill_(-6.0)


@torch.no_grad()
def init_transformer(transformer: WanTransformer3DModel) -> None:
    """Fan-in weights; outputs that add to the residual stream are divided by ``sqrt(3 x layers)``; the last is zero."""
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            module.weight.normal_(std=1 / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                module.bias.zero_()
            if name.endswith(("to_out.0", "ffn.net.2")):
                module.weight.div_(math.sqrt(3 * transformer.config.num_layers))
    transformer.condition_embedder.time_proj.weight.mul_(0.1)
    for block in transformer.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, [2, 5]] = 1.0  # gates start open: six layers need no gentle start
    transformer.scale_shift_table.zero_()
    transformer.proj_out.weight.zero_()


@torch.no_grad()
def init_text_encoder(text_encoder: PreTrainedModel) -> None:
    """Fan-in weights and unit-variance embeddings (T5 attention has no 1/sqrt(d), so queries start small)."""
    for name, module in text_encoder.named_modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=1 / math.sqrt(module.weight.shape[1]))
            if name.endswith(".q"):
                module.weight.div_(math.sqrt(text_encoder.config.d_kv))
    text_encoder.shared.weight.normal_()
