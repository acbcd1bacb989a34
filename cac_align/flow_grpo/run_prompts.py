"""Prompts of a Flow-GRPO run, for training and for evaluation, with the images of image-to-video."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.pipelines import Pipeline
from cac_align.prompts import Prompt, read_prompts, shared_prompts
from cac_align.selection.candidates import open_first_frame
from reward_model.backends.source import located


def prompt_lists(
    config: FlowGRPOConfig, prompts: Sequence[str] | None, eval_prompts: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Training and evaluation texts, which share none."""
    if prompts is None:
        prompts = prompt_texts(config)
    if eval_prompts is None:
        eval_prompts = [p.text for p in _read("eval_prompts", config.eval_prompts)] if config.eval_prompts else []
    if len(prompts) < config.groups_per_step:
        raise ValueError(
            f"batch={config.batch!r} needs {config.groups_per_step} prompts, the list has {len(prompts)}; add prompts, "
            f"or set batch: {max(len(prompts), 1)}x{config.num_generations}"
        )
    both = shared_prompts([Prompt(p) for p in prompts], [Prompt(p) for p in eval_prompts])
    if both:
        raise ValueError(f"{len(both)} prompts are in both lists, such as {both[0][:60]!r}; evaluate on others")
    return list(prompts), list(eval_prompts)


def prompt_texts(config: FlowGRPOConfig) -> list[str]:
    """The training texts of the settings.

    Raises:
        ValueError: if they name no file, or it cannot be read.
    """
    if config.prompts is None:
        raise ValueError("prompts=null: name a file of prompts, or pass prompts=[...]")
    return [p.text for p in _read("prompts", config.prompts)]


def _read(name: str, path: str) -> list[Prompt]:
    try:
        return read_prompts(located(path))
    except ValueError as error:
        raise ValueError(f"{name}={path!r}: {error}") from error


def prompt_images(config: FlowGRPOConfig) -> dict[str, Any]:
    """The first frames (PIL images, RGB) that the prompt files of the settings name, by prompt, as they are meant to be
    seen.

    Raises:
        ValueError: if one cannot be read as a picture.
    """
    paths = [located(path) for path in (config.prompts, config.eval_prompts) if path]
    listed = [prompt for path in paths for prompt in read_prompts(path)]
    return {p.text: open_first_frame(p.image, "the image of a prompt,") for p in listed if p.image is not None}


def check_images(pipe: Pipeline, prompts: Sequence[str], images: Mapping[str, Any] | None) -> dict[str, Any]:
    """The image of every prompt: all of them for an image-to-video pipeline, none for another one.

    Raises:
        ValueError: prompts without an image, or images that nothing would look at.
    """
    name, images = type(pipe).__name__, dict(images or {})
    if "ImageToVideo" not in name:
        if images:
            raise ValueError(f"{len(images)} images were given, but {name} takes none; use an image-to-video pipeline")
        return {}
    without = [prompt for prompt in prompts if prompt not in images]
    if without:
        raise ValueError(
            f"{name} needs an image for every prompt; {len(without)} have none, such as {without[0][:60]!r}. "
            "Name a file under 'image' in the .jsonl prompt files, or pass images={prompt: PIL image}; evaluation "
            "prompts need one too"
        )
    return {prompt: images[prompt] for prompt in prompts}


def images_fingerprint(images: Mapping[str, Any]) -> str:
    """16 hex digits that change with any pixel or prompt."""
    digest = hashlib.sha256()
    for prompt in sorted(images):
        pixels = np.asarray(images[prompt])
        digest.update(f"{prompt}\x1f{pixels.shape}\x1f{pixels.dtype}".encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:16]
