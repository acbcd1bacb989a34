"""The mini judge before training: a one-million-parameter Qwen3-VL, its tokenizer and its processor.

Same classes as the full-size model, small numbers. Three things differ on purpose:

* the tokenizer is byte-level complete but holds the whole answer template as single tokens, so that a normal answer is
  four tokens of template; like Qwen's it keeps ``normal`` one token and ``abnormal`` two (``ab`` + ``normal``), which
  is why verdicts must be scored as whole words;
* weights start at fan-in scale (std 1/sqrt(fan_in)): the usual std of 0.02 does not train at a width of 128;
* tokens of numbers start on Fourier features, so that neighbours in time or space start as neighbours.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from reward_model.schema import BOX_SCALE, AnomalyType
from reward_model.world.narration import NO_ANOMALY, NORMAL_STATE, STATES
from reward_model.world.scene import COLORS, REASONS, SHAPES

FRAME_SIZE = 32
PATCH_SIZE = 8
MERGE_SIZE = 2
MAX_FRAMES = 41
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_judge(size: str = "mini", *, seed: int = 0) -> tuple[Qwen3VLForConditionalGeneration, Qwen3VLProcessor]:
    """An untrained judge and its processor, from nothing but a seed.

    Args:
        size: ``"mini"`` (0.9 M parameters) or ``"tiny"`` (a tenth of it, for tests).
        seed: of the initial weights.
    """
    sizes = {"mini": (128, 384, 3, 64), "tiny": (32, 64, 2, 32)}
    if size not in sizes:
        raise ValueError(f"no judge of size {size!r}; expected one of {', '.join(map(repr, sizes))}")
    processor = build_processor()
    tokenizer = processor.tokenizer
    model = Qwen3VLForConditionalGeneration(_config(tokenizer, *sizes[size]))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    init_fan_in(model, torch.Generator().manual_seed(seed))
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
            "rope_theta": 10000.0,
            "mrope_section": [head_dim // 2 - 2 * third, third, third],
            "mrope_interleaved": True,
        },
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    vision_config = {
        "depth": 2,
        "hidden_size": vision,
        "intermediate_size": 2 * vision,
        "num_heads": 4,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "out_hidden_size": hidden,
        "num_position_embeddings": (FRAME_SIZE // PATCH_SIZE) ** 2,
        "deepstack_visual_indexes": [0],
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
    """Stock Qwen3-VL processor classes set to 32x32 frames: 4 visual tokens a frame."""
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


def coordinate_values() -> list[int]:
    """Every integer a box on the 32-pixel grid can have: low corners are rounded down, high corners up (31 and 32,
    62 and 63, ...).
    """
    step = BOX_SCALE / FRAME_SIZE
    return sorted(
        {math.floor(k * step) for k in range(FRAME_SIZE)} | {math.ceil(k * step) for k in range(1, FRAME_SIZE + 1)}
    )


def template_pieces() -> list[str]:
    """The pieces of prompts and answers that are single tokens, besides numbers and the verdict words."""
    label = '", "Attributed Label": "'
    reason = '", "Reason for Anomaly": "the '
    pieces = [
        '{"COT": "',
        '", "status": "',
        '", "anomalies": []}',
        '", "anomalies": [{"Attributed Time Region": "Frame ',
    ]
    pieces += [f"{label}{kind.value}{reason}" for kind in AnomalyType]
    pieces += [f" {words}" for words in REASONS.values()]
    pieces += ['", "Problem Region": "the ', '", "BBOX": {', '"}]}', "]}}]}", "]]}}]}", "}}]}"]
    pieces += [f" {color}" for color in COLORS] + [f"{color}" for color in COLORS] + [f" {shape}" for shape in SHAPES]
    pieces += [f" {words}." for words in REASONS.values()] + [" The ", "The "]
    pieces += [f" {state}" for state in (NORMAL_STATE, *STATES.values())] + [f" {NO_ANOMALY}", NO_ANOMALY]
    pieces += ["user\n", "assistant\n", "\nScan.", "\nZoom.", "], ["]
    return pieces


def number_pieces() -> dict[str, tuple[str, float]]:
    """Tokens that carry a number, with the family they belong to and the number: frame marks, frame ranges and box
    corners.
    """
    pieces: dict[str, tuple[str, float]] = {}
    for k in range(MAX_FRAMES):
        for text in (f"Frame {k}:", f" Frame {k}:"):
            pieces[text] = ("mark", k)
        pieces[f"{k}"] = ("start", k)
        pieces[f"-{k}"] = ("end", k)
        for family in (
            '"Frame {}": [',
            '"Frame {}": [[',
            '], "Frame {}": [',
            '], "Frame {}": [[',
            ']], "Frame {}": [',
            ']], "Frame {}": [[',
        ):
            pieces[family.format(k)] = (family, k)
    for value in coordinate_values():
        pieces[f"{value}, "] = ("corner", value)
        pieces.setdefault(f"{value}", ("last corner", value))
    return pieces


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level tokenizer: any text encodes, template pieces and numbers are one token each."""
    to_bytes = _byte_alphabet()
    pieces = [*template_pieces(), *number_pieces(), "normal", "ab"]
    vocabulary = {symbol: index for index, symbol in enumerate(to_bytes.values())}
    for piece in pieces:
        vocabulary.setdefault("".join(to_bytes[b] for b in piece.encode()), len(vocabulary))
    numbers = [p for p in number_pieces() if not p.isdigit() and not re.fullmatch(r"-\d+", p)]
    words = sorted({*template_pieces(), *numbers}, key=lambda p: (-len(p), p))
    # A whole number is one piece or none: "1000" is never cut into "100" and "0". The last alternatives keep the
    # verdict trap.
    pattern = "|".join([*map(_escape, words), r"-?(?<!\d)\d+(?!\d)", r"ab(?=normal\b)", "normal"])
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level vocabularies."""
    symbols = pre_tokenizers.ByteLevel.alphabet()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    for shift, b in enumerate(b for b in range(256) if b not in table):
        table[b] = chr(256 + shift)
    if set(table.values()) != set(symbols):
        raise RuntimeError("the byte alphabet of the tokenizers library has changed")
    return dict(sorted(table.items()))


def _escape(text: str) -> str:
    """A literal for the tokenizer's regular expressions (Oniguruma)."""
    return re.sub(r"([\\.\[\]{}()*+?|^$\-])", r"\\\1", text)


def init_fan_in(model: Any, generator: torch.Generator) -> None:
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


def init_numbers(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Number tokens: the family's common vector plus Fourier features of the number; equal marks with and without
    space coincide.
    """
    weight = model.get_input_embeddings().weight
    width = weight.shape[1]
    families: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for text, (family, value) in number_pieces().items():
            scale = BOX_SCALE if "corner" in family else 1.5 * MAX_FRAMES
            ids = tokenizer.encode(text, add_special_tokens=False)
            if len(ids) != 1:
                raise RuntimeError(f"number piece {text!r} is {len(ids)} tokens")
            common = families.setdefault(family, weight[ids[0]].clone())
            weight[ids[0]] = 0.6 * common + 0.8 * 0.08 * fourier(value / scale, width)


def fourier(position: float, width: int) -> torch.Tensor:
    """``width`` sines and cosines of a position in [0, 1], unit variance, wavelengths from 2 down to 1/24 of the
    range.
    """
    rates = torch.exp(torch.linspace(math.log(0.5), math.log(24), width // 2)) * 2 * math.pi
    return math.sqrt(2) * torch.cat([torch.sin(position * rates), torch.cos(position * rates)])


def judge_settings(prompt_version: str, **changes: object) -> str:
    """The text of ``judge.json``: how the judge has to prepare videos for this checkpoint."""
    settings = {
        "prompts": "compact",
        "prompt_version": prompt_version,
        "frame_size": FRAME_SIZE,
        "scan_fps": 4,
        "zoom_fps": 8,
        "min_zoom_frames": 4,
        "max_zoom_frames": 24,
        "max_new_tokens": {"scan": 128, "zoom": 400},
        "demo_scale": True,
    }
    return json.dumps({**settings, **changes}, indent=2) + "\n"
