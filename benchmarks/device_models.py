"""Models of published sizes with random weights, and the same classes at sizes for a CPU: what ``device.py`` times.

Random weights cost the time and the memory of trained ones. What they cannot do is answer: the texts of
:class:`FixedAnswers` are written here, after a real ``generate`` of a stated number of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from reward_model.backends.local import LocalBackend
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.minis.model import build_judge
from reward_model.minis.tokenizer import CHAT_TEMPLATE, piece_tokenizer
from reward_model.parsing import format_report
from reward_model.prompts import load_prompts
from reward_model.schema import Anomaly, AnomalyType, Box, FrameRange, TurnReport, VerdictScore
from reward_model.training.plan import qwen3_vl_8b_config


@dataclass(frozen=True)
class Size:
    """What is measured: ``full`` on a CUDA device, ``tiny`` anywhere, to see that the code runs."""

    name: str
    height: int
    width: int
    num_frames: int
    num_videos: int
    answer_tokens: int
    rounds: int
    #: Of Flow-GRPO's step.
    train_height: int
    train_width: int
    train_frames: int
    num_steps: int
    batch: str
    call: int


FULL = Size("full", 480, 832, 81, 8, 128, 3, 240, 416, 33, 8, "1x8", 2)
TINY = Size("tiny", 32, 64, 17, 2, 4, 1, 16, 16, 5, 4, "1x2", 1)
SIZES = {s.name: s for s in (FULL, TINY)}

SEEN = "The square jumps."
_WORDS = r" ?[^\W\d_]+| ?\d+|_|[^\w\s]|\s+"


def videos(size: Size) -> list[np.ndarray]:
    """Clips of a moving square on noise, (T, H, W, 3) uint8."""
    made = []
    for seed in range(size.num_videos):
        video = np.random.default_rng(seed).integers(90, 110, (size.num_frames, size.height, size.width, 3), np.uint8)
        side = size.height // 4
        for k in range(size.num_frames):
            x = k * (size.width - side) // size.num_frames
            video[k, side : 2 * side, x : x + side] = (200, 40, 40)
        made.append(video)
    return made


class FixedAnswers:
    """A backend that draws answers of a fixed number of tokens for real, and then says what it was told to: an anomaly
    in the middle of the video, boxed in every frame of the clip.

    Args:
        inner: who draws. Its model never stops early: the end token is one that its vocabulary lacks.
        tokens: length of every answer.
    """

    name = "fixed"

    def __init__(self, inner: LocalBackend, tokens: int) -> None:
        self.inner, self.tokens, self.drawn = inner, tokens, 0
        inner.model.generation_config.eos_token_id = inner.model.config.get_text_config().vocab_size + 1

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        found = self.inner.generate(conversations, replace(sampling, max_new_tokens=self.tokens))
        self.drawn += sum(c.num_tokens for c in found)
        return [replace(c, text=_answer(m), finished=True) for c, m in zip(found, conversations, strict=True)]

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        return self.inner.score(conversations, prefixes)

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


def _answer(conversation: Conversation) -> str:
    """Turn two is told what turn one reasoned, which is how it is known here."""
    parts = [part for message in conversation for part in message.content]
    zoom = any(isinstance(part, str) and SEEN in part for part in parts)
    count = sum(isinstance(part, np.ndarray) for part in conversation[-1].content)
    frames = FrameRange(0, count - 1) if zoom else FrameRange(count // 3, 2 * count // 3)
    boxes = {k: (Box(100, 100, 300, 300),) for k in range(count)} if zoom else {}
    found = Anomaly(AnomalyType.OBJECT, frames, boxes, reason="it jumps")
    return format_report(TurnReport("abnormal", SEEN, (found,)), boxes=zoom)


def build_vlm(size: Size, device: torch.device) -> tuple[Any, Any]:
    """Qwen3-VL-8B in bfloat16 with random weights (tiny: a thousandth in float32), and a processor: word by word,
    frames cut as Qwen's processor cuts them.
    """
    if size is TINY:
        return build_judge("tiny")
    from transformers import AutoModelForImageTextToText, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = _word_tokenizer()
    config = qwen3_vl_8b_config()
    for name in ("image_pad", "video_pad", "vision_start", "vision_end"):
        key = f"{name.replace('_pad', '')}_token_id" if name.endswith("pad") else f"{name}_token_id"
        setattr(config, key, tokenizer.convert_tokens_to_ids(f"<|{name}|>"))
    shape = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5] * 3}
    shared = {**shape, "image_std": [0.5] * 3, "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**shared),
        chat_template=CHAT_TEMPLATE,
    )
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    return model.eval(), processor


def _word_tokenizer() -> Any:
    """A token for each word of the wording, so that prompts are about as long as in Qwen's own vocabulary."""
    texts = " ".join(load_prompts("paper").texts.values())
    words = dict.fromkeys(re.findall(_WORDS, texts))
    numbers = [form.format(k) for k in range(100) for form in ("{}", " {}")]
    tokenizer = piece_tokenizer([*words, *numbers, "normal", "ab", "abnormal"], _WORDS)
    tokenizer.model_max_length = 262_144
    return tokenizer


def build_pipeline(size: Size, device: torch.device, dtype: torch.dtype) -> Any:
    """Wan-2.1-1.3B with random weights: transformer in ``dtype``, VAE in float32. The text encoder has the width of
    UMT5-XXL and one layer, because texts are encoded once per run.
    """
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from cac_align.minis import wan_config

    shape = wan_config.FULL if size is FULL else wan_config.MINI
    tokenizer = wan_config.build_wan_tokenizer(wan_config.world_prompts())
    text = {**shape["text_encoder"], "vocab_size": len(tokenizer), "num_layers": 1}
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKLWan(**shape["vae"])
        transformer = WanTransformer3DModel(**shape["transformer"])
        encoder = UMT5EncoderModel(UMT5Config(**{**text, "d_ff": 2 * text["d_model"]})).to(dtype)
    for name, parameter in transformer.named_parameters():  # as from_pretrained loads them
        if not any(part in transformer._keep_in_fp32_modules for part in name.split(".")):
            parameter.data = parameter.data.to(dtype)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, **shape["scheduler"])
    pipe = WanPipeline(tokenizer, encoder.eval(), vae.eval(), scheduler, transformer.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe
