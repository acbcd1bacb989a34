"""The judge's model in this process: any Qwen3-VL checkpoint, batched, its vision tower run once per turn.

Frames are encoded once for a batch of conversations; generation and both verdict readouts of the same turn share the
features (``mm_encoder_outputs`` of transformers). A verdict costs one prefill: both words continue from its cache.

A batch that does not fit into memory is halved, and later ones are made as small; a conversation that cannot be
answered alone has its own error and spoils no other.

With a ``domain.safetensors``, or ``watch``, the same prefill tells how familiar a video is (``LocalBackend.observe``).
"""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from reward_model.backends.answer_start import begin_answer, question, verdict_tokens, word_tokens
from reward_model.backends.base import BackendError, Wanted, WordScores
from reward_model.backends.checkpoint import load_checkpoint, settings_folder
from reward_model.backends.devices import free_memory, ran_out_of_memory, torch_device, torch_dtype, unasked
from reward_model.backends.signs import SignsWatch, appearances
from reward_model.config import JudgeConfig, load_judge_config
from reward_model.conversation import Completion, Conversation, Sampling
from reward_model.domain import Domain, Signs, load_domain
from reward_model.parsing import STATUS_PREFIX
from reward_model.schema import VerdictScore
from reward_model.turns import words_after

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel, ProcessorMixin
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from reward_model.backends.prompt_cache import ReadQuestions

logger = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_Options = Sequence[Sequence[int]]  # words as token ids


class LocalBackend:
    """A Qwen3-VL checkpoint run by transformers.

    Args:
        model: folder or hub id with model and processor files.
        revision: hub revision; pin it, checkpoints have been replaced silently before.
        device: ``"cuda"``, ``"cuda:1"``, ``"cpu"``, ...; by default CUDA if there is any.
        dtype: torch dtype or its name (``"bf16"`` and the like are understood), ``"auto"`` as it was saved; by default
            bfloat16 on CUDA and float32 on CPU.
        device_map: handed to ``from_pretrained`` for models that span devices (then ``device`` is ignored).
        attn_implementation: handed to ``from_pretrained`` (``"sdpa"``, ``"flash_attention_2"``).
        quantization_config: handed to ``from_pretrained`` (needs the package that quantises, such as bitsandbytes).

    Raises:
        CheckpointError: the folder or hub entry does not exist, lacks weights or a processor, or is not a Qwen3-VL.
        ValueError: if there is no such device or precision.
    """

    name = "local"

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: str | Mapping[str, object] | None = None,
        attn_implementation: str | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> None:
        import torch

        self.model_id, self.revision = str(model), revision
        self.device = torch_device(device)
        chosen = torch_dtype(dtype) or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        if quantization_config is not None and device_map is None:
            device_map = {"": str(self.device)}  # a quantised model cannot be moved
        self.model, self.processor = load_checkpoint(
            self.model_id,
            revision=revision,
            dtype=chosen,
            device_map=device_map,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
        )
        #: What the checkpoint knows of its training videos; None: nothing.
        self.domain: Domain | None = load_domain(settings_folder(self.model_id, self.revision))
        if device_map is None:
            self._place()
        self._settle()

    @classmethod
    def of(cls, model: PreTrainedModel, processor: ProcessorMixin, name: str = "in memory") -> LocalBackend:
        """A backend of a model and a processor that are loaded already; ``name`` is what provenance calls them."""
        backend = cls.__new__(cls)
        backend.model_id, backend.revision = name, None
        backend.model, backend.processor, backend.domain = model, processor, None
        backend._settle()
        return backend

    def _settle(self) -> None:
        self.device, self.dtype = self.model.device, self.model.dtype
        self.model.eval()
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        self.word_ids = verdict_tokens(tokenizer)
        #: Whether prefills are watched for :meth:`observe`.
        self.watch = self.domain is not None
        self._signs = SignsWatch(self.model)
        self._cached: tuple[tuple[Any, ...], list[np.ndarray], Any] | None = None
        #: Largest batch, in units of :func:`_weight` times its length, that may be tried; it never grows.
        self._limit = math.inf

    def _place(self) -> None:
        try:
            self.model.to(self.device)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            raise BackendError(
                f"out of memory while moving {self.model_id!r} to {self.device}; use dtype='bfloat16', "
                "device_map='auto', quantization_config=..., device='cpu', or a smaller checkpoint"
            ) from error

    @property
    def config(self) -> JudgeConfig:
        """The settings this checkpoint was trained with (``judge.json``, in its folder or beside it on the hub)."""
        return load_judge_config(settings_folder(self.model_id, self.revision))

    def generate(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Completion]:
        """One answer per conversation, generated as one batch where memory allows. ``sampling`` alone says how: the
        ``generation_config.json`` of a checkpoint lends nothing but its stop tokens.
        """
        import torch

        if sampling.temperature > 0 and sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        self._signs.keep_only(conversations)
        return self._each(
            conversations,
            lambda part: self._answer([conversations[k] for k in part], sampling),
            lambda reason: Completion("", finished=False, error=reason),
        )

    def look_then_answer(
        self, conversations: Sequence[Conversation], prefixes: Sequence[str], sampling: Sampling, wanted: Wanted
    ) -> list[tuple[VerdictScore | None, Completion | None]]:
        """A score of each and an answer to those wanted, from one reading of the questions where that can be."""
        from reward_model.backends.prompt_cache import look_then_answer

        return look_then_answer(self, conversations, prefixes, sampling, wanted)

    def _answer(
        self, conversations: Sequence[Conversation], sampling: Sampling, begun: dict[str, Any] | None = None
    ) -> list[Completion]:
        """Answers of a batch that fits; ``begun`` continues it from a cache, as :meth:`ReadQuestions.begin` says."""
        import torch
        from transformers import GenerationConfig

        started = time.perf_counter()
        inputs = self._inputs(conversations, [""] * len(conversations)) if begun is None else begun
        options: dict[str, Any] = {"max_new_tokens": sampling.max_new_tokens, "do_sample": sampling.temperature > 0}
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        stops = self.model.generation_config.eos_token_id
        plain = GenerationConfig(**options, eos_token_id=stops, pad_token_id=self.processor.tokenizer.pad_token_id)
        watching = self._watching(conversations, inputs) if begun is None else nullcontext()
        with torch.inference_mode(), watching:
            output = self.model.generate(**inputs, generation_config=plain)
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
        for prefix in prefixes:
            if not prefix.endswith(STATUS_PREFIX):
                raise ValueError(f"a verdict prefix must end in {STATUS_PREFIX!r}, got ...{prefix[-20:]!r}")
        self._signs.keep_only(conversations)
        ids = [self._word_ids(words_after(prefix)) for prefix in prefixes]

        def ask(part: Sequence[int]) -> list[VerdictScore | None]:
            return [VerdictScore(p, q) for p, q in self._follow(part, conversations, prefixes, ids)]

        return self._each(conversations, ask, lambda reason: VerdictScore(math.nan, math.nan, error=reason))

    def choose(
        self, conversations: Sequence[Conversation], prefixes: Sequence[str], words: Sequence[str], *, after: str = ""
    ) -> list[WordScores | None]:
        """Any words as whole continuations of each prefix; one prefill for the batch, as in :meth:`score`."""
        self._signs.keep_only(conversations)
        ids = [word_tokens(self.processor.tokenizer, prefix, words, after) for prefix in prefixes]

        def ask(part: Sequence[int]) -> list[WordScores | None]:
            return [WordScores(found) for found in self._follow(part, conversations, prefixes, ids)]

        return self._each(conversations, ask, lambda reason: WordScores(error=reason))

    def _follow(
        self,
        part: Sequence[int],
        conversations: Sequence[Conversation],
        prefixes: Sequence[str],
        options: Sequence[_Options],
        kept: list[ReadQuestions] | None = None,
    ) -> list[tuple[float, ...]]:
        """Log-probabilities of the options of each conversation after its prefix; ``kept`` gets what was read."""
        import torch

        conversations, prefixes = [conversations[k] for k in part], [prefixes[k] for k in part]
        inputs = self._inputs(conversations, prefixes)
        mask = inputs["attention_mask"]
        shows = "image_grid_thw" in inputs
        if not shows:
            # Left out, the model would count padding, and take the offsets of the pictures it saw last.
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0).expand(3, *mask.shape)
        with torch.inference_mode():
            with self._watching(conversations, inputs, prefixes):
                output = self.model(**inputs, use_cache=True, logits_to_keep=1)
            # (B, V), of the first token after the prefix; in double, so that small log-odds keep their digits.
            first = torch.log_softmax(output.logits[:, -1].double(), dim=-1)
            deltas = self.model.model.rope_deltas.to(mask.device) if shows else 0
            asked, totals = [tuple(tuple(ids) for ids in options[k]) for k in part], {}
            for words in dict.fromkeys(asked):  # one pair, but for answers that spell the words in another way
                each = [self._continue(i, first, mask, deltas, output.past_key_values).tolist() for i in words]
                totals[words] = list(zip(*each, strict=True))
        if kept is not None:
            from reward_model.backends.prompt_cache import ReadQuestions

            behind = self.model.model.rope_deltas.to(mask.device) if shows else None
            kept.append(ReadQuestions(inputs["input_ids"], mask, output.past_key_values, behind))
        return [totals[words][k] for k, words in enumerate(asked)]

    def _word_ids(self, words: tuple[str, str]) -> tuple[list[int], list[int]]:
        try:
            return verdict_tokens(self.processor.tokenizer, words)
        except BackendError:  # a spelling that the tokenizer joins with the quote before it
            return self.word_ids

    def _continue(
        self, ids: Sequence[int], first: torch.Tensor, mask: torch.Tensor, deltas: torch.Tensor | int, cache: Cache
    ) -> torch.Tensor:
        """Sum of log-probabilities of the tokens ``ids`` after the cached prefix, (B,). Leaves the cache as it found
        it. ``deltas``: how far the positions of text stand behind its count of tokens, (B, 1).
        """
        import torch

        # log P(word | prefix) = sum over its tokens of log P(token | prefix, the tokens before it).
        total = first[:, ids[0]]  # (B,)
        if len(ids) == 1:
            return total
        batch, steps = mask.shape[0], len(ids) - 1
        tokens = torch.tensor(ids[:-1], device=mask.device).expand(batch, steps)
        grown = torch.cat([mask, mask.new_ones(batch, steps)], dim=1)
        # Text counts alike in time, height and width (M-RoPE); padding on the left is not counted.
        positions = (grown.cumsum(-1)[:, -steps:] - 1 + deltas).expand(3, batch, steps)
        output = self.model(
            input_ids=tokens, attention_mask=grown, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache.crop(-steps)
        logits = torch.log_softmax(output.logits.double(), dim=-1)  # (B, steps, V): row k predicts token k + 1
        for step, token in enumerate(ids[1:]):
            total = total + logits[:, step, token]
        return total

    def observe(self, conversations: Sequence[Conversation]) -> list[Signs | None]:
        """Statistics of each conversation's prefill: of the last one where it was watched, of a new one elsewhere."""
        self._signs.keep_only(conversations)
        unseen = [c for c in conversations if self._signs.find(c) is None]
        if unseen:
            before, self.watch = self.watch, True
            try:
                self._each(unseen, lambda part: self._look([unseen[k] for k in part]), lambda reason: None)
            finally:
                self.watch = before
        return [self._signs.find(c) for c in conversations]

    def _look(self, conversations: Sequence[Conversation]) -> list[None]:
        import torch

        inputs = self._inputs(conversations, [""] * len(conversations))
        with torch.inference_mode(), self._watching(conversations, inputs):
            if "image_grid_thw" in inputs:
                self.model(**inputs, use_cache=False, logits_to_keep=1)
        return [None] * len(conversations)

    def _watching(
        self, conversations: Sequence[Conversation], inputs: dict[str, Any], prefixes: Sequence[str] = ()
    ) -> AbstractContextManager[None]:
        """A block whose first forward pass gives the signs of the conversations; does nothing unless they are wanted.

        ``inputs``: of :meth:`_inputs`, for these prefixes of the answers.
        """
        pictures = [sum(isinstance(p, np.ndarray) for m in c for p in m.content) for c in conversations]
        if not self.watch or not any(pictures):
            return nullcontext()
        merge = self.processor.image_processor.merge_size
        counts = (inputs["image_grid_thw"].prod(-1) // merge**2).tolist()
        looks = appearances(inputs["mm_encoder_outputs"]["image"], counts, pictures)
        after = [
            self._behind_question(c, prefix)
            for c, prefix in zip(conversations, prefixes or [""] * len(pictures), strict=True)
        ]
        return self._signs.watching(conversations, looks, after)

    def _behind_question(self, conversation: Conversation, prefix: str) -> int:
        """Number of tokens after the question, as :meth:`_inputs` writes it with this beginning of the answer."""
        chat = [m.to_chat() for m in conversation]
        prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        asked = question(prompt)
        rest = begin_answer(prompt, prefix)[len(asked) :]
        return len(self.processor.tokenizer(rest, add_special_tokens=False)["input_ids"]) if rest else 0

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
            prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            *pieces, last = prompt.split(image)
            texts.append("".join(p + image * next(counts) for p in pieces) + begin_answer(last, suffix))
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
        # By content too: frames may be edited in place between two calls.
        key = tuple((id(f), f.shape, zlib.crc32(np.ascontiguousarray(f).data)) for f in frames)
        if self._cached is None or self._cached[0] != key:
            self._cached = None
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

    # --- batches that fit ---------------------------------------------------------------------------------------------

    def _each(
        self,
        conversations: Sequence[Conversation],
        ask: Callable[[Sequence[int]], list[_Answer]],
        failed: Callable[[str], _Answer],
    ) -> list[_Answer]:
        """Results of ``ask`` for all conversations, given by position, in batches as large as memory and the
        conversations themselves allow; ``failed`` of the reason for one that cannot be answered even alone.
        """
        answers: dict[int, _Answer] = {}
        weights = [_weight(c) for c in conversations]
        waiting = deque(self._parts(weights))
        while waiting:
            part = waiting.popleft()
            reason, short = "", False
            try:
                answers |= dict(zip(part, ask(part), strict=True))
            except Exception as error:  # whatever it is, it is the fault of one of these or of their number
                short = ran_out_of_memory(error)
                reason = unasked(error, conversations[part[0]], short)
            if not reason:
                continue
            # Outside the handler, whose traceback keeps the memory that was short.
            self._cached = None
            if short:
                free_memory()
            if len(part) == 1:
                answers[part[0]] = failed(reason)
                continue
            if short:
                self._limit = min(self._limit, len(part) * max(weights[k] for k in part) / 2)
                logger.warning("out of memory with %d videos at once; continuing with half as many", len(part))
            middle = len(part) // 2
            waiting.extendleft([part[middle:], part[:middle]])
        return [answers[k] for k in range(len(conversations))]

    def _parts(self, weights: Sequence[float]) -> Iterator[list[int]]:
        """Neighbours, as many at a time as have fitted so far."""
        part: list[int] = []
        for k in range(len(weights)):
            if part and (len(part) + 1) * max(weights[j] for j in [*part, k]) > self._limit:
                yield part
                part = []
            part.append(k)
        if part:
            yield part


def _weight(conversation: Conversation) -> float:
    """Rough weight of a conversation in a batch: pixels and letters (a token is some 1,000 pixels or four letters)."""
    parts = [p for message in conversation for p in message.content]
    return 1.0 + sum(len(p) * 250 if isinstance(p, str) else p.shape[0] * p.shape[1] for p in parts)
