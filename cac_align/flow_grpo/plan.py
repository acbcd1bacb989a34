"""Plan of a run and a rough estimate of its memory, without loading a weight.

The transformer is built on the meta device, so its adapters can be counted on a laptop. Memory of weights, adapters and
recorded latents is arithmetic; that of activations is an estimate from tokens and widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import SHORT, read_specs
from cac_align.flow_grpo.learner.frozen import read_frozen
from cac_align.flow_grpo.learner.lora import lora_parameters, lora_sizes
from cac_align.flow_grpo.learner.quantised import block_linears, num_weights, stored_bytes
from cac_align.flow_grpo.maths.credit import LatentGrid
from cac_align.flow_grpo.model_layout import expert_line, read_layout
from cac_align.flow_grpo.needs import frozen_file
from cac_align.flow_grpo.objective_settings import ObjectiveSettings
from cac_align.flow_grpo.sampler.experts import boundary_of, transformers_of
from cac_align.flow_grpo.sampler.forwards import sampling_forwards
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.flow_grpo.wan_sizes import forward_flop
from reward_model.terminal.described import experiments, settings_of, unread_settings

if TYPE_CHECKING:
    from diffusers import ModelMixin, WanTransformer3DModel

    from cac_align.flow_grpo.maths.schedule import Schedule
    from cac_align.pipelines import Pipeline

GIB = 2**30
BYTES = {"no": 4, "bf16": 2, "fp16": 2}
#: Floats kept per token and block for the backward pass: this many widths, and this many of the feed-forward's.
BLOCK_WIDTHS, BLOCK_FFN = 20, 3


@dataclass(frozen=True)
class RunPlan:
    """Numbers of a run. Memory in GiB on one process, reckoned from shapes; ``offloaded`` are frozen weights that wait
    in main memory, of which ``weights``, those on the device, hold one block at a time. ``forwards`` are transformer
    calls per step over all processes, guidance counted as two: to draw the videos, to draw them if nothing were shared
    within a group, and to train; ``flop`` are the operations of one of them, reckoned. Of two experts, weights and
    adapters are those of both.
    """

    transformer_parameters: int
    lora_modules: int
    lora_parameters: int
    weights: float
    offloaded: float
    adapter: float
    activations: float
    records: float
    forwards_sampling: int
    forwards_unshared: int
    forwards_training: int
    flop: float

    @property
    def memory(self) -> float:
        """All of it but the VAE, the judge and what the libraries keep."""
        return self.weights + self.adapter + self.activations + self.records


def meta_transformer(model: str) -> WanTransformer3DModel:
    """A transformer of a pipeline without weights; the two experts of Wan 2.2 A14B are of one size.

    Args:
        model: see :func:`~cac_align.flow_grpo.model_layout.read_layout`.

    Raises:
        ValueError: if the model's configuration is not available.
    """
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        return WanTransformer3DModel.from_config(read_layout(model).transformer)


def make_run_plan(
    config: FlowGRPOConfig, *transformers: ModelMixin, world_size: int = 1, spatial_factor: int = 8
) -> RunPlan:
    """The plan of a run.

    Args:
        config: settings.
        transformers: with their adapters, or none for those of the model on the meta device.
        world_size: processes.
        spatial_factor: pixels per latent cell in each direction, where transformers are given.
    """
    size = model_size(config, *transformers, spatial_factor=spatial_factor)
    copies = 4 + (config.ema_decay > 0) + (config.objective == "nft")  # value, gradient, two moments
    latents = size.latents
    samples = config.samples_per_step // max(world_size, 1)
    sides = 1 if config.on_finished_videos or not config.guided else 2
    steps = config.num_trained_steps
    passes = config.num_iterations * steps * sides * config.samples_per_step
    data = config.data_batch * config.num_iterations * config.num_minibatches if config.data_regulariser else 0
    return RunPlan(
        transformer_parameters=size.frozen,
        lora_modules=size.modules,
        lora_parameters=size.trained,
        weights=size.weights,
        offloaded=size.offloaded,
        adapter=copies * size.trained * 4 / GIB,
        activations=activation_memory(config, size, config.rows_per_forward * sides),
        records=(1 if config.on_finished_videos else 3 * steps) * samples * latents * 4 / GIB,
        forwards_sampling=round(sampling_forwards(config, world_size=max(world_size, 1))),
        forwards_unshared=config.num_inference_steps * (2 if config.guided else 1) * config.samples_per_step,
        forwards_training=passes + (passes if config.beta else 0) + (passes if config.objective == "nft" else 0) + data,
        flop=size.flop,
    )


@dataclass(frozen=True)
class ModelSize:
    """Size of a model in training, of which no weight need be loaded. Memory in GiB on one process; of two experts,
    counts and weights are those of both.

    Attributes:
        first: its transformer, the first of two.
        modules, trained: adapted modules, and parameters of the adapter.
        frozen: all other parameters of the transformers.
        weights: frozen weights on the device, of those that wait in main memory one block.
        offloaded: frozen weights that wait in main memory.
        latents: numbers of one latent video.
        flop: operations of one forward of one video, reckoned.
    """

    first: ModelMixin
    modules: int
    trained: int
    frozen: int
    weights: float
    offloaded: float
    latents: int
    flop: float


def model_size(config: TrainingSettings, *transformers: ModelMixin, spatial_factor: int = 8) -> ModelSize:
    """The size of a model; arguments as for :func:`make_run_plan`."""
    if not transformers:
        layout = read_layout(config.model)
        first = meta_transformer(config.model)
        modules, trained = lora_sizes(first, r=config.lora_r, targets=config.lora_targets)
        modules, trained = modules * layout.num_experts, trained * layout.num_experts
        frozen = sum(p.numel() for p in first.parameters()) * layout.num_experts
        experts, spatial_factor = layout.num_experts, layout.spatial_factor
        for name, source in config.frozen_adapters.items():
            if frozen_file(source):  # one of another model is refused
                frozen += read_frozen(source, first, setting=name).num_parameters
    else:
        first, experts = transformers[0], len(transformers)
        adapters = [p for t in transformers for p in lora_parameters(t).items()]
        modules, trained = sum("lora_A" in name for name, _ in adapters), sum(p.numel() for _, p in adapters)
        frozen = sum(num_weights(p) for t in transformers for p in t.parameters()) - trained
    whole, blocks = _frozen_bytes(config, first, frozen // experts)
    lent = blocks / first.config.num_layers if config.offload_blocks else blocks * experts
    latents = _latent_elements(config, first, spatial_factor)
    return ModelSize(
        first,
        modules,
        trained,
        frozen,
        weights=((whole - blocks) * experts + lent) / GIB,
        offloaded=blocks * experts / GIB if config.offload_blocks else 0.0,
        latents=latents,
        flop=forward_flop(dict(first.config), frozen // experts, _tokens(first, latents)),
    )


def activation_memory(config: TrainingSettings, size: ModelSize, videos: int) -> float:
    """GiB of one training forward of so many videos, roughly."""
    return (_activations(config, size.first, size.latents, videos) + _unpacked(config, size.first)) / GIB


def _frozen_bytes(config: TrainingSettings, transformer: ModelMixin, frozen: int) -> tuple[float, float]:
    """Bytes of the frozen weights of one transformer, and of those in its blocks.

    Args:
        config: settings.
        transformer: with or without its weights and adapters.
        frozen: how many frozen weights there are, those of a frozen adapter too.
    """
    size = BYTES[config.mixed_precision]
    trained = {id(p) for p in lora_parameters(transformer).values()}
    inside = sum(num_weights(p) for p in transformer.blocks.parameters() if id(p) not in trained)
    linear = sum(outputs * inputs for outputs, inputs in block_linears(transformer).values())
    saved = 0.0
    if config.base_precision is not None:
        saved = linear * size - stored_bytes(transformer, config.base_precision, size)
    return frozen * size - saved, inside * size - saved


def live_plan(
    pipe: Pipeline, config: FlowGRPOConfig, schedule: Schedule, *, world_size: int, num_prompts: int, first_step: int
) -> str:
    """The plan of a run as text, once the pipeline has its adapters; arguments as for :func:`describe_plan`."""
    transformers = transformers_of(pipe).values()
    plan = make_run_plan(config, *transformers, world_size=world_size, spatial_factor=pipe.vae_scale_factor_spatial)
    return describe_plan(
        config,
        plan,
        world_size=world_size,
        num_prompts=num_prompts,
        first_step=first_step,
        experts=expert_line(boundary_of(pipe), schedule, config),
    )


def frozen_words(config: TrainingSettings) -> str:
    """End of the plan's first line: the adapters that a training lies on; empty without any."""
    sources = list(config.frozen_adapters.values())
    return f" on the frozen adapter{'s' * (len(sources) > 1)} {' and '.join(sources)}" if sources else ""


def describe_plan(
    config: FlowGRPOConfig, plan: RunPlan, *, world_size: int, num_prompts: int, first_step: int = 0, experts: str = ""
) -> str:
    """The plan as text, printed before step 1; ``experts`` is the line about them, where there are two."""
    trial = ", ".join(f"{name}={value}" for name, value in experiments(config).items())
    window = f"window {config.window_mode}, {config.num_trained_steps} trained steps a video"
    if config.on_finished_videos:
        window = f"{config.num_trained_steps} noise levels a video"
    noise = "" if config.noise_level is None else f" {config.noise_level:g}"
    share = config.samples_per_step / world_size
    epochs = config.max_steps * config.groups_per_step / num_prompts
    guidance = f"guidance {config.guidance_scale:g}" + (" in one call" if config.batched_guidance else " in two calls")
    beside = f"; data {config.data_weight:g} x {config.data_batch} of {config.data_regulariser}"
    beside = "" if config.data_regulariser is None else beside
    selective = ", anchor selective" if config.anchor == "selective" else ""
    under = frozen_words(config)
    return "\n".join(
        [
            f"Flow-GRPO of {config.model}{under}",
            f"  samples     {config.groups_per_step} prompts x {config.num_generations} videos = "
            f"{config.samples_per_step} a step over {world_size} process(es), {share:g} each in calls of "
            f"{config.sample_batch_size}",
            f"  videos      {config.height}x{config.width}, {config.num_frames} frames; "
            f"{config.num_inference_steps} steps, {guidance if config.guided else 'no guidance'}",
            f"  noise       kernel {config.kernel}{noise}, {window}",
            *([f"  experts     {experts}"] if experts else []),
            f"  rewards     {_rewards(config)}",
            f"  objective   {config.objective}: {_objective(config)}{selective}{beside}",
            f"  LoRA        rank {config.lora_r}, alpha {config.lora_alpha}: {plan.lora_modules} modules, "
            f"{plan.lora_parameters:,} trained of {plan.transformer_parameters:,} parameters",
            f"  steps       {config.max_steps} (from {first_step}), learning rate {config.learning_rate:g}; "
            f"{epochs:.2f} passes over {num_prompts} prompts",
            f"  forwards    {plan.forwards_sampling} to sample{_shared(config, plan)}, {plan.forwards_training} to "
            f"train, per step (one video, one side of guidance; {plan.flop / 1e12:.3g} TFLOP each, reckoned)",
            f"  memory      {plan.memory:.2f} GiB estimated per process: {plan.weights:.2f} frozen weights"
            f"{storage_words(config, plan.offloaded)}, {plan.adapter:.2f} adapter and optimiser, "
            f"{plan.activations:.2f} activations, {plan.records:.2f} records in main memory; VAE and judge come on top",
            f"  output      {config.output_dir}",
            *([f"  experimental {trial}: no preset has that, and no run of it is in the docs"] if trial else []),
        ]
    )


def storage_words(config: TrainingSettings, offloaded: float) -> str:
    """Storage of the frozen weights and where they wait; empty where nothing is special about it."""
    stored = [] if config.base_precision is None else [f"blocks in {config.base_precision}"]
    if config.offload_blocks:
        stored.append(f"one block at a time, {offloaded:.2f} in main memory")
    return f" ({'; '.join(stored)})" if stored else ""


def _objective(config: FlowGRPOConfig) -> str:
    """The settings that the objective reads, as YAML names them."""
    idle = unread_settings(type(config), config.to_dict())
    told = [s.name for s in settings_of(ObjectiveSettings) if s.name != "objective" and s.name not in idle]
    values = [(name, getattr(config, name)) for name in told]
    return ", ".join(f"{name} {v:g}" if isinstance(v, float) else f"{name} {v}" for name, v in values)


def _shared(config: FlowGRPOConfig, plan: RunPlan) -> str:
    """The part of the sampling that is shared within groups, and the way; empty where there is nothing to share."""
    if not config.shares_prefix:
        return ""
    mean = " on average" if config.window_mode in ("random", "progressive") else ""
    return f"{mean} ({plan.forwards_unshared} without the shared prefix, {config.shared_prefix})"


def _rewards(config: FlowGRPOConfig) -> str:
    """Every reward with its weight and, of a CaC judge, its readout; how they are combined."""
    specs = read_specs(config.rewards)
    named = []
    for spec in specs:
        readout = spec.options.get("readout", "the judge's best") if spec.target == SHORT["cac"] else None
        named.append(f"{spec.weight:g} {spec.name}" + (f" (readout {readout})" if readout else ""))
    how = {"scores": "mean of scores", "advantages": "each normalised in its group"}[config.reward_combination]
    if config.calibration is not None:
        how += f" on the scale of {config.calibration}"
    return ", ".join(named) + (f"; {how}" if len(specs) > 1 or config.calibration is not None else "")


def _latent_elements(config: TrainingSettings, transformer: ModelMixin, spatial_factor: int) -> int:
    """Numbers of one latent video."""
    frames, rows, columns = LatentGrid(
        config.num_frames, config.height, config.width, spatial_factor=spatial_factor
    ).shape
    return int(transformer.config.out_channels) * frames * rows * columns


def _tokens(transformer: ModelMixin, latents: int) -> int:
    """Tokens of one latent video."""
    model = transformer.config
    return latents // (model.out_channels * model.patch_size[0] * model.patch_size[1] * model.patch_size[2])


def _activations(config: TrainingSettings, transformer: ModelMixin, latents: int, videos: int) -> float:
    """Bytes of one training forward of so many videos, roughly."""
    model = transformer.config
    tokens = videos * _tokens(transformer, latents)
    width = model.num_attention_heads * model.attention_head_dim
    block = tokens * (BLOCK_WIDTHS * width + BLOCK_FFN * model.ffn_dim) * BYTES[config.mixed_precision]
    if not config.gradient_checkpointing:
        return block * model.num_layers
    return block + tokens * width * BYTES[config.mixed_precision] * model.num_layers


def _unpacked(config: TrainingSettings, transformer: ModelMixin) -> float:
    """Bytes of weights that torchao has turned into the run's precision and the backward pass holds: of one block, or
    of all without gradient checkpointing. bitsandbytes turns them anew.
    """
    if config.base_precision not in ("fp8", "int8"):
        return 0.0
    weights = sum(outputs * inputs for outputs, inputs in block_linears(transformer).values())
    share = 1 / transformer.config.num_layers if config.gradient_checkpointing else 1
    return weights * share * BYTES[config.mixed_precision]


def peak_memory() -> float:
    """GiB the accelerator held at most; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0
