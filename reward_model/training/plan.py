"""Cost of a training run, before a GPU is rented: parameters, memory per GPU, FLOPs, hours.

    python recipes/stage1_warmup.py --config recipes/configs/stage1/full.yaml --dry-run

The model is built on torch's ``meta`` device, so its parameters and LoRA modules are counted on the real classes while
no weight exists. Memory, FLOPs and time are arithmetic and say "estimate" wherever they are printed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reward_model.config import answer_limit
from reward_model.terminal.described import check_settings, described, setting
from reward_model.training.lora import lora_config, lora_modules, parameters_by_part
from reward_model.training.shapes import QWEN3_VL_8B_PARAMETERS, model_config, qwen3_vl_8b_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = [
    "ADAM",
    "GIB",
    "GRADIENT",
    "HALF",
    "QWEN3_VL_8B_PARAMETERS",
    "WEIGHT",
    "Plan",
    "PlanConfig",
    "activation_bytes",
    "cache_bytes",
    "forward_flops",
    "make_plan",
    "max_layer_parameters",
    "memory_plan",
    "meta_model",
    "model_config",
    "print_plan",
    "qwen3_vl_8b_config",
    "sample_flops",
    "tokens_per_frame",
]

GIB = 2**30
#: Bytes each parameter takes while it trains, fp32 weights and Adam under bf16 autocast: weight, gradient, two moments.
WEIGHT, GRADIENT, ADAM = 4, 4, 8
#: Bytes of a bf16 value.
HALF = 2
#: All and trainable parameters of each part, and the layers with LoRA (None without it).
_Counts = tuple[dict[str, tuple[int, int]], dict[str, int] | None]
#: Counts by the model's class, its configuration and the rank of LoRA.
_KNOWN_COUNTS: dict[tuple[str, str, int | None], _Counts] = {}


@described
@dataclass(frozen=True)
class PlanConfig:
    """Settings of a plan.

    Raises:
        ValueError: if a value is not of its kind or out of bounds; the message names it.
    """

    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """``"Qwen/Qwen3-VL-8B-Instruct"``, a local folder with a config.json, or the name of another model whose
    configuration is given to :func:`make_plan`."""
    stage: str = "stage2"
    """Printed only."""
    lora_r: int | None = setting(None, least=1)
    """Rank of LoRA; None trains all parameters."""

    # --- steps --------------------------------------------------------------------------------------------------------
    steps: int = setting(7_000, least=-1)
    """Optimiser steps; -1 where TRL counts epochs instead."""
    per_device_batch: int = setting(1, least=1)
    """Samples of one pass."""
    accumulation: int = setting(1, least=1)
    """Passes of a step."""
    num_gpus: int = setting(8, least=0)
    """GPUs; 0 is a process on a CPU, of whose time nothing is said, because a CPU has no peak rate to go by."""
    gradient_checkpointing: bool = True
    """Activations are computed again for the backward pass."""

    # --- samples ------------------------------------------------------------------------------------------------------
    num_frames: int = setting(21, least=1)
    """Frames of a sample."""
    height: int = setting(480, least=1)
    """Pixels of a frame as the processor receives it."""
    width: int = setting(832, least=1)
    """Likewise."""
    max_pixels: int | None = setting(None, least=0)
    """The processor's limit for one frame; larger frames are shrunk to it."""
    prompt_tokens: int = setting(1_200, least=0)
    """Text around the frames."""
    answer_tokens: int | None = setting(None, least=0)
    """Tokens of an answer. None: the limit of an answer about so many frames
    (:func:`reward_model.config.answer_limit`), so that memory and time are upper estimates."""
    longest_frames: int | None = setting(None, least=1)
    """Frames of the longest sample, which decides the memory; None: as the others."""
    longest_answer: int | None = setting(None, least=0)
    """Tokens of the longest answer, likewise."""

    # --- hardware -----------------------------------------------------------------------------------------------------
    peak_tflops: float = setting(989.0, above=0, below=math.inf)
    """Dense bf16 peak of one GPU (989 for an H100 or H200 SXM by its data sheet)."""
    utilisations: tuple[float, ...] = setting((0.2, 0.35, 0.5), above=0, most=1)
    """Shares of that peak to tabulate; well-tuned training of such models reaches 0.3 to 0.5."""
    gpu_memory_gib: float = setting(141.0, above=0, below=math.inf)
    """Memory of one GPU."""

    # --- stage 3 and loading ------------------------------------------------------------------------------------------
    reference: bool = False
    """Stage 3 keeps the weights it began with, for the KL term (LoRA needs no copy)."""
    drawn_at_once: int = setting(0, least=0)
    """Answers of stage 3 that are drawn together, with a cache each; not at work while it trains."""
    vllm_share: float = setting(0.0, least=0, most=1)
    """Share of a GPU's memory, for engines of vLLM."""
    drawn_tokens: int = setting(0, least=0)
    """Tokens of stage 3 that a process draws one after another in a step."""
    gather_gb_s: float = setting(200.0, above=0, below=math.inf)
    """Rate at which sharded weights come together for a forward pass, in GB/s."""
    host_copies: int = setting(1, least=1)
    """Copies of the weights that each process holds in the host's memory while it loads."""
    host_bytes: int = setting(WEIGHT, least=1)
    """Bytes of a weight there."""
    gpus_per_node: int = setting(8, least=1)
    """Processes that share a host."""

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def answer(self) -> int:
        """Tokens of an answer."""
        return answer_limit(self.num_frames) if self.answer_tokens is None else self.answer_tokens

    def longest(self) -> PlanConfig:
        """The same plan for the longest sample."""
        frames = self.longest_frames or self.num_frames
        answer = self.longest_answer or (answer_limit(frames) if self.answer_tokens is None else self.answer_tokens)
        return replace(self, num_frames=frames, answer_tokens=answer, longest_frames=None, longest_answer=None)


@dataclass(frozen=True)
class Plan:
    """The counted (parameters, modules, tokens) and the estimated (bytes, FLOPs, hours)."""

    config: PlanConfig
    parts: dict[str, tuple[int, int]]
    lora: dict[str, int] | None
    frame_tokens: int
    tokens: int
    memory: dict[str, dict[str, float]]
    flops_per_step: float
    hours: dict[float, float]

    @property
    def parameters(self) -> int:
        return sum(total for total, _ in self.parts.values())

    @property
    def trainable(self) -> int:
        return sum(trainable for _, trainable in self.parts.values())

    def to_text(self) -> str:
        """The plan as a page of plain text."""
        c = self.config
        lines = [f"Plan of {c.stage}: {c.model}", "", "Counted on the model (meta device, no weights):"]
        for part, (total, trainable) in self.parts.items():
            adapters = f", LoRA r={c.lora_r} on {self.lora[part]} linear layers" if self.lora else ""
            lines.append(f"  {part:36}{total:>16,} parameters, {trainable:>14,} trainable{adapters}")
        lines += [
            f"  {'all':36}{self.parameters:>16,} parameters, {self.trainable:>14,} trainable",
            f"  a sample: {c.num_frames} frames x {self.frame_tokens} visual tokens + {c.prompt_tokens} of prompt "
            f"+ {c.answer:,} of answer = {self.tokens:,} tokens",
            *self._longest(),
            "",
            *(self._on_gpus() if c.num_gpus else self._on_cpu()),
        ]
        return "\n".join(lines) + "\n"

    def _longest(self) -> list[str]:
        c = self.config.longest()
        if (c.num_frames, c.answer) == (self.config.num_frames, self.config.answer):
            return []
        tokens = c.num_frames * self.frame_tokens + c.prompt_tokens + c.answer
        return [f"  the longest: {c.num_frames} frames, {c.answer:,} of answer = {tokens:,} tokens; memory is for it"]

    def _host(self) -> str:
        c = self.config
        processes = min(c.num_gpus, c.gpus_per_node)
        held = c.host_copies * c.host_bytes * self.parameters * processes / GIB
        return (
            f"Memory of a host while it loads, ESTIMATE: {c.host_copies} cop{'y' if c.host_copies == 1 else 'ies'} of "
            f"the weights at {c.host_bytes} bytes x {processes} process(es) = {held:,.0f} GiB"
        )

    def _drawing(self) -> list[str]:
        """Cost of sampling if the weights are sharded and every token has to gather them."""
        c = self.config
        if not c.drawn_tokens:
            return []
        if c.vllm_share:
            return ["Answers are drawn by vLLM, from a copy of the weights in one piece."]
        held = self.parameters * HALF
        hours = c.drawn_tokens * c.steps * held / (c.gather_gb_s * 1e9) / 3600
        return [
            f"Drawing by the model itself, ESTIMATE: up to {c.drawn_tokens:,} tokens a step one after another; under "
            f"FSDP or ZeRO-3 each gathers {held / GIB:.1f} GiB of weights, at {c.gather_gb_s:g} GB/s up to "
            f"{hours:,.0f} h in {c.steps:,} steps" + (" (use_vllm: true is recommended)" if hours >= 24 else ""),
        ]

    def _on_gpus(self) -> list[str]:
        c = self.config
        lines = [
            f"Memory per GPU, ESTIMATE in GiB ({c.num_gpus} GPUs, {c.per_device_batch} sample(s) each, "
            f"gradient checkpointing {'on' if c.gradient_checkpointing else 'off'}):",
            f"  {'':16}" + "".join(f"{name:>14}" for name in next(iter(self.memory.values()))) + f"{'fits':>8}",
        ]
        for layout, row in self.memory.items():
            fits = "yes" if row["sum"] < 0.9 * c.gpu_memory_gib else "no"
            lines.append(f"  {layout:16}" + "".join(f"{value:14.1f}" for value in row.values()) + f"{fits:>8}")
        samples = c.per_device_batch * c.accumulation * c.num_gpus
        lines += [
            *(["  (sum: with the larger of activations and drawing, which take turns)"] if c.drawn_at_once else []),
            f"  (fits: below 90 % of {c.gpu_memory_gib:g} GiB; buffers of CUDA, NCCL and the allocator come on top)",
            self._host(),
            *self._drawing(),
            "",
            f"Time, ESTIMATE: {samples} samples a step, {self.flops_per_step:.3g} FLOPs a step, {c.steps:,} steps, "
            f"{c.num_gpus} x {c.peak_tflops:g} TFLOP/s",
        ]
        return lines + [f"  at {share:.0%} of peak: {hours:10.2f} h" for share, hours in self.hours.items()]

    def _on_cpu(self) -> list[str]:
        c = self.config
        samples = c.per_device_batch * c.accumulation
        [row] = self.memory.values()
        return [
            "Memory of a process on the CPU, ESTIMATE in GiB: "
            + ", ".join(f"{name} {value:.2f}" for name, value in row.items()),
            f"Work of a process: {samples} samples a step x {c.steps:,} steps = {samples * c.steps:,} samples. The bar "
            "tells the time left once it runs.",
        ]


def meta_model(config: PretrainedConfig, lora_r: int | None = None) -> PreTrainedModel:
    """The model on the meta device, with LoRA if a rank is given: real classes, no storage."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        return model if lora_r is None else get_peft_model(model, lora_config(r=lora_r))


def tokens_per_frame(
    height: int, width: int, *, patch: int, merge: int, min_pixels: int | None = None, max_pixels: int | None = None
) -> int:
    """Visual tokens of one frame: sides rounded to whole tokens after bringing its area between the two limits."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    side = patch * merge
    low = min_pixels or side * side
    high = max(max_pixels or height * width * 4, low)
    rows, columns = smart_resize(height, width, side, min_pixels=low, max_pixels=high)
    return (rows // side) * (columns // side)


def make_plan(config: PlanConfig, shape: PretrainedConfig | None = None) -> Plan:
    """Counts and estimates everything :meth:`Plan.to_text` prints.

    Args:
        shape: the model's transformers configuration; None: that of :func:`model_config`.
    """
    shape = shape or model_config(config.model)
    parts, lora = _counted(shape, config.lora_r)
    vision = shape.vision_config
    frame_tokens = tokens_per_frame(
        config.height,
        config.width,
        patch=vision.patch_size,
        merge=vision.spatial_merge_size,
        max_pixels=config.max_pixels,
    )
    tokens = config.num_frames * frame_tokens + config.prompt_tokens + config.answer
    sample = sample_flops(shape, config, frame_tokens, tokens)
    step = sample * config.per_device_batch * config.accumulation * max(1, config.num_gpus)
    peak = config.num_gpus * config.peak_tflops * 1e12
    shares = config.utilisations if peak else ()
    return Plan(
        config=config,
        parts=parts,
        lora=lora,
        frame_tokens=frame_tokens,
        tokens=tokens,
        memory=memory_plan(shape, config.longest(), parts, frame_tokens),
        flops_per_step=step,
        hours={share: step * config.steps / (peak * share) / 3600 for share in shares},
    )


def _counted(shape: PretrainedConfig, lora_r: int | None) -> _Counts:
    """Parameters and LoRA layers of each part. A model of one shape is built once: that takes seconds."""
    key = (type(shape).__name__, shape.to_json_string(use_diff=False), lora_r)
    if key not in _KNOWN_COUNTS:
        model = meta_model(shape, lora_r)
        _KNOWN_COUNTS[key] = parameters_by_part(model), lora_modules(model) if lora_r else None
    parts, lora = _KNOWN_COUNTS[key]
    return dict(parts), None if lora is None else dict(lora)


def print_plan(config: PlanConfig, shape: PretrainedConfig | None = None) -> Plan:
    """Prints the plan of :func:`make_plan` and returns it."""
    plan = make_plan(config, shape)
    print(plan.to_text(), end="")
    return plan


# --- FLOPs ------------------------------------------------------------------------------------------------------------


def forward_flops(
    shape: PretrainedConfig, *, num_frames: int, frame_tokens: int, tokens: int, answer_tokens: int
) -> float:
    """Multiply-adds times two of one forward pass of one sample: linear layers, and attention within each frame (ViT)
    and over the causal half of the sequence (LLM). Embeddings, norms and activations are left out (under 1 %).
    """
    vision, text = shape.vision_config, shape.text_config
    patches = num_frames * frame_tokens * vision.spatial_merge_size**2
    per_frame = frame_tokens * vision.spatial_merge_size**2
    wide = vision.hidden_size * vision.spatial_merge_size**2
    block = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    mergers = (1 + len(vision.deepstack_visual_indexes)) * (wide**2 + wide * vision.out_hidden_size)
    tower = 2 * patches * vision.depth * block + 2 * num_frames * frame_tokens * mergers
    tower += 4 * patches * per_frame * vision.hidden_size * vision.depth
    queries, keys = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    layer = text.hidden_size * (2 * queries + 2 * keys) + 3 * text.hidden_size * text.intermediate_size
    body = 2 * tokens * text.num_hidden_layers * layer + 2 * tokens**2 * queries * text.num_hidden_layers
    return tower + body + 2 * answer_tokens * text.hidden_size * text.vocab_size


def sample_flops(shape: PretrainedConfig, config: PlanConfig, frame_tokens: int, tokens: int) -> float:
    """Forward and backward of one sample.

    The backward pass costs twice the forward one; with LoRA the gradients of frozen weights are not formed, which
    leaves about one forward (the adapters themselves are small). Checkpointing runs the forward pass again.
    """
    once = forward_flops(
        shape,
        num_frames=config.num_frames,
        frame_tokens=frame_tokens,
        tokens=tokens,
        answer_tokens=config.answer,
    )
    return once * (1 + (2 if config.lora_r is None else 1) + config.gradient_checkpointing)


# --- memory -----------------------------------------------------------------------------------------------------------


def activation_bytes(shape: PretrainedConfig, config: PlanConfig, frame_tokens: int, tokens: int) -> float:
    """Bytes that one micro-batch keeps for the backward pass, with fused attention; in bf16, on a CPU in float32.

    Saved per token of a layer: both norms' inputs and outputs, queries, keys, values, attention output (LLM: gate, up
    and their product). With checkpointing only each layer's input stays, plus one layer at work. The head's float32
    logits exist at answer tokens only, once forward and once backward.
    """
    vision, text = shape.vision_config, shape.text_config
    value = HALF if config.num_gpus else WEIGHT
    patches = config.num_frames * frame_tokens * vision.spatial_merge_size**2
    keys = 2 * text.num_key_value_heads * text.head_dim
    queries = 2 * text.num_attention_heads * text.head_dim
    llm_layer = value * tokens * (4 * text.hidden_size + queries + keys + 4 * text.intermediate_size)
    vit_layer = value * patches * (8 * vision.hidden_size + 2 * vision.intermediate_size)
    if config.gradient_checkpointing:
        kept = value * (
            tokens * text.hidden_size * text.num_hidden_layers + patches * vision.hidden_size * vision.depth
        )
        body = kept + max(llm_layer, vit_layer)
    else:
        body = llm_layer * text.num_hidden_layers + vit_layer * vision.depth
    return config.per_device_batch * (body + 2 * 4 * config.answer * text.vocab_size)


def cache_bytes(shape: PretrainedConfig, config: PlanConfig, tokens: int) -> float:
    """Keys and values of the answers that are drawn together, at their longest."""
    text, value = shape.text_config, HALF if config.num_gpus else WEIGHT
    token = 2 * text.num_key_value_heads * text.head_dim * text.num_hidden_layers
    return float(value * config.drawn_at_once * tokens * token)


def memory_plan(
    shape: PretrainedConfig, config: PlanConfig, parts: dict[str, tuple[int, int]], frame_tokens: int
) -> dict[str, dict[str, float]]:
    """GiB per GPU under the three usual layouts: weights, gradients, optimiser, activations; where there are any, also
    the reference, caches of drawing and vLLM's part. Caches and activations take turns: the sum has the larger.

    Full-parameter training holds float32 weights and computes in bf16 (bf16 copies of all weights under DDP and
    ZeRO-2, of two layers under FSDP or ZeRO-3); LoRA holds the frozen base in bf16 and float32 adapters. On a CPU there
    is one layout and everything is float32.
    """
    tokens = config.num_frames * frame_tokens + config.prompt_tokens + config.answer
    total, trainable = (sum(column) for column in zip(*parts.values(), strict=True))
    weights = (total - trainable) * HALF + trainable * WEIGHT
    copies = trainable * HALF
    gathered = 2 * HALF * max_layer_parameters(shape)
    kept = total * WEIGHT if config.reference else 0
    n = config.num_gpus
    layouts: dict[str, tuple[float, float, float, float]] = {
        "CPU": (total * WEIGHT, trainable * GRADIENT, trainable * ADAM, kept)
    }
    if n:
        layouts = {
            "DDP": (weights + copies, trainable * GRADIENT, trainable * ADAM, kept),
            "ZeRO-2": (weights + copies, trainable * GRADIENT / n, trainable * ADAM / n, kept),
            "FSDP / ZeRO-3": (weights / n + gathered, trainable * GRADIENT / n, trainable * ADAM / n, kept / n),
        }
    activations, drawing = activation_bytes(shape, config, frame_tokens, tokens), cache_bytes(shape, config, tokens)
    engine = config.vllm_share * config.gpu_memory_gib * GIB
    needs = {}
    for layout, (held, gradients, optimiser, reference) in layouts.items():
        columns = {"weights": held, "gradients": gradients, "optimiser": optimiser, "activations": activations}
        columns |= {k: v for k, v in (("reference", reference), ("drawing", drawing), ("vLLM", engine)) if v}
        columns["sum"] = sum(columns.values()) - min(activations, drawing)
        needs[layout] = {name: value / GIB for name, value in columns.items()}
    return needs


def max_layer_parameters(shape: PretrainedConfig) -> int:
    """Parameters of the largest unit that sharded training gathers at once: a decoder layer, or the word embedding."""
    text = shape.text_config
    queries, keys = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    layer = text.hidden_size * (2 * queries + 2 * keys) + 3 * text.hidden_size * text.intermediate_size
    return max(layer, text.vocab_size * text.hidden_size)
