"""The judge's model in this process: any Qwen3-VL checkpoint, batched, its vision tower run once per turn.

Frames are encoded once for a batch of conversations; generation and both verdict readouts of the same turn share the
features (``mm_encoder_outputs`` of transformers). A verdict costs one prefill: both words continue from its cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from reward_model.backends.base import BackendError, Completion, Conversation, Sampling
from reward_model.config import JudgeConfig, load_judge_config
from reward_model.parsing import STATUS_PREFIX
from reward_model.schema import VerdictScore

WORDS = ("normal", "abnormal")


class LocalBackend:
    """A Qwen3-VL checkpoint run by transformers.

    Args:
        model: folder or hub id with model and processor files.
        revision: hub revision; pin it, checkpoints have been replaced silently before.
        device: ``"cuda"``, ``"cpu"``, ...; by default CUDA if there is any.
        dtype: torch dtype or its name; by default bfloat16 on CUDA and float32 on CPU.
        device_map: handed to ``from_pretrained`` for models that span devices (then ``device`` is ignored).
        attn_implementation: handed to ``from_pretrained`` (``"sdpa"``, ``"flash_attention_2"``).

    Raises:
        BackendError: the folder lacks a model or processor, or is no vision-language model.
    """

    name = "local"

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        device_map: Any = None,
        attn_implementation: str | None = None,
    ) -> None:
        import torch

        self.model_id, self.revision = str(model), revision
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        default = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype or default
        model_and_processor = _load(self.model_id, revision, self.dtype, device_map, attn_implementation)
        if device_map is None:
            model_and_processor[0].to(self.device)
        self._adopt(*model_and_processor)

    @classmethod
    def of(cls, model: Any, processor: Any, name: str = "in memory") -> LocalBackend:
        """A backend of a model and a processor that are loaded already; ``name`` is what provenance calls them."""
        backend = cls.__new__(cls)
        backend.model_id, backend.revision, backend.dtype = name, None, model.dtype
        backend._adopt(model, processor)
        return backend

    def _adopt(self, model: Any, processor: Any) -> None:
        self.model, self.processor, self.device = model.eval(), processor, model.device
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.word_ids = verdict_tokens(tokenizer)
        self._cached: tuple[tuple[int, ...], list[np.ndarray], Any] | None = None

    @property
    def config(self) -> JudgeConfig:
        """The settings this checkpoint was trained with (``judge.json``)."""
        return load_judge_config(self.model_id)

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """One answer per conversation, generated as one batch."""
        import torch

        if not conversations:
            return []
        started = time.perf_counter()
        inputs = self._inputs(conversations, [""] * len(conversations))
        options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
        else:
            options |= {"temperature": None, "top_p": None, "top_k": None}
        with torch.inference_mode(), _named_out_of_memory(len(conversations)):
            output = self.model.generate(**inputs, **options, pad_token_id=self.processor.tokenizer.pad_token_id)
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        seconds = (time.perf_counter() - started) / len(conversations)
        return [self._completion(ids, seconds) for ids in answers]

    def _completion(self, ids: list[int], seconds: float) -> Completion:
        stops = self.model.generation_config.eos_token_id
        stops = set(stops if isinstance(stops, list) else [stops])
        end = next((k for k, token in enumerate(ids) if token in stops), None)
        kept = ids if end is None else ids[:end]
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(text, finished=end is not None, num_tokens=len(kept), seconds=seconds)

    def score(self, conversations: Sequence[Conversation], prefixes: Sequence[str]) -> list[VerdictScore | None]:
        """Both words as whole continuations of each prefix; one prefill for the batch, then a few cached tokens."""
        import torch

        if not conversations:
            return []
        for prefix in prefixes:
            if not prefix.endswith(STATUS_PREFIX):
                raise ValueError(f"a verdict prefix must end in {STATUS_PREFIX!r}, got ...{prefix[-20:]!r}")
        inputs = self._inputs(conversations, prefixes)
        with torch.inference_mode(), _named_out_of_memory(len(conversations)):
            output = self.model(**inputs, use_cache=True, logits_to_keep=1)
            first = torch.log_softmax(output.logits[:, -1].double(), dim=-1)
            totals = [
                self._continue(ids, first, inputs["attention_mask"], output.past_key_values) for ids in self.word_ids
            ]
        normal, abnormal = (t.tolist() for t in totals)
        return [VerdictScore(a, b) for a, b in zip(normal, abnormal, strict=True)]

    def _continue(self, ids: Sequence[int], first: Any, mask: Any, cache: Any) -> Any:
        """Sum of log-probabilities of the tokens ``ids`` after the cached prefix, (B,). Leaves the cache as it found
        it.
        """
        import torch

        total = first[:, ids[0]]
        if len(ids) == 1:
            return total
        batch, steps = mask.shape[0], len(ids) - 1
        tokens = torch.tensor(ids[:-1], device=mask.device).expand(batch, steps)
        grown = torch.cat([mask, mask.new_ones(batch, steps)], dim=1)
        text = grown.cumsum(-1)[:, -steps:] - 1
        positions = (text + self.model.model.rope_deltas.to(mask.device)).expand(3, batch, steps)
        output = self.model(
            input_ids=tokens, attention_mask=grown, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache.crop(-steps)
        logits = torch.log_softmax(output.logits.double(), dim=-1)
        for step, token in enumerate(ids[1:]):
            total = total + logits[:, step, token]
        return total

    def describe(self) -> dict[str, Any]:
        import torch
        import transformers

        commit = getattr(self.model.config, "_commit_hash", None)
        return {
            "model": self.model_id,
            "revision": commit or self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _inputs(self, conversations: Sequence[Conversation], suffixes: Sequence[str]) -> dict[str, Any]:
        """Model inputs of a left-padded batch: tokens with one placeholder per visual token, and the frames'
        features. A conversation of text alone is text alone.
        """
        shows = any(isinstance(part, np.ndarray) for c in conversations for m in c for part in m.content)
        grid, features = self._vision(conversations) if shows else (None, None)
        merge = self.processor.image_processor.merge_size
        counts = iter([] if grid is None else (grid.prod(-1) // merge**2).tolist())
        image = self.processor.image_token
        texts = []
        for conversation, suffix in zip(conversations, suffixes, strict=True):
            chat = [m.to_chat() for m in conversation]
            pieces = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False).split(image)
            texts.append("".join(p + image * next(counts) for p in pieces[:-1]) + pieces[-1] + suffix)
        tokens = self.processor.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(
            self.device
        )
        text_inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        if not shows:
            return text_inputs
        return {
            **text_inputs,
            "mm_token_type_ids": (tokens["input_ids"] == self.processor.image_token_id).int(),
            "image_grid_thw": grid,
            "mm_encoder_outputs": {"image": features},
        }

    def _vision(self, conversations: Sequence[Conversation]) -> tuple[Any, Any]:
        """Grid (N, 3) and features of all frames of the batch; the last batch is kept for the readouts that follow."""
        import torch

        frames = [p for c in conversations for m in c for p in m.content if isinstance(p, np.ndarray)]
        key = tuple(map(id, frames))
        if self._cached is None or self._cached[0] != key:
            pixels = self.processor.image_processor(
                images=frames, return_tensors="pt", input_data_format="channels_last"
            )
            grid = pixels["image_grid_thw"].to(self.device)
            with torch.inference_mode():
                features = self.model.get_image_features(
                    pixels["pixel_values"].to(self.device, self.dtype), grid, return_dict=True
                )
            # The frames are kept with their features: an id is only unique while its object lives.
            self._cached = (key, frames, (grid, features))
        return self._cached[2]


@contextmanager
def _named_out_of_memory(batch: int) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"out of memory while judging {batch} video(s) at once; lower batch_size, max_scan_tokens or frame_size"
        ) from error


def verdict_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of ``normal`` and ``abnormal`` right after ``"status": "``.

    Raises:
        BackendError: the tokenizer joins the quote with the word, so that the two words share no common prefix to be
            scored from.
    """
    prefix = tokenizer(STATUS_PREFIX, add_special_tokens=False)["input_ids"]
    found = []
    for word in WORDS:
        joined = tokenizer(STATUS_PREFIX + word, add_special_tokens=False)["input_ids"]
        if joined[: len(prefix)] != prefix or len(joined) == len(prefix):
            raise BackendError(
                f"this tokenizer merges the end of {STATUS_PREFIX!r} into {word!r} ({prefix} against {joined}); the "
                "two verdict words cannot be scored from one prefix. Use a model with a Qwen-family tokenizer"
            )
        found.append(joined[len(prefix) :])
    return found[0], found[1]


def _load(model_id: str, revision: str | None, dtype: Any, device_map: Any, attention: str | None) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = Path(model_id)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise BackendError(f"{model_id!r} holds no config.json; point to the folder that holds the model itself")
    extra = {"attn_implementation": attention} if attention else {}
    try:
        processor = AutoProcessor.from_pretrained(model_id, revision=revision)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"no processor in {model_id!r}: a judge needs preprocessor_config.json, tokenizer.json and a chat template "
            f"beside the weights. Save them with processor.save_pretrained(...). ({_first_line(error)})"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise BackendError(
            f"{model_id!r} has no image processor (got {type(processor).__name__}); "
            "a judge needs a vision-language model"
        )
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            model_id, revision=revision, dtype=dtype, device_map=device_map, **extra
        )
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"cannot load the model in {model_id!r}: {_first_line(error)}") from error
    return model, processor


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
