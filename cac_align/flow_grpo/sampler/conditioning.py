"""What an image-to-video pipeline gives its transformer beside latents and text, noted as it draws, for training.

Nothing is encoded a second time: the condition is read off the transformer's own input, after all that the pipeline did
to it, so sampling and replay see the same bits whatever a release of diffusers does to the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class ImageCondition:
    """The image of one pipeline call, whose videos all share it.

    ``latents`` (1, C, T, H, W): channels behind those that are denoised (mask and encoded image); ``embeds`` (1, L, D):
    of the image encoder, None for pipelines without one.
    """

    latents: torch.Tensor
    embeds: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> ImageCondition:
        return ImageCondition(self.latents.to(device), None if self.embeds is None else self.embeds.to(device))

    def join(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C0, ...) latents with the condition behind them, (B, C0 + C, ...)."""
        return torch.cat([latents, self.latents.to(latents).expand(len(latents), *self.latents.shape[1:])], dim=1)

    def embeds_for(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """The transformer's argument for a batch of latents; empty without an image encoder."""
        if self.embeds is None:
            return {}
        return {"encoder_hidden_states_image": self.embeds.to(latents).expand(len(latents), -1, -1)}


@contextmanager
def noted_condition(transformer: Any) -> Iterator[list[ImageCondition]]:
    """While a pipeline runs once, notes the image condition of its first transformer call; none for text-to-video."""
    found: list[ImageCondition] = []
    channels = transformer.config.out_channels

    def note(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        if not found and (extra := kwargs["hidden_states"][:1, channels:]).shape[1]:
            embeds = kwargs.get("encoder_hidden_states_image")
            found.append(ImageCondition(extra.clone(), None if embeds is None else embeds[:1].clone()))

    hook = transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


def check_images(pipe: Any, prompts: Sequence[str], images: Mapping[str, Any] | None) -> dict[str, Any]:
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
