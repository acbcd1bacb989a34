"""The layout of a pipeline that is not loaded: how many transformers of what size, and which steps are whose."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.schedule import Schedule, read_schedule
from cac_align.flow_grpo.sampler.experts import boundary_of, guidance_scales
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.flow_grpo.wan_sizes import PUBLISHED, WanLayout
from cac_align.pipelines import Pipeline
from reward_model.backends.source import located

log = logging.getLogger(__name__)

#: Pixels of a frame below which TI2V-5B, the one Wan with cells of 16 pixels, is out of its range.
_SMALL = 0.75 * 704 * 1280


def read_layout(model: str) -> WanLayout:
    """The layout of a model.

    Args:
        model: a local folder, the hub id of a published Wan (its numbers are known here), or another hub id.

    Raises:
        ValueError: if its configuration is not available.
    """
    folder = Path(located(model))
    if (folder / "transformer" / "config.json").is_file():
        index = _json(folder / "model_index.json")
        vae, scheduler = _json(folder / "vae" / "config.json"), _json(folder / "scheduler" / "scheduler_config.json")
        return _layout(_json(folder / "transformer" / "config.json"), index, vae, scheduler)
    for name, layout in PUBLISHED.items():
        if name in model:
            return layout
    return _from_hub(model)


def _from_hub(model: str) -> WanLayout:
    from diffusers import AutoencoderKLWan, DiffusionPipeline, WanTransformer3DModel

    try:
        transformer = WanTransformer3DModel.load_config(model, subfolder="transformer")
        index = DiffusionPipeline.load_config(model)
        vae = AutoencoderKLWan.load_config(model, subfolder="vae")
    except OSError as error:
        raise ValueError(
            f"model={model!r} is not a folder of a Wan pipeline, and the hub has no answer: {error}"
        ) from None
    return _layout(transformer, index, vae, {})


def _layout(
    transformer: dict[str, Any], index: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> WanLayout:
    return WanLayout(
        transformer,
        boundary_ratio=index.get("boundary_ratio"),
        spatial_factor=vae.get("scale_factor_spatial") or 8,
        expand_timesteps=bool(index.get("expand_timesteps")),
        flow_shift=scheduler.get("flow_shift", scheduler.get("shift")),
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def expert_line(boundary: float | None, schedule: Schedule | None, config: FlowGRPOConfig) -> str:
    """The plan's line about two experts: which steps are whose, and how many of them the window may hold.

    Args:
        boundary: lowest timestep of the high-noise expert; None: one transformer, of which nothing is said.
        schedule: sigmas of a rollout; None if they are not known yet.
        config: settings.
    """
    if boundary is None:
        return ""
    second = guidance_scales(config)[1]
    said = f"two: high noise from timestep {boundary:g} on, guidance {config.guidance_scale:g}"
    said += f"; low noise below, guidance {second:g}"
    if schedule is None:
        return f"{said}. Which steps are whose depends on the checkpoint's shift (flow_shift: null)"
    steps = schedule.num_steps
    high = sum(float(schedule.timestep(k, integer=config.integer_timesteps)) >= boundary for k in range(steps))
    said += f". Steps: {high} and {steps - high}"
    if not config.on_finished_videos:
        candidates = config.window.check(steps if config.last_step_noise else steps - 1)
        trained = sum(k < high for k in candidates)
        said += f", of which the window may hold {trained} and {len(candidates) - trained}"
        if not 0 < trained < len(candidates):
            said += f": the adapter of the {'low' if trained else 'high'}-noise expert stays untrained"
    return said


def planned_experts(config: FlowGRPOConfig) -> str:
    """:func:`expert_line` of a model that is not loaded; empty for one transformer.

    Raises:
        ValueError: if a second guidance scale is set and there is no second expert, or the size is not one that the
            model makes.
    """
    layout = read_layout(config.model)
    check_video_size(config, layout.spatial_factor, layout.transformer["patch_size"])
    if layout.boundary_ratio is None:
        check_single(config)
        return ""
    shift = layout.flow_shift if config.flow_shift is None else config.flow_shift
    schedule = None
    if shift is not None:
        from diffusers import UniPCMultistepScheduler

        # Published Wan pipelines have this scheduler; others have the same sigmas to a few parts in a thousand.
        base = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
        schedule = read_schedule(base, config.num_inference_steps)
    return expert_line(layout.boundary_ratio * 1000, schedule, config)


def check_single(config: TrainingSettings) -> None:
    """Raises ValueError for a second guidance scale, where there is one transformer."""
    if config.guidance_scale_2 is not None:
        raise ValueError(
            f"guidance_scale_2={config.guidance_scale_2:g} is that of a second expert, and {config.model} has one "
            "transformer; set it to null"
        )


def check_video_size(config: TrainingSettings, spatial_factor: int, patch_size: Sequence[int]) -> None:
    """Raises ValueError for a height or width that the pipeline would round down. Tokens are 16 pixels wide and high in
    Wan 2.1 and Wan 2.2 A14B, 32 in Wan 2.2 TI2V-5B, of which small videos are warned about.

    Args:
        config: settings.
        spatial_factor: pixels per latent cell.
        patch_size: latent frames, rows and columns of a token.
    """
    for name, patch in zip(("height", "width"), patch_size[1:], strict=True):
        value, step = getattr(config, name), spatial_factor * patch
        if value % step:
            raise ValueError(
                f"{name}={value} must be a multiple of {step} for {config.model}: {spatial_factor} pixels a latent "
                f"cell, {patch} cells a token; set it to {max(round(value / step), 1) * step}"
            )
    if spatial_factor == 16 and config.height * config.width < _SMALL:
        log.warning(
            "%dx%d is far below the size that Wan 2.2 TI2V-5B was trained at (704x1280): its samples fall apart there, "
            "and a reward has nothing to choose from",
            config.height,
            config.width,
        )


def check_experts(
    pipe: Pipeline, config: TrainingSettings, schedule: Schedule, *, integer_timesteps: bool = False
) -> None:
    """The settings fit the transformers of a pipeline.

    Args:
        pipe: a pipeline that :func:`~cac_align.flow_grpo.sampler.pipeline.check_pipeline` accepts.
        config: settings.
        schedule: sigmas of a rollout.
        integer_timesteps: whether its timesteps are whole numbers.

    Raises:
        ValueError: if there is a second scale and no second expert, or an expert without a step.
    """
    boundary = boundary_of(pipe)
    if boundary is None:
        check_single(config)
        return
    times = [float(schedule.timestep(k, integer=integer_timesteps)) for k in range(schedule.num_steps)]
    high = sum(t >= boundary for t in times)
    if not 0 < high < len(times):
        raise ValueError(
            f"all {len(times)} steps belong to the expert for {'high' if high else 'low'} noise (boundary "
            f"{boundary:g}, timesteps {times[0]:.5g} to {times[-1]:.5g}): one expert alone does not make the videos of "
            "this model; raise num_inference_steps, or change flow_shift"
        )
