"""Places the parts of a pipeline: device, precision, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cac_align.flow_grpo.learner.offload import offload_blocks
from cac_align.flow_grpo.sampler.experts import transformers_of
from cac_align.flow_grpo.sampler.policy import run_autocast
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.pipelines import Pipeline

if TYPE_CHECKING:
    import torch
    from diffusers import ModelMixin

#: How to install a missing attention backend.
PIP = {
    "flash": "pip install flash-attn --no-build-isolation",
    "xformers": "pip install xformers",
    "sage": "pip install sageattention",
    "hub": "pip install kernels",
}


def place_parts(pipe: Pipeline, config: TrainingSettings, device: torch.device) -> None:
    """Before training: moves all but the transformers to the device, which the learner does with those, unless their
    blocks stay in main memory. They get the run's precision.
    """
    _move_others(pipe, device)
    for transformer in transformers_of(pipe).values():
        if config.offload_blocks:
            offload_blocks(transformer, device)
        run_autocast(transformer, device, config.mixed_precision)


def place_pipeline(pipe: Pipeline, config: TrainingSettings, device: torch.device) -> None:
    """Without training: moves the pipeline to the device, but for blocks that stay in main memory."""
    if not config.offload_blocks:
        pipe.to(device)
        return
    _move_others(pipe, device)
    if pipe.text_encoder is not None:
        pipe.text_encoder.to(device)
    for transformer in transformers_of(pipe).values():
        offload_blocks(transformer, device)


def _move_others(pipe: Pipeline, device: torch.device) -> None:
    for part in (pipe.vae, getattr(pipe, "image_encoder", None)):
        if part is not None:
            part.to(device)


def set_attention(transformer: ModelMixin, backend: str) -> None:
    """diffusers' attention backend, the same in sampling and training.

    Raises:
        ValueError: if there is no such backend, or its package is missing; the message has the pip line.
    """
    try:
        transformer.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        line = next((command for name, command in PIP.items() if name in backend.lower()), None)
        remedy = f"{line}, or set attention_backend to null" if line else "set attention_backend to null"
        raise ValueError(f"attention_backend={backend!r} cannot be used: {error} Remedy: {remedy}") from error
