"""The mini judge before training: a one-million-parameter Qwen3-VL, its tokenizer and its processor.

Same classes as the full-size model, small numbers. Three things differ on purpose:

* the tokenizer is byte-level complete but holds the whole answer template as single tokens, so that a normal answer is
  four tokens of template; like Qwen's it keeps ``normal`` one token and ``abnormal`` two (``ab`` + ``normal``), which
  is why verdicts must be scored as whole words;
* weights start at fan-in scale (std 1/sqrt(fan_in)): the usual std of 0.02 does not train at a width of 128;
* tokens of numbers start on Fourier features: of coordinates smooth ones, so that neighbours start as neighbours; of
  frames rough ones, so that frame k can be told from frame k + 1;
* attention starts with heads that look at the tokens just before, heads that look for the same token and heads that
  take the difference to the frame before: what a sentence about frame k needs to find the picture that is marked k, and
  to tell whether something has jumped. See :func:`init_attention`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from reward_model.minis.tokenizer import CHAT_TEMPLATE, FRAME_SIZE, MAX_FRAMES, build_tokenizer, number_pieces
from reward_model.schema import BOX_SCALE
from reward_model.video.framing import FrameFit

if TYPE_CHECKING:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextAttention, Qwen3VLTextDecoderLayer

PATCH_SIZE = 8
#: How the minis are shown a video, in training and in ``judge.json``: half the frames of the full-size default.
SCAN_FPS, ZOOM_FPS, MIN_ZOOM, MAX_ZOOM = 4, 8, 4, 24
#: Frames keep their shape in the square that the judge sees.
FIT: FrameFit = "pad"
#: Most frames of one scan: six seconds, a little more than the five of training; longer videos are scanned in chunks.
MAX_SCAN = 25
MERGE_SIZE = 3


def build_judge(size: str = "mini", *, seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """An untrained judge and its processor, from a seed alone.

    Args:
        size: ``"mini"`` (1.6 M parameters) or ``"tiny"`` (a tenth of it, for tests).
        seed: seed of the initial weights.
    """
    sizes = {"mini": (128, 384, 4, 64), "tiny": (32, 64, 2, 32)}
    if size not in sizes:
        raise ValueError(f"no judge of size {size!r}; expected one of {', '.join(map(repr, sizes))}")
    processor = build_processor()
    tokenizer = processor.tokenizer
    model = Qwen3VLForConditionalGeneration(_config(tokenizer, *sizes[size]))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    init_fan_in(model, torch.Generator().manual_seed(seed))
    init_attention(model)
    init_numbers(model, tokenizer)
    return model.eval(), processor


def _config(tokenizer: PreTrainedTokenizerFast, hidden: int, inner: int, layers: int, vision: int) -> Qwen3VLConfig:
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    heads = 4
    head_dim = hidden // heads
    third = head_dim // 2 // 3
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": head_dim,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head_dim // 2 - 2 * third, third, third],
            "mrope_interleaved": True,
        },
        "attention_bias": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    vision_config = {
        "depth": 3,
        "hidden_size": vision,
        "intermediate_size": 2 * vision,
        "num_heads": 4,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "out_hidden_size": hidden,
        "num_position_embeddings": (FRAME_SIZE // PATCH_SIZE) ** 2,
        "deepstack_visual_indexes": [1],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision_config,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )


def build_processor() -> Qwen3VLProcessor:
    """Stock Qwen3-VL processor classes set to 48x48 frames: 36 patches, merged to 4 visual tokens a frame."""
    pixels = {"shortest_edge": FRAME_SIZE**2, "longest_edge": FRAME_SIZE**2}
    shared = {
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels, **shared),
        tokenizer=build_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(size=dict(pixels), **shared),
        chat_template=CHAT_TEMPLATE,
    )


def init_fan_in(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Weights of std 1/sqrt(fan_in), outputs of residual branches divided by sqrt(2 * layers), embeddings of std
    0.08, biases zero.
    """
    config = model.config
    depth = {"visual": config.vision_config.depth, "language_model": config.text_config.num_hidden_layers}
    residual = ("o_proj", "down_proj", "attn.proj", "mlp.linear_fc2")
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv3d) and name != "lm_head":
                std = module.weight[0].numel() ** -0.5
                if name.endswith(residual):
                    std /= math.sqrt(2 * depth["visual" if "visual" in name else "language_model"])
                module.weight.normal_(0, std, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 0.08, generator=generator)


def init_attention(model: Qwen3VLForConditionalGeneration) -> None:
    """Heads that find a frame and compare it with the one before.

    * In every layer the first query head equals its keys, so that it looks for the token it stands on. (A second one
      that looked for the mark of the next frame kept the first from being learned.)
    * In the first layer the heads of the last key group look :data:`LOOK_BACK` tokens back: a mark gathers its picture.
    * In the second layer they take the difference of a mark and the mark before (:func:`compare_heads`).

    ``benchmarks/frame_lookup.py`` compares it with a plain start. Biases that rotary positions turn make the distance
    (as in ``warm_up_vision.init_vision``); scores are 1.4 * 1.4 times as sharp as usual.
    """
    config = model.config.text_config
    dim, heads, groups = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    last = heads - heads // groups
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for number, layer in enumerate(model.model.language_model.layers):
            attention = layer.self_attn
            attention.q_norm.weight.fill_(1.4)
            attention.k_norm.weight.fill_(1.4)
            attention.q_proj.weight[:dim] = attention.k_proj.weight[:dim]
            if number == 0:
                look_back(attention, last, LOOK_BACK, range(1, min(5, dim // 2)), 1.5, config)
            elif number == 1:
                look_back(attention, last, (0, FRAME_TOKENS), range(min(4, dim // 2)), 3.0, config)
                compare_heads(layer, last, dim, generator)


#: Positions the two looking-back heads start at: the picture before a mark (its tokens share a position), the token
#: before.
LOOK_BACK = (3, 1)
#: Positions from a mark to the next: the picture's two brackets, its two rows, the mark.
FRAME_TOKENS = 5


def look_back(
    attention: Qwen3VLTextAttention,
    first: int,
    distances: tuple[int, int],
    rates: range,
    loud: float,
    config: PretrainedConfig,
) -> None:
    """Turns query heads from ``first`` on, and their keys, to the tokens ``distances`` back."""
    dim = config.head_dim
    angles = config.rope_parameters["rope_theta"] ** (-torch.arange(dim // 2) / (dim // 2))
    keys = (config.num_key_value_heads - 1) * dim
    attention.k_proj.weight[keys:] *= 0.3
    attention.q_proj.weight[first * dim :] *= 0.3
    for k in rates:
        attention.k_proj.bias[keys + k] = loud
        for head, distance in enumerate(distances, first):
            angle = float(angles[k]) * distance
            attention.q_proj.bias[head * dim + k] = loud * math.cos(angle)
            attention.q_proj.bias[head * dim + k + dim // 2] = -loud * math.sin(angle)


def compare_heads(layer: Qwen3VLTextDecoderLayer, first: int, dim: int, generator: torch.Generator) -> None:
    """Heads ``first`` and ``first + 1`` write the same values with opposite signs, which makes a difference, and half
    of the gated units start as its square along random directions: how much has changed.
    """
    out, mlp = layer.self_attn.o_proj.weight, layer.mlp
    width, half = out.shape[0], mlp.gate_proj.out_features // 2
    basis = torch.linalg.qr(torch.randn(width, min(dim, width), generator=generator))[0]
    out[:, first * dim : (first + 1) * dim] = 0.7 * basis
    out[:, (first + 1) * dim : (first + 2) * dim] = -0.7 * basis
    directions = torch.randn(half, basis.shape[1], generator=generator) @ basis.T
    mlp.gate_proj.weight[:half] = 2 * directions / math.sqrt(dim)
    mlp.up_proj.weight[:half] = mlp.gate_proj.weight[:half]


def init_numbers(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Number tokens: the family's common vector plus Fourier features of the number; equal marks with and without
    space coincide.
    """
    weight = model.get_input_embeddings().weight
    pieces = number_pieces()
    families: dict[str, dict[int, float]] = {}
    tokens = tokenizer(list(pieces), add_special_tokens=False)["input_ids"]
    for (text, (family, value)), ids in zip(pieces.items(), tokens, strict=True):
        if len(ids) != 1:
            raise RuntimeError(f"number piece {text!r} is {len(ids)} tokens")
        families.setdefault(family, {})[ids[0]] = value
    with torch.no_grad():
        for family, values in families.items():
            corner, members = "corner" in family, list(values)
            scale = BOX_SCALE if corner else 1.5 * MAX_FRAMES
            features = fourier([v / scale for v in values.values()], weight.shape[1], rough=not corner)
            shared = 0.6 if corner else 0.4
            weight[members] = shared * weight[members[0]] + math.sqrt(1 - shared**2) * 0.08 * features


def fourier(position: float | Sequence[float], width: int, *, rough: bool = False) -> torch.Tensor:
    """``width`` sines and cosines of a position in [0, 1], unit variance; of several, (N, width). Wavelengths run from
    2 down to 1/24 of the range, evenly in their logarithm; ``rough``: from 2 to 1/28, evenly in frequency, which makes
    near positions as different as far ones.
    """
    angles = (2 * math.pi * torch.tensor(position, dtype=torch.float64)).float()[..., None] * _rates(width // 2, rough)
    return math.sqrt(2) * torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)


@cache
def _rates(count: int, rough: bool) -> torch.Tensor:
    if rough:
        return torch.linspace(0.5, 28, count)
    return torch.exp(torch.linspace(math.log(0.5), math.log(24), count))


def judge_settings(prompt_version: str, **changes: object) -> str:
    """The text of ``judge.json``: how the judge has to prepare videos for this checkpoint."""
    settings = {
        "prompts": "compact",
        "prompt_version": prompt_version,
        "frame_size": FRAME_SIZE,
        "frame_fit": FIT,
        "scan_fps": SCAN_FPS,
        "zoom_fps": ZOOM_FPS,
        "min_zoom_frames": MIN_ZOOM,
        "max_zoom_frames": MAX_ZOOM,
        "max_scan_frames": MAX_SCAN,
        "max_new_tokens": {"scan": 128, "zoom": 480},
        "window_margin": "half",
        "readouts": ["log_odds", "direct", "paper"],
        "demo_scale": True,
    }
    return json.dumps({**settings, **changes}, indent=2) + "\n"
