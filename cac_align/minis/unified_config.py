"""unified-mini before training: a judge's vision tower under a fresh language model that rates whole videos.

A stock ``Qwen3VLForConditionalGeneration`` with the sizes of the mini judge. What is asked differs: pictures stand one
after another with nothing between them, and the scores are about change from picture to picture. So attention starts
with heads that compare a visual token with the same place of the picture before.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from cac_align.minis.unified_tokenizer import build_unified_tokenizer, score_texts
from reward_model.backends.checkpoint import load_checkpoint
from reward_model.minis.model import build_judge, compare_heads, fourier, init_fan_in, look_back
from reward_model.minis.tokenizer import CHAT_TEMPLATE

#: Layers that start with comparing heads: the first sees how far things move, the second how much that changes.
COMPARING_LAYERS = 2


def build_unified(
    judge: str | Path = "mini", *, seed: int = 0
) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """The untrained model and its processor.

    Args:
        judge: whose vision tower and sizes to take: the folder of a trained mini judge, or ``"mini"`` or ``"tiny"`` for
            an untrained one.
        seed: seed of the language model's weights.

    Raises:
        ValueError: if there is no such judge.
    """
    source, seen = _open_judge(judge, seed)
    processor = Qwen3VLProcessor(
        image_processor=seen.image_processor,
        tokenizer=build_unified_tokenizer(),
        video_processor=seen.video_processor,
        chat_template=CHAT_TEMPLATE,
    )
    model = Qwen3VLForConditionalGeneration(_config(source.config, processor.tokenizer))
    init_fan_in(model, torch.Generator().manual_seed(seed))
    init_comparison(model, picture_length(model.config, processor))
    init_scores(model, processor.tokenizer)
    model.model.visual.load_state_dict(source.model.visual.state_dict())
    model.generation_config = GenerationConfig(
        eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=processor.tokenizer.pad_token_id, do_sample=False
    )
    return model.eval(), processor


def _open_judge(judge: str | Path, seed: int) -> tuple[Any, Any]:
    if str(judge) in ("mini", "tiny"):
        return build_judge(str(judge), seed=seed)
    if not (Path(judge) / "config.json").is_file():
        raise ValueError(
            f"judge={str(judge)!r} is not a folder of a trained judge; build one with "
            "`python recipes/build_minis.py --only judge`, or pass 'mini' to start from an untrained tower"
        )
    return load_checkpoint(str(judge), dtype=torch.float32)


def _config(judge: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """The judge's configuration with another vocabulary."""
    config = copy.deepcopy(judge)
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    image, video, start, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names)
    config.image_token_id, config.video_token_id = image, video
    config.vision_start_token_id, config.vision_end_token_id = start, end
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.pad_token_id, config.text_config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return config


def picture_side(processor: ProcessorMixin) -> int:
    """Side in pixels of the square pictures that the processor makes."""
    return math.isqrt(processor.image_processor.size["longest_edge"])


def picture_length(config: PretrainedConfig, processor: ProcessorMixin) -> int:
    """Rotary positions from a visual token to the same place of the next picture: its rows and two brackets."""
    vision = config.vision_config
    return picture_side(processor) // vision.patch_size // vision.spatial_merge_size + 2


def init_comparison(model: PreTrainedModel, distance: int) -> None:
    """In the first layers, the last two query heads look at their own token and at the one ``distance`` positions back,
    and write what they see with opposite signs: the difference of two pictures. Half of the gated units start as its
    square: how large it is.

    Biases that rotary positions turn make the distance; the two heads must share their keys.
    """
    config = model.config.text_config
    dim = config.head_dim
    first, generator = config.num_attention_heads - 2, torch.Generator().manual_seed(11)
    with torch.no_grad():
        for layer in model.model.language_model.layers[:COMPARING_LAYERS]:
            attention = layer.self_attn
            attention.q_norm.weight.fill_(1.4)
            attention.k_norm.weight.fill_(1.4)
            look_back(attention, first, (0, distance), range(min(6, dim // 2)), 2.0, config)
            compare_heads(layer, first, dim, generator)


def init_scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokens of scores start on smooth Fourier features of their number, so that neighbours start as neighbours."""
    weight = model.get_input_embeddings().weight
    texts = score_texts()
    with torch.no_grad():
        for position, text in enumerate(texts):
            [token] = tokenizer.encode(text, add_special_tokens=False)
            weight[token] = 0.08 * fourier(position / len(texts), weight.shape[1])
