"""Draws answers from the model that is being trained: one prefill per distinct prompt, then cached steps for all of its
rollouts at once.

Rows leave the batch soon after their end token, which saves time when answers differ in length (a normal verdict has a
tenth of the tokens of a list of boxes). Drawing uses its own generator, so a resumed run continues the same
stream. Sampling is plain: temperature only, because a truncated distribution would not be the one Equation 10 divides
by.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from reward_model.backends.devices import ran_out_of_memory
from reward_model.training.grpo.rows import EncodedPrompt, as_read, core_model, mrope_positions
from reward_model.training.sharded_memory import LayersToTheEnd

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

#: In the place of a number that processes agree on: this one has run out of memory.
_FAILED = 1 << 30


@dataclass(frozen=True)
class Sampled:
    """An answer as drawn: ``ids`` end with the end token if ``finished``, else the token limit cut them.

    ``log_probs`` are what whoever drew it gives to each id, where that is not the trained model itself.
    """

    ids: tuple[int, ...]
    finished: bool
    log_probs: tuple[float, ...] | None = None


class Generator(Protocol):
    """Whoever draws answers: the trained model itself, or an engine that follows its weights."""

    def __call__(
        self, prompts: Sequence[EncodedPrompt], repeats: Sequence[int], max_new_tokens: int
    ) -> list[list[Sampled]]:
        """``repeats[k]`` independent answers to each prompt, in order."""
        ...


class _OutOfMemory(Exception):
    """Some process has run out of memory while all were drawing; every process raises it, at the same place."""


@dataclass
class ModelSampler:
    """A :class:`Generator` over a :class:`~reward_model.training.grpo.rows.RowModel` in this process.

    A batch that does not fit into memory is drawn again in halves, as if it had begun with batches of that size. Where
    weights are sharded, all processes halve together: whoever ran out of memory says so where they next agree on
    whether to go on, and :class:`~reward_model.training.sharded_memory.LayersToTheEnd` brings the forward pass that it
    happened in to its end.

    Args:
        policy: the module to call; the wrapped one where its weights are sharded, else the bare one.
        generator: source of randomness, on the model's device.
        stop_ids: tokens that end an answer.
        temperature: logits are divided by it.
        batch_size: answers drawn at once; halved for the rest of the run where they do not fit into memory.
        most: the largest of a number over all processes. Needed where weights are sharded, because then every process
            has to take part in every forward pass; by default processes do not wait for each other.
    """

    policy: Any
    generator: torch.Generator
    stop_ids: Sequence[int]
    temperature: float = 1.0
    batch_size: int = 64
    most: Callable[[int], int] = int
    _spare: EncodedPrompt | None = None
    _failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._layers = LayersToTheEnd(self.policy) if self.most is not int else None

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[EncodedPrompt], repeats: Sequence[int], max_new_tokens: int
    ) -> list[list[Sampled]]:
        """Answers to each prompt.

        Raises:
            RuntimeError: if a single answer does not fit into memory; or weights are sharded, and it ended at a place
                where the other processes cannot be told.
        """
        answers: list[list[Sampled]] = [[] for _ in prompts]
        rows = [k for k, n in enumerate(repeats) for _ in range(n)]
        rows.sort(key=lambda k: len(prompts[k].ids))  # stable: rollouts of a prompt stay together
        self._spare = prompts[0] if prompts else self._spare
        with self._layers.at_work() if self._layers is not None else nullcontext():
            while self.most(len(rows)):
                batch = rows[: self.batch_size]
                drawn = self._draw_or_halve([prompts[k] for k in batch], max_new_tokens)
                if drawn is None:
                    continue
                for k, one in zip(batch, drawn, strict=True):
                    answers[k].append(one)
                rows = rows[len(batch) :]
        return answers

    def _draw_or_halve(self, prompts: Sequence[EncodedPrompt], max_new_tokens: int) -> list[Sampled] | None:
        """An answer to each prompt; None if they did not fit into memory, and batches are smaller from now on.

        A process without prompts draws along with the others, an answer that is nobody's.
        """
        assert self._spare is not None  # every process has prompts in its first call
        state = self.generator.get_state()
        try:
            drawn = self._draw(list(prompts) or [self._spare], max_new_tokens if prompts else 1)
        except _OutOfMemory as stopped:
            failure, self._failure = self._failure, None
            self._halve(self.most(len(prompts)), failure or stopped)
            self.generator.set_state(state)
            return None
        if not prompts:
            self.generator.set_state(state)
            return []
        return drawn

    def _halve(self, size: int, failure: BaseException) -> None:
        """Smaller batches from now on. ``size``: answers of the largest batch of any process."""
        if size <= 1:
            raise RuntimeError(self._remedy(size)) from failure
        self.batch_size = size // 2
        log.warning("out of memory while drawing %d answers; going on with %d at once", size, self.batch_size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _remedy(self, size: int) -> str:
        return (
            f"out of memory while drawing {size} answer(s) at once: lower generation_batch_size (now "
            f"{self.batch_size}), max_pixels or max_zoom_frames, or set use_vllm: true"
        )

    @contextmanager
    def _noting(self, *, forward: bool = False) -> Iterator[None]:
        """A block in which running out of memory is noted, to be told when the processes next agree.

        Args:
            forward: it holds a forward pass of all processes, which this one must come to the end of.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            if forward and self._layers is not None:
                raise RuntimeError(self._remedy(self.batch_size)) from error
            self._failure = error.with_traceback(None)  # which would keep the tensors
        if forward and self._layers is not None:
            self._failure = self._layers.take_failure() or self._failure

    def _agreed(self, number: int) -> int:
        """The largest of a number over all processes.

        Raises:
            _OutOfMemory: some process ran out of memory since they last agreed.
        """
        found = self.most(number if self._failure is None else _FAILED)
        if found >= _FAILED:
            raise _OutOfMemory
        return found

    def _draw(self, rows: list[EncodedPrompt], limit: int) -> list[Sampled]:
        """One answer for each entry of ``rows``; equal prompts (by identity) are read once.

        Between two places where all processes agree there is one forward pass, of all of them.
        """
        unique = list({id(p): p for p in rows}.values())
        numbers = {id(p): k for k, p in enumerate(unique)}
        device = self.generator.device
        stops = torch.tensor(list(self.stop_ids), device=device)
        alive = torch.arange(len(rows), device=device)  # which row each entry of the batch belongs to
        done = torch.zeros(len(rows), dtype=torch.bool, device=device)
        drawn: list[tuple[np.ndarray, np.ndarray]] = []
        with self._noting(forward=True):
            logits, cache, mask, following = self._prefill(unique)
        if self._failure is None:
            with self._noting():
                origin = torch.tensor([numbers[id(p)] for p in rows], device=device)
                cache.batch_select_indices(origin)
                logits, following = logits[origin], following[origin]
                mask = None if mask is None else mask[origin]
        going = True
        for step in range(self._agreed(limit)):
            if self._failure is None:
                with self._noting():
                    if going:  # else only others are, and what is drawn here must not depend on them
                        token = self._choose(logits)
                        drawn.append((alive[~done].cpu().numpy(), token[~done].cpu().numpy()))
                        done = done | torch.isin(token, stops) | (step + 1 >= limit)
                        going = not bool(done.all())
                    if going and done.float().mean() >= 0.2:
                        keep = torch.nonzero(~done)[:, 0]
                        cache.batch_select_indices(keep)
                        alive, done, token, following = alive[keep], done[keep], token[keep], following[keep]
                        mask = None if mask is None else mask[keep]
                    if mask is not None:
                        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if not self._agreed(int(going)):
                break
            with self._noting(forward=True):
                logits = self._step(token, following, mask, cache)
                following = following + 1
        return self._collect(drawn, len(rows))

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        if not logits.isfinite().all():
            raise FloatingPointError("the model gives NaN or infinite logits while sampling")
        shares = torch.softmax(logits.float() / self.temperature, dim=-1)
        return torch.multinomial(shares, 1, generator=self.generator)[:, 0]

    def _prefill(self, prompts: list[EncodedPrompt]) -> tuple[torch.Tensor, Any, torch.Tensor | None, torch.Tensor]:
        """Logits after each prompt (U, V), the cache, the attention mask (None if nothing is padded) and the position
        of the first answer token (U,). Prompts are padded on the left.
        """
        config = getattr(self.policy, "module", self.policy).config
        width = max(len(p.ids) for p in prompts)
        ids = np.full((len(prompts), width), config.text_config.pad_token_id or 0, np.int64)
        positions = np.zeros((3, len(prompts), width), np.int64)
        mask = np.zeros((len(prompts), width), np.int64)
        for k, prompt in enumerate(prompts):
            start = width - len(prompt.ids)
            grids = [p.grid for p in prompt.pictures for _ in p.frames]
            ids[k, start:], mask[k, start:] = prompt.ids, 1
            positions[:, k, start:] = mrope_positions(prompt.ids, config.image_token_id, grids)
        device = self.generator.device
        padded = None if mask.all() else torch.from_numpy(mask).to(device)
        output = self.policy(
            decode={
                "input_ids": torch.from_numpy(ids).to(device),
                "attention_mask": padded,
                "position_ids": torch.from_numpy(positions).to(device),
                "pictures": [p for prompt in prompts for p in prompt.pictures],
                "use_cache": True,
                "logits_to_keep": 1,
            }
        )
        following = torch.from_numpy(positions.max(axis=(0, 2)) + 1).to(device)
        return output.logits[:, -1], output.past_key_values, padded, following

    def _step(
        self, token: torch.Tensor, position: torch.Tensor, mask: torch.Tensor | None, cache: Cache
    ) -> torch.Tensor:
        output = self.policy(
            decode={
                "input_ids": as_read(token, getattr(self.policy, "module", self.policy).config)[:, None],
                "attention_mask": mask,
                "position_ids": position[None, :, None].expand(3, -1, 1),
                "past_key_values": cache,
                "use_cache": True,
                "logits_to_keep": 1,
            }
        )
        return output.logits[:, -1]

    def _collect(self, drawn: list[tuple[np.ndarray, np.ndarray]], count: int) -> list[Sampled]:
        ids: list[list[int]] = [[] for _ in range(count)]
        for rows, tokens in drawn:
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                ids[row].append(token)
        stops = set(self.stop_ids)
        return [Sampled(tuple(one), one[-1] in stops) for one in ids]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer, of the generation config or else of the tokenizer."""
    ends = core_model(model).generation_config.eos_token_id
    ends = tokenizer.eos_token_id if ends is None else ends
    return sorted(set(ends if isinstance(ends, list) else [ends]))
