"""The fast way to the same batch: what lets the mini judge train on one CPU core.

For frames of one size everything the stock path works out per image is known beforehand: token counts, positions,
interpolation weights. :class:`MiniCollator` computes it for the whole batch with the official ``image_*`` keyword
arguments of transformers, and :func:`use_equal_images` lets the vision tower attend within all images at once instead
of one after another. The loss equals that of the stock collator and forward (a test compares them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel, ProcessorMixin
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from reward_model.conversation import Conversation
from reward_model.data.example import IGNORE, Example, read_ids
from reward_model.minis.model import FRAME_SIZE, PATCH_SIZE
from reward_model.training.grpo.rows import mrope_positions

if TYPE_CHECKING:
    from transformers import BaseImageProcessor
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionAttention

EQUAL_IMAGES = "equal_images"


def equal_images_attention(
    module: Qwen3VLVisionAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attention within each image, for a packed (1, heads, images * L, d) sequence of images of L patches each."""
    patches = module.config.num_position_embeddings
    heads, dim = query.shape[1], query.shape[3]
    q, k, v = (t.view(heads, -1, patches, dim).transpose(0, 1) for t in (query, key, value))
    out = scaled_dot_product_attention(q, k, v, scale=scaling)
    return out.transpose(1, 2).reshape(1, -1, heads, dim), None


AttentionInterface.register(EQUAL_IMAGES, equal_images_attention)


@contextmanager
def use_equal_images(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the vision tower expects batches of :class:`MiniCollator`; afterwards it is stock again."""
    config = model.config.vision_config
    before = config._attn_implementation
    config._attn_implementation = EQUAL_IMAGES
    try:
        yield
    finally:
        config._attn_implementation = before


@dataclass
class MiniCollator:
    """Rows -> a right-padded batch with precomputed positions; same arguments as ``sft.AnswerCollator``.

    There is no attention mask: with padding on the right and causal attention no real position can see a padded one.
    """

    processor: ProcessorMixin
    load: Callable[[Mapping[str, Any]], Example]
    num_grid_per_side: int = FRAME_SIZE // PATCH_SIZE
    _prompts: dict[Any, tuple[list[int], np.ndarray]] = field(default_factory=dict, repr=False)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        examples = [self.load(row) for row in rows]
        tokenizer = self.processor.tokenizer
        prompts = [self._prompt(e.conversation) for e in examples]
        answers = [tokenizer.encode(e.answer + tokenizer.eos_token, add_special_tokens=False) for e in examples]
        read = [read_ids(tokenizer, e, a) for e, a in zip(examples, answers, strict=True)]
        width = max(len(ids) + len(answer) for (ids, _), answer in zip(prompts, answers, strict=True))
        input_ids = np.full((len(rows), width), tokenizer.pad_token_id)
        labels = np.full((len(rows), width), IGNORE)
        positions = np.zeros((3, len(rows), width), np.int64)
        for i, ((ids, places), answer) in enumerate(zip(prompts, answers, strict=True)):
            start, end = len(ids), len(ids) + len(answer)
            input_ids[i, :start], input_ids[i, start:end] = ids, read[i]
            labels[i, start:end] = answer
            positions[:, i, :start] = places
            positions[:, i, start:] = places.max() + 1 + np.arange(width - start)
        images = np.stack([p for e in examples for m in e.conversation for p in m.content if not isinstance(p, str)])
        return {
            "input_ids": torch.from_numpy(input_ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions),
            **self.vision_inputs(images),
        }

    def vision_inputs(self, images: np.ndarray) -> dict[str, torch.Tensor]:
        """Patches and positions of (N, H, W, 3) uint8 images of one size, as the vision tower takes them."""
        settings = self.processor.image_processor
        patch, merge = settings.patch_size, settings.merge_size
        grid = torch.tensor([[1, images.shape[1] // patch, images.shape[2] // patch]])
        taps, weights = get_vision_interpolation_indices_and_weights(
            grid, self.num_grid_per_side, align_corners=True, spatial_merge_size=merge
        )
        count = len(images)
        return {
            "pixel_values": patchify(images, settings),
            "image_grid_thw": grid.expand(count, 3),
            "image_cu_seqlens": torch.tensor([0, count * int(grid.prod())], dtype=torch.int32),
            "image_position_ids": get_vision_position_ids(grid, merge).repeat(count, 1),
            "image_interp_indices": taps.repeat(count, 1),
            "image_interp_weights": weights.repeat(count, 1),
        }

    def _prompt(self, conversation: Conversation) -> tuple[list[int], np.ndarray]:
        """Token ids and M-RoPE positions (3, length) of a prompt; both depend on its text and number of frames only."""
        key = tuple((m.role, *(p if isinstance(p, str) else None for p in m.content)) for m in conversation)
        if key not in self._prompts:
            if len(self._prompts) > 4096:
                self._prompts.clear()
            chat = [m.to_chat() for m in conversation]
            text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            token = self.processor.image_token
            side = self.num_grid_per_side // self.processor.image_processor.merge_size
            ids = self.processor.tokenizer.encode(text.replace(token, token * side**2), add_special_tokens=False)
            image = self.processor.image_token_id
            grids = [(side, side)] * (ids.count(image) // side**2)
            self._prompts[key] = ids, mrope_positions(np.asarray(ids), image, grids)
        return self._prompts[key]


def fast_vision(
    model: PreTrainedModel, processor: ProcessorMixin
) -> tuple[Callable[..., Any], AbstractContextManager[None]]:
    """Stage 3's way from frames of one size to patches, made for the whole batch, and the block in which the model
    takes them: :data:`~reward_model.training.grpo.setup.FastVision`.
    """
    side = math.isqrt(model.config.vision_config.num_position_embeddings)
    collator = MiniCollator(processor, _no_rows, num_grid_per_side=side)
    return lambda frames: collator.vision_inputs(np.stack(list(frames))), use_equal_images(model)


def _no_rows(row: Mapping[str, Any]) -> Any:
    raise ValueError("stage 3 uses the mini's collator for frames alone, not for rows")


def patchify(images: np.ndarray, settings: BaseImageProcessor) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N * patches, 3 * t * p * p) normalised pixels in the order of
    ``Qwen2VLImageProcessor``.
    """
    patch, merge, repeat = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    count, height, width, _ = images.shape
    rows, columns = height // patch // merge, width // patch // merge
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    x = (x - torch.tensor(settings.image_mean)) / torch.tensor(settings.image_std)
    x = x.view(count, rows, merge, patch, columns, merge, patch, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, repeat, -1, -1)
    return x.reshape(count * rows * columns * merge**2, 3 * repeat * patch * patch)
