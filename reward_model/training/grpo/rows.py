"""Token sequences of rollouts, and the log-probabilities a model gives to the tokens it once sampled.

A :class:`SequenceRow` is a prompt and what follows it, as token ids that are never re-tokenised: ids come from the
sampler and stay. Frames are shared by identity: all rollouts of a group point to the same :class:`Pictures`, which the
vision tower then sees once per forward pass, with the gradient of every row that used them. The language model reads a
shared prompt once as well: its answers follow as branches of one sequence that do not see each other. A batch without
branches is padded on the right and needs no attention mask, because with causal attention no real token can see the
padding behind it. Only positions that predict a sampled token are projected to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from reward_model.conversation import Conversation
from reward_model.training.grpo.maths import HEAD_CHUNK, token_scores

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.utils import ModelOutput

#: Frames (N, H, W, 3) uint8 -> keyword arguments of ``get_image_features``, ``image_grid_thw`` (N, 3) among them.
VisionInputs = Callable[[Sequence[np.ndarray]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Frames (N, H, W, 3) uint8 that are shown together; ``grid`` is (rows, columns) of visual tokens of each."""

    frames: Sequence[np.ndarray] | np.ndarray
    grid: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        return len(self.frames) * self.grid[0] * self.grid[1]


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A conversation up to the point where the model answers: ids with one placeholder per visual token."""

    ids: np.ndarray
    pictures: tuple[Pictures, ...]


@dataclass(frozen=True, eq=False)
class SequenceRow:
    """One training sequence: ``ids`` (L,), ``mask`` (L,) True if the token was sampled by the policy.

    ``prompt`` is what it begins with; rows of one prompt (by identity) can be read together. ``drawn`` (num_tokens,)
    are the log-probabilities the tokens were drawn at, where another engine drew them.
    """

    ids: np.ndarray
    mask: np.ndarray
    pictures: tuple[Pictures, ...]
    rollout: int = 0
    prompt: EncodedPrompt | None = None
    drawn: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.ids.shape != self.mask.shape or self.mask.dtype != bool:
            raise ValueError(f"ids {self.ids.shape} and boolean mask {self.mask.shape} of a row must have one shape")
        if self.drawn is not None and self.drawn.shape != (self.num_tokens,):
            raise ValueError(f"{self.drawn.shape} log-probabilities for {self.num_tokens} sampled tokens of a row")
        if len(self.mask) and self.mask[0]:
            raise ValueError("the first token of a row has no context and cannot be a sampled one")

    @property
    def num_tokens(self) -> int:
        """Sampled tokens of this row."""
        return int(self.mask.sum())

    @classmethod
    def answer(
        cls, prompt: EncodedPrompt, completion: Sequence[int], rollout: int = 0, drawn: Sequence[float] | None = None
    ) -> SequenceRow:
        """A prompt and its sampled answer, end token included."""
        mask = np.zeros(len(prompt.ids) + len(completion), bool)
        mask[len(prompt.ids) :] = True
        ids = np.concatenate([prompt.ids, np.asarray(completion, np.int64)])
        return cls(ids, mask, prompt.pictures, rollout, prompt, _drawn(None, drawn))

    def then(
        self,
        continuation: np.ndarray,
        pictures: Pictures,
        completion: Sequence[int],
        drawn: Sequence[float] | None = None,
    ) -> SequenceRow:
        """The same chat continued: template and frames of the next turn (not trained), then its sampled answer."""
        ids = np.concatenate([self.ids, continuation, np.asarray(completion, np.int64)])
        mask = np.zeros(len(ids), bool)
        mask[: len(self.mask)] = self.mask
        mask[len(ids) - len(completion) :] = True
        return SequenceRow(ids, mask, (*self.pictures, pictures), self.rollout, self.prompt, _drawn(self.drawn, drawn))


def _drawn(before: np.ndarray | None, values: Sequence[float] | None) -> np.ndarray | None:
    """Log-probabilities so far and those of the next answer."""
    if values is None:
        return None
    return np.concatenate([() if before is None else before, np.asarray(values, np.float32)]).astype(np.float32)


def stock_vision_inputs(processor: ProcessorMixin) -> VisionInputs:
    """Frames through the checkpoint's own image processor; any sizes."""

    def prepare(frames: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
        inputs = processor.image_processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
        return {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}

    return prepare


@dataclass
class PromptBuilder:
    """Conversations -> :class:`EncodedPrompt`, with the tokenizer's chat template and one placeholder per visual token.

    ``vision_inputs`` is asked once per frame size for the grid. Prompts of equal text are tokenised once.
    """

    processor: Any
    vision_inputs: VisionInputs
    _grids: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict, repr=False)
    _ids: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def pictures(self, frames: Sequence[np.ndarray] | np.ndarray) -> Pictures:
        """Frames of one size, with the grid the vision tower will make of them."""
        shape = tuple(frames[0].shape)
        if shape not in self._grids:
            _, rows, columns = self.vision_inputs([frames[0]])["image_grid_thw"][0].tolist()
            merge = self.processor.image_processor.merge_size
            self._grids[shape] = (rows // merge, columns // merge)
        return Pictures(frames, self._grids[shape])

    def prompt(self, conversation: Conversation, pictures: Sequence[Pictures]) -> EncodedPrompt:
        """The ids of a conversation whose images are those of ``pictures``, in order."""
        chat = [m.to_chat() for m in conversation]
        text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return EncodedPrompt(self.encode(text, pictures), tuple(pictures))

    def encode(self, text: str, pictures: Sequence[Pictures] = ()) -> np.ndarray:
        """Token ids of template text, each image marker widened to the tokens of its frame."""
        image = self.processor.image_token
        pieces = text.split(image)
        counts = [p.grid[0] * p.grid[1] for p in pictures for _ in p.frames]
        if len(counts) != len(pieces) - 1:
            raise ValueError(f"the prompt names {len(pieces) - 1} image(s) but {len(counts)} frame(s) were given")
        wide = "".join(p + image * n for p, n in zip(pieces, counts, strict=False)) + pieces[-1]
        if wide not in self._ids:
            if len(self._ids) > 4096:
                self._ids.clear()
            self._ids[wide] = np.asarray(self.processor.tokenizer.encode(wide, add_special_tokens=False), np.int64)
        return self._ids[wide]


def mrope_positions(ids: np.ndarray, image_token: int, grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """Qwen3-VL's rotary positions (time, row, column) of a sequence, (3, L).

    Text advances all three by one; an image of ``rows x columns`` tokens keeps the time of its first token and advances
    the text behind it by the longer side.

    Args:
        ids: (L,) token ids.
        grids: (rows, columns) of visual tokens, for each image in order.
    """
    steps = np.ones(len(ids), np.int64)
    offsets = np.zeros((3, len(ids)), np.int64)
    places = np.flatnonzero(ids == image_token)
    at = 0
    for rows, columns in grids:
        count = rows * columns
        block = places[at : at + count]
        if len(block) < count or block[-1] - block[0] != count - 1:
            raise ValueError(f"image of {rows}x{columns} tokens has no run of {count} placeholders in the sequence")
        steps[block] = 0
        steps[block[-1]] = max(rows, columns)
        inside = np.arange(count)
        offsets[1, block], offsets[2, block] = inside // columns, inside % columns
        at += count
    if at != len(places):
        raise ValueError(f"the sequence has {len(places)} image placeholders for frames of {at} visual tokens")
    return np.cumsum(steps) - steps + offsets


def as_read(sampled: Any, names: PretrainedConfig) -> Any:
    """Sampled tokens (an array or a tensor) as the model reads them: a placeholder of an image or video that the policy
    happened to draw holds no picture and is read as the end of one. What was drawn is scored as it is. ``names`` knows
    the ids of the three: the configuration of a model, or its processor.
    """
    where = torch.where if isinstance(sampled, torch.Tensor) else np.where
    drawn = (sampled == names.image_token_id) | (sampled == names.video_token_id)
    return where(drawn, names.vision_end_token_id, sampled)


@dataclass(frozen=True)
class LogProbs:
    """Flat over all sampled tokens of the rows in order, (T,): log-probability and entropy (no gradient) of the
    distribution each was drawn from. ``counts`` are tokens per row."""

    values: torch.Tensor
    entropy: torch.Tensor
    counts: list[int]


def masked_log_probs(
    model: PreTrainedModel,
    rows: Sequence[SequenceRow],
    vision_inputs: VisionInputs,
    *,
    temperature: float = 1.0,
    chunk: int = HEAD_CHUNK,
    share_prompts: bool = False,
) -> LogProbs:
    """Log-probabilities of the sampled tokens of some rows, each on its own context, with gradient unless disabled.

    Args:
        model: a Qwen3-VL for conditional generation, or a peft model around one.
        rows: in any order; the result does not depend on which rows share a batch (beyond rounding).
        temperature: the one the tokens were sampled at; logits are divided by it.
        chunk: positions projected to the vocabulary at once.
        share_prompts: read rows of one prompt as branches of one sequence. Same values and gradients (beyond rounding)
            for a fraction of the work; needs an attention that takes a mask (sdpa or eager).
    """
    core = core_model(model)
    inputs, where, targets = row_inputs(core, pack_rows(rows, share_prompts), vision_inputs)
    hidden = core.model(**inputs, use_cache=False).last_hidden_state
    states = hidden.reshape(-1, hidden.shape[-1])[where]
    head = core.get_output_embeddings()
    values, entropy = token_scores(head, states, targets, temperature=temperature, chunk=chunk)
    return LogProbs(values, entropy, [r.num_tokens for r in rows])


def pack_rows(rows: Sequence[SequenceRow], share: bool) -> list[list[SequenceRow]]:
    """Rows that stand in one sequence: neighbours with the same prompt if ``share``, else each alone. Order is kept."""
    packs: list[list[SequenceRow]] = []
    for row in rows:
        if share and packs and row.prompt is not None and packs[-1][0].prompt is row.prompt:
            packs[-1].append(row)
        else:
            packs.append([row])
    return packs


def row_inputs(
    core: PreTrainedModel, packs: Sequence[Sequence[SequenceRow]], vision_inputs: VisionInputs
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Inputs of the language model for a right-padded batch with one pack in each line; flat positions (T,) that
    predict a sampled token, and those tokens (T,), in the order of the rows.
    """
    device = core.get_input_embeddings().weight.device
    starts = [_prefix_length(pack) for pack in packs]
    width = max(n + sum(len(r.ids) - n for r in pack) for n, pack in zip(starts, packs, strict=True))
    ids = np.full((len(packs), width), core.config.text_config.pad_token_id or 0, np.int64)
    positions = np.zeros((3, len(packs), width), np.int64)
    # Who belongs to which branch: 0 is the prompt, padding is its own branch.
    branches = np.full((len(packs), width), -1, np.int64)
    where, targets = [], []
    shown: list[Pictures] = []
    for line, (start, pack) in enumerate(zip(starts, packs, strict=True)):
        end = start
        for number, row in enumerate(pack, 1):
            grids = [p.grid for p in row.pictures for _ in p.frames]
            read = np.where(row.mask, as_read(row.ids, core.config), row.ids)
            places = mrope_positions(read, core.config.image_token_id, grids)
            if number == 1:
                ids[line, :start], positions[:, line, :start] = read[:start], places[:, :start]
                branches[line, :start] = 0
            here = slice(end, end + len(row.ids) - start)
            ids[line, here], positions[:, line, here] = read[start:], places[:, start:]
            branches[line, here] = number
            sampled = np.flatnonzero(row.mask)
            # The token at t of a row is predicted at t - 1, which for the first of a branch is the end of the prompt.
            before = sampled - 1
            where.append(line * width + np.where(before < start, before, before - start + end))
            targets.append(row.ids[sampled])
            shown += row.pictures if number == 1 else row.pictures[len(row.prompt.pictures) if row.prompt else 0 :]
            end = here.stop
    inputs = {
        "input_ids": torch.from_numpy(ids).to(device),
        "position_ids": torch.from_numpy(positions).to(device),
        **vision_features(core, shown, vision_inputs),
    }
    if any(len(pack) > 1 for pack in packs):
        inputs["attention_mask"] = branch_mask(torch.from_numpy(branches).to(device))
    flat = (torch.from_numpy(np.concatenate(v)).to(device) for v in (where, targets))
    return inputs, *flat  # type: ignore[return-value]


def _prefix_length(pack: Sequence[SequenceRow]) -> int:
    """Tokens the rows of a pack share."""
    return len(pack[0].prompt.ids) if len(pack) > 1 and pack[0].prompt is not None else 0


def branch_mask(branches: torch.Tensor) -> torch.Tensor:
    """Attention mask, (B, 1, W, W) bool: a token sees the prompt (branch 0) and its own branch, never ahead.

    Args:
        branches: (B, W) number of the branch each token belongs to.
    """
    width = branches.shape[1]
    behind = torch.ones(width, width, dtype=torch.bool, device=branches.device).tril()
    same = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
    return (same & behind)[:, None]


def vision_features(core: PreTrainedModel, shown: Sequence[Pictures], vision_inputs: VisionInputs) -> dict[str, Any]:
    """Features of all pictures in the order shown; each distinct :class:`Pictures` is encoded once."""
    unique = list({id(p): p for p in shown}.values())
    if not unique:
        return {}
    device = core.get_input_embeddings().weight.device
    frames = [f for p in unique for f in p.frames]
    prepared = {k: v.to(device) for k, v in vision_inputs(frames).items()}
    features = core.get_image_features(**prepared, return_dict=True)
    sizes = [p.num_tokens for p in unique]
    numbers = {id(p): k for k, p in enumerate(unique)}

    def spread(parts: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        split = torch.cat(list(parts)).split(sizes)
        return [split[numbers[id(p)]] for p in shown]

    features.pooler_output = spread(features.pooler_output)
    features.deepstack_features = [spread(level) for level in features.deepstack_features]
    return {"mm_encoder_outputs": {"image": features}}


def core_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The Qwen3-VL inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class RowModel(nn.Module):
    """A policy whose ``forward`` is :func:`masked_log_probs`, so that DDP, FSDP and DeepSpeed see vision tower,
    language model and head as one pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vision_inputs: VisionInputs,
        temperature: float = 1.0,
        chunk: int = HEAD_CHUNK,
        share_prompts: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.vision_inputs = vision_inputs
        self.options: dict[str, Any] = {"temperature": temperature, "chunk": chunk, "share_prompts": share_prompts}
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    def tie_weights(self, **options: object) -> None:
        core_model(self.model).tie_weights(**options)

    def get_input_embeddings(self) -> torch.nn.Module:
        return core_model(self.model).get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return core_model(self.model).get_output_embeddings()

    def forward(
        self, rows: Sequence[SequenceRow] | None = None, *, decode: Mapping[str, Any] | None = None
    ) -> ModelOutput | tuple[torch.Tensor, ...]:
        """Values and entropies of :func:`masked_log_probs`; or, with ``decode``, a stock forward pass with those
        arguments.
        """
        if decode is not None:
            core = core_model(self.model)
            given = dict(decode)
            shown = given.pop("pictures", None)
            return core(**given, **(vision_features(core, shown, self.vision_inputs) if shown else {}))
        assert rows is not None
        log_probs = masked_log_probs(self.model, rows, self.vision_inputs, **self.options)
        return log_probs.values, log_probs.entropy  # a plain tuple: sharding hooks look for tensors in it
