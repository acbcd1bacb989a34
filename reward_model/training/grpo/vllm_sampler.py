"""Answers drawn by vLLM in the training process, on weights that follow the policy's.

vLLM decodes with kernels and a cache made for it, which pays where answers are long and the judge is large. It reads
frames with the checkpoint's own processor and returns what it drew with the log-probabilities of its own arithmetic;
the trainer weighs the difference out (:func:`~reward_model.training.grpo.maths.sampling_correction`). Each prompt is
drawn from a seed of the trainer's generator, which checkpoints keep.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from reward_model.training.grpo.policy_weights import policy_weights
from reward_model.training.grpo.rows import EncodedPrompt, core_model
from reward_model.training.grpo.sampler import Sampled

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel
    from vllm import LLM
    from vllm.outputs import CompletionOutput

log = logging.getLogger(__name__)

#: Longest sequence where neither settings nor model ask for less.
MAX_LENGTH = 32768


@dataclass
class VllmSampler:
    """A :class:`~reward_model.training.grpo.sampler.Generator`.

    Args:
        engine: a ``vllm.LLM`` that runs in this process.
        weights: all weights of the policy as they are now, by their names in a checkpoint.
        version: a number that changes whenever the weights may have.
        generator: source of seeds.
        image_token: id of the placeholder of a visual token.
        stop_ids: tokens that end an answer.
        temperature: logits are divided by it.
    """

    engine: Any
    weights: Callable[[], Iterator[tuple[str, torch.Tensor]]]
    version: Callable[[], int]
    generator: torch.Generator
    image_token: int
    stop_ids: Sequence[int]
    temperature: float = 1.0
    _loaded: int | None = None

    def __call__(
        self, prompts: Sequence[EncodedPrompt], repeats: Sequence[int], max_new_tokens: int
    ) -> list[list[Sampled]]:
        """``repeats[k]`` independent answers to each prompt, in order.

        Raises:
            RuntimeError: if vLLM read a prompt in another way than the training does.
        """
        from vllm import SamplingParams

        self.follow()
        device = self.generator.device
        seeds = torch.randint(2**31 - 1, (len(prompts),), generator=self.generator, device=device).tolist()
        wanted = [
            SamplingParams(
                n=n,
                seed=seed,
                temperature=self.temperature,
                max_tokens=max_new_tokens,
                stop_token_ids=list(self.stop_ids),
                logprobs=0,
                detokenize=False,
            )
            for n, seed in zip(repeats, seeds, strict=True)
        ]
        asked = [request(prompt, self.image_token) for prompt in prompts]
        found = self.engine.generate(asked, wanted, use_tqdm=False) if asked else []
        for prompt, output in zip(prompts, found, strict=True):
            if list(output.prompt_token_ids) != prompt.ids.tolist():
                raise RuntimeError(
                    f"vLLM reads a prompt of {len(prompt.ids)} tokens as {len(output.prompt_token_ids)} other ones: "
                    "its image processor is not the one of this training. Load both from one folder, or set "
                    "use_vllm: false"
                )
        return [[_read(answer) for answer in output.outputs] for output in found]

    def follow(self) -> None:
        """Takes over the policy's weights if they may have changed, and forgets what was computed with older ones."""
        version = self.version()
        if version == self._loaded:
            return
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": self.weights()})
        self.engine.reset_prefix_cache()
        self.engine.reset_mm_cache()
        self.engine.llm_engine.reset_encoder_cache()
        self._loaded = version


class EngineSettings(Protocol):
    """Settings of the engine and of what it draws."""

    @property
    def temperature(self) -> float: ...
    @property
    def vllm_max_model_length(self) -> int | None: ...
    @property
    def vllm_gpu_memory_utilization(self) -> float: ...


def vllm_sampler(
    model: PreTrainedModel,
    accelerator: Accelerator,
    config: EngineSettings,
    version: Callable[[], int],
    generator: torch.Generator,
    stop_ids: Sequence[int],
) -> VllmSampler:
    """A sampler on its own engine, which follows ``model``; arguments as of :class:`VllmSampler`.

    Raises:
        ValueError: if vLLM is not installed.
    """
    engine = make_engine(model, accelerator, config.vllm_max_model_length, config.vllm_gpu_memory_utilization)
    image = core_model(model).config.image_token_id
    return VllmSampler(engine, lambda: engine_weights(model), version, generator, image, stop_ids, config.temperature)


def make_engine(
    model: PreTrainedModel, accelerator: Accelerator, max_length: int | None = None, memory: float = 0.3
) -> LLM:
    """A ``vllm.LLM`` in this process, which shares the device with the training; its weights are still to come.

    Args:
        model: the judge, or a peft model around it, from a folder that holds its processor.
        max_length: greatest length of a prompt with its answer; None: what the model can read, at most
            :data:`MAX_LENGTH`.
        memory: share of the GPU's memory for weights and cache.

    Raises:
        ValueError: if vLLM is not installed.
    """
    try:
        from vllm import LLM
    except ImportError:
        raise ValueError("use_vllm=true needs vLLM, which brings its own torch: pip install vllm") from None
    from trl.trainer.utils import ensure_master_addr_port

    core = core_model(model)
    text = core.config.text_config
    if getattr(text, "attention_bias", False):
        log.warning(
            "vLLM leaves out the output bias of attention, which published Qwen3-VL models do not have and this one "
            "has: it draws from a slightly different judge (policy/sampling_gap in the log)"
        )
    os.environ.setdefault("RANK", str(accelerator.process_index))
    os.environ.setdefault("LOCAL_RANK", str(accelerator.local_process_index))
    os.environ.setdefault("WORLD_SIZE", str(accelerator.num_processes))
    ensure_master_addr_port()
    engine = LLM(
        model=core.name_or_path,
        dtype=_dtype(core, accelerator.mixed_precision),
        max_model_len=max_length or min(int(text.max_position_embeddings), MAX_LENGTH),
        gpu_memory_utilization=memory,
        enforce_eager=accelerator.device.type == "cpu",
        distributed_executor_backend="external_launcher",  # in this process, on the device of its rank
        logprobs_mode="processed_logprobs",  # of the distribution drawn from: after the temperature
        generation_config="vllm",  # nothing of the checkpoint's own sampling
        load_format="dummy",  # weights come from the policy
        # A separate head: on a CPU vLLM packs weights, and a tied head would keep the packed ones of the start.
        hf_overrides={"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": False}},
        disable_log_stats=True,
    )
    accelerator.wait_for_everyone()
    return engine


def engine_weights(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights of a policy as :func:`make_engine`'s engine takes them, a tied head too."""
    tied = core_model(model).config.tie_word_embeddings
    for name, value in policy_weights(model):
        yield name, value
        if tied and name.endswith("embed_tokens.weight"):
            yield "lm_head.weight", value


def request(prompt: EncodedPrompt, image_token: int) -> dict[str, Any]:
    """A prompt as vLLM takes it: one placeholder for each frame, which its processor widens again."""
    from PIL import Image

    keep = np.ones(len(prompt.ids), bool)
    places, at = np.flatnonzero(prompt.ids == image_token), 0
    for pictures in prompt.pictures:
        tokens = pictures.grid[0] * pictures.grid[1]
        for _ in pictures.frames:
            keep[places[at + 1 : at + tokens]] = False
            at += tokens
    frames = [Image.fromarray(frame) for pictures in prompt.pictures for frame in pictures.frames]
    return {"prompt_token_ids": prompt.ids[keep].tolist(), "multi_modal_data": {"image": frames}}


def _read(answer: CompletionOutput) -> Sampled:
    ids = tuple(answer.token_ids)
    log_probs = tuple(at[token].logprob for token, at in zip(ids, answer.logprobs, strict=True))
    return Sampled(ids, answer.finish_reason == "stop", log_probs)


def _dtype(model: PreTrainedModel, mixed_precision: str) -> str:
    """The precision the training computes in."""
    named = {"bf16": "bfloat16", "fp16": "float16"}
    return named.get(mixed_precision) or str(next(model.parameters()).dtype).removeprefix("torch.")
