"""From settings to what a trainer starts with: embeddings, latents of videos, processes, a pipeline with its adapter.

Its stochastic scheduler is made here too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.frozen import put_frozen, read_frozen
from cac_align.flow_grpo.learner.lora import add_lora
from cac_align.flow_grpo.learner.quantised import check_storage, quantise_base
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.maths.schedule import num_stochastic_steps, read_schedule, step_weights
from cac_align.flow_grpo.model_layout import check_experts, check_video_size
from cac_align.flow_grpo.needs import PIPELINE_FILE, check_model, is_path
from cac_align.flow_grpo.output_folder import clear_run_leftovers, explained
from cac_align.flow_grpo.placing import place_pipeline, set_attention
from cac_align.flow_grpo.run_prompts import prompt_images
from cac_align.flow_grpo.sampler.clips import CaptionedClip, ClipLatents, find_clips, vae_id
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings, encoder_id, unload_text_encoder
from cac_align.flow_grpo.sampler.experts import PHASES, transformers_of
from cac_align.flow_grpo.sampler.pipeline import check_pipeline
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.pipelines import Pipeline, open_pipeline, serving_class
from reward_model.backends.source import located
from reward_model.engine.processes import default_accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import SchedulerMixin

    from cac_align.flow_grpo.maths.schedule import Schedule
    from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler

log = logging.getLogger(__name__)

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Settings that may name what lies in the checkout.
_PATHS = ("model", "prompts", "eval_prompts", "frozen_adapter", "frozen_adapter_2", "data_regulariser")


def located_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which models and prompts that are only found in the checkout have their whole path."""
    found: dict[str, Any] = {name: located(settings[name]) for name in _PATHS if settings.get(name)}
    if isinstance(settings.get("rewards"), list):
        found["rewards"] = [_located_reward(entry) for entry in settings["rewards"]]
    return {**settings, **found}


def _located_reward(entry: Any) -> object:
    options = entry.get("options") if isinstance(entry, Mapping) else None
    if not isinstance(options, Mapping):
        return entry
    named = {name: located(str(options[name])) for name in ("model", "weights") if options.get(name)}
    return {**entry, "options": {**options, **named}} if named else entry


def load_pipeline(
    config: TrainingSettings, *, text_encoder: bool = True, images: Mapping[str, Any] | None = None
) -> Pipeline:
    """The pipeline of a run on the CPU; the VAE stays fp32. A checkpoint that serves both, Wan 2.2 TI2V-5B, is opened
    for image-to-video where prompts have images.

    Args:
        config: settings.
        text_encoder: False leaves the encoder out, for processes that read embeddings only.
        images: first frame by prompt; None: those of the prompt files, of settings that name some.

    Raises:
        ValueError: if there is no such pipeline, it lacks weights, or it is of a kind that cannot be trained.
    """
    from diffusers import WanImageToVideoPipeline, WanPipeline

    parts: dict[str, Any] = {} if text_encoder else {"text_encoder": None}
    dtype = {"default": DTYPES[config.mixed_precision], "vae": torch.float32}
    kinds = {kind.__name__: kind for kind in (WanPipeline, WanImageToVideoPipeline)}
    if images is None:
        images = prompt_images(config) if isinstance(config, FlowGRPOConfig) else {}

    def store(name: str, part: Any) -> None:
        """Of two experts, the first is small before the second is read."""
        if config.base_precision is not None and name in PHASES:
            quantise_base(part, config.base_precision)

    name = pipeline_class(config, bool(images))
    if name not in kinds:
        raise ValueError(f"model={config.model!r} is a {name}; only {' and '.join(kinds)} can be trained")
    try:
        model = located(config.model)
        return open_pipeline(model, kinds[name], dtype=dtype, revision=config.revision, parts=parts, loaded=store)
    except OSError as error:
        raise ValueError(_why_not(config.model, error)) from error


def pipeline_class(config: TrainingSettings, images: bool = False) -> str:
    """Name of the class that the model of the settings is opened as; no weight is loaded.

    Args:
        config: settings.
        images: whether prompts have images.

    Raises:
        ValueError: if there is no such pipeline.
    """
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(located(config.model), revision=config.revision)
    except OSError as error:
        raise ValueError(_why_not(config.model, error)) from error
    return serving_class(index, images)


def _why_not(model: str, error: OSError) -> str:
    """One line for a pipeline that does not load: what is wrong with its folder, its name or the way to the hub."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if Path(model).is_dir():
        lacks = "" if (Path(model) / PIPELINE_FILE).is_file() else f" (it holds no {PIPELINE_FILE})"
        return f"model={model!r} is not a whole pipeline{lacks}: {str(error).splitlines()[0]}"
    if is_path(model):
        return f"model={model!r}: there is no such folder; fix the path, or give the hub id owner/name of a pipeline"
    if HF_HUB_OFFLINE:
        return f"model={model!r} is not in the hub's cache and HF_HUB_OFFLINE=1 is set; unset it, or fetch it elsewhere"
    why = str(error).splitlines()[0]
    return f"model={model!r} is neither in the hub's cache nor available from the hub; check name and network ({why})"


def prepare_pipeline(pipe: Pipeline, config: FlowGRPOConfig) -> list[str]:
    """Everything between loading and training; returns the names of the modules that got an adapter.

    Raises:
        ValueError: the pipeline, its schedule or its modules do not fit the settings.
    """
    check_trainable(pipe, config)
    return add_adapters(pipe, config)


def add_adapters(pipe: Pipeline, config: TrainingSettings) -> list[str]:
    """Freezes a pipeline that was checked, stores its base as the settings say, and puts the trained adapter in;
    returns the names of the modules that got one.

    Raises:
        ValueError: if its modules or the frozen adapter do not fit the settings.
    """
    pipe.set_progress_bar_config(disable=True)
    transformers = transformers_of(pipe)
    for part in (pipe.vae, *transformers.values(), pipe.text_encoder, getattr(pipe, "image_encoder", None)):
        if part is not None:
            part.requires_grad_(False).eval()
    if pipe.vae.dtype != torch.float32:
        log.warning("the pipeline's VAE is %s; below float32 Wan's makes faults, so it is run in that", pipe.vae.dtype)
        pipe.vae.to(torch.float32)
    if config.vae_tiling:
        pipe.vae.enable_tiling()
    for transformer in transformers.values():
        quantise_base(transformer, config.base_precision)
    lay_frozen(pipe, config)
    names: list[str] = []
    for number, transformer in enumerate(transformers.values()):
        seed = derive_seed(config.seed, "expert", number) if number else config.seed
        names += add_lora(transformer, r=config.lora_r, alpha=config.lora_alpha, targets=config.lora_targets, seed=seed)
        if config.attention_backend:
            set_attention(transformer, config.attention_backend)
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
    return names


@contextmanager
def drawing_pipeline(config: FlowGRPOConfig, device: str | None = None) -> Iterator[Any]:
    """The pipeline of the settings as it draws before training, for the block: on its device, with its own scheduler.

    Args:
        config: settings.
        device: device; None: CUDA where there is one.

    Raises:
        ValueError: if it cannot be loaded.
    """
    check_model(config.model, "model")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_storage(config, place)
    pipe = load_pipeline(config)
    pipe.set_progress_bar_config(disable=True)
    set_flow_shift(pipe, config.flow_shift)
    lay_frozen(pipe, config)
    if config.vae_tiling:
        pipe.vae.enable_tiling()
    if config.attention_backend:
        for transformer in transformers_of(pipe).values():
            set_attention(transformer, config.attention_backend)
    try:
        place_pipeline(pipe, config, place)
        yield pipe
    finally:
        del pipe
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def lay_frozen(pipe: Pipeline, config: TrainingSettings) -> None:
    """Puts the frozen adapters of the settings into the pipeline, one into each transformer, where they name any.

    Raises:
        ValueError: if a file is absent or that of another model, or there are not as many as transformers.
    """
    named, transformers = config.frozen_adapters, transformers_of(pipe)
    if not named:
        return
    if len(transformers) > 1 and len(named) == 1:
        raise ValueError(
            f"{config.model} has two experts, each of which needs a frozen adapter of its own: frozen_adapter for high "
            "noise and frozen_adapter_2 for low noise; name both, or set both to null"
        )
    if (second := named.get("frozen_adapter_2")) and len(transformers) == 1:
        raise ValueError(
            f"frozen_adapter_2={second!r} is that of a second expert, and {config.model} has one transformer; set it "
            "to null"
        )
    weight = config.frozen_adapter_weight
    found = [
        read_frozen(source, transformer, weight, setting)
        for (setting, source), transformer in zip(named.items(), transformers.values(), strict=True)
    ]
    for transformer, adapter in zip(transformers.values(), found, strict=True):
        put_frozen(transformer, adapter)


def set_flow_shift(pipe: Pipeline, flow_shift: float | None) -> None:
    """Gives the pipeline's scheduler another shift of its schedule; None leaves it alone."""
    if flow_shift is not None:
        change = "flow_shift" if "flow_shift" in pipe.scheduler.config else "shift"
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, **{change: flow_shift})


def check_trainable(pipe: Pipeline, config: FlowGRPOConfig) -> None:
    """:func:`check_wan`, and that the schedule has the steps of the window.

    Raises:
        ValueError: if it does not.
    """
    schedule = check_wan(pipe, config, integer_timesteps=config.integer_timesteps)
    if not config.on_finished_videos:
        config.window.check(num_stochastic_steps(schedule, **config.noise))


def check_wan(pipe: Pipeline, config: TrainingSettings, *, integer_timesteps: bool = False) -> Schedule:
    """The sigmas that a pipeline draws with. It gets the shift of the settings.

    Raises:
        ValueError: unless it is Wan 2.1 or 2.2, text-to-video or image-to-video, its videos have the sizes that are
            asked for, and its schedule has steps for each expert.
    """
    from diffusers import WanImageToVideoPipeline, WanPipeline

    check_pipeline(pipe)
    kind = type(pipe.transformer).__name__
    if "WanTransformer3DModel" not in kind or not isinstance(pipe, WanPipeline | WanImageToVideoPipeline):
        raise ValueError(
            f"{type(pipe).__name__} with {kind} cannot be trained: the trainer recomputes the steps of WanPipeline and "
            "WanImageToVideoPipeline. The scheduler (cac_align.flow_grpo.sde_sampling) works with any flow-matching "
            "pipeline"
        )
    check_video_size(config, pipe.vae_scale_factor_spatial, pipe.transformer.config.patch_size)
    set_flow_shift(pipe, config.flow_shift)
    schedule = read_schedule(pipe.scheduler, config.num_inference_steps)
    check_experts(pipe, config, schedule, integer_timesteps=integer_timesteps)
    return schedule


def encode_texts(
    pipe: Pipeline, prompts: Sequence[str], config: TrainingSettings, accelerator: Accelerator
) -> TextEmbeddings:
    """Embeddings of all texts on disk, by the main process; then the encoder is unloaded. Called by all processes."""
    from accelerate.utils import broadcast_object_list

    main = accelerator.is_main_process
    names = [encoder_id(pipe) if main else ""]
    if accelerator.num_processes > 1:
        broadcast_object_list(names)
    folder = config.text_cache or str(Path(config.output_dir) / "text")
    texts = TextEmbeddings(folder, names[0], config.max_sequence_length)
    if main and texts.missing(prompts):
        clear_run_leftovers(folder, older_than_s=3600)  # others may write into a shared cache at the same time
        pipe.text_encoder.to(accelerator.device)
        with explained(folder):
            texts.fill(pipe, prompts, accelerator.device)
    unload_text_encoder(pipe)
    accelerator.wait_for_everyone()
    return texts


def clips_of(config: FlowGRPOConfig, images: Mapping[str, Any]) -> list[CaptionedClip]:
    """The videos of the data term; none without one.

    Args:
        config: settings.
        images: first frames of the prompts, of an image-to-video pipeline.

    Raises:
        ValueError: if there are none where the settings say, or the pipeline takes images.
    """
    if config.data_regulariser is None:
        return []
    if images:
        raise ValueError(
            f"data_regulariser={config.data_regulariser!r} does not fit an image-to-video pipeline, whose condition is "
            "not made for single videos here; set it to null"
        )
    try:
        return find_clips(config.data_regulariser)
    except ValueError as error:
        raise ValueError(f"data_regulariser={config.data_regulariser!r}: {error}") from error


def encode_clips(
    pipe: Pipeline, clips: Sequence[CaptionedClip], config: TrainingSettings, accelerator: Accelerator, source: str
) -> ClipLatents:
    """Latents of videos on disk, by the main process. Called by all processes.

    Args:
        pipe: with its VAE on the device.
        clips: the videos.
        config: settings.
        accelerator: processes.
        source: setting that names the videos and its value, for messages.

    Raises:
        ValueError: if one does not fit the run.
    """
    latents = ClipLatents(clips, config, vae_id(pipe))
    if accelerator.is_main_process:
        try:
            with explained(latents.folder):
                latents.fill(pipe)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    accelerator.wait_for_everyone()
    return latents


def stochastic_scheduler(
    base: SchedulerMixin, config: FlowGRPOConfig, device: torch.device | str
) -> tuple[FlowSDEScheduler, list[float]]:
    """The scheduler of all rollouts, with its schedule set, and the weight of each of its steps in the loss.

    Raises:
        ValueError: if the window does not fit the schedule.
    """
    from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler

    scheduler = FlowSDEScheduler.from_scheduler(
        base,
        integer_timesteps=config.integer_timesteps,
        ode_solver=config.ode_solver,
        log_prob_constants=config.log_prob_constants,
        **config.noise,
    )
    scheduler.set_timesteps(config.num_inference_steps, device=device)
    schedule = read_schedule(scheduler)
    if config.on_finished_videos:
        return scheduler, [1.0] * schedule.num_steps
    candidates = config.window.check(scheduler.num_stochastic_steps)
    weights = step_weights(config.step_weighting, schedule, **config.noise, candidates=candidates)
    return scheduler, weights.tolist()


def open_accelerator(mixed_precision: str) -> Accelerator:
    """The accelerator of a run whose settings decide the precision.

    Raises:
        ValueError: DeepSpeed is asked for what it cannot do here.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return default_accelerator(mixed_precision)
    # DeepSpeed would make adapters bf16 too; autocast leaves them fp32 (policy.run_autocast).
    return check_deepspeed(default_accelerator("no", cpu=False), mixed_precision)


def check_deepspeed(accelerator: Accelerator, mixed_precision: str) -> Accelerator:
    """The accelerator, if it can train here.

    Raises:
        ValueError: ZeRO-3, or fp16.
    """
    stage = accelerator.state.deepspeed_plugin.zero_stage
    if stage > 2:
        raise ValueError(
            f"zero_stage={stage} spreads weights that the pipeline needs whole when it draws; use "
            "recipes/configs/accelerate/fsdp2.yaml to spread them, or deepspeed_zero2.yaml"
        )
    if mixed_precision == "fp16":
        raise ValueError('mixed_precision="fp16" needs a loss scaler, which DeepSpeed keeps to itself; use "bf16"')
    return accelerator
