"""The velocity a pipeline uses, recomputed for training: transformer, condition and guidance, nothing else.

:func:`batched_calls` makes the unmodified pipeline compute both halves of guidance in one call, and
:class:`GuidedVelocity` does the same in training; without it both make two calls. Either way the numbers of sampling
and training agree bit for bit at equal batches, which is what a ratio of exactly 1 rests on.

A :class:`Condition` is what the transformer is given beside latents and timestep. Texts come from the cache; the image
of image-to-video is not encoded a second time but read off the transformer's own input as the pipeline draws, after all
that was done to it, whatever a release of diffusers does to images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reward_model.engine.replaced_forward import replaced_forward

if TYPE_CHECKING:
    from diffusers import ModelMixin


@dataclass(frozen=True)
class ImageCondition:
    """The image of one pipeline call, whose videos all share it.

    ``latents`` (1, C, T, H, W): channels behind those that are denoised (mask and encoded image); ``embeds`` (1, L, D):
    of the image encoder, None for pipelines without one. With ``first_frame`` (Wan 2.2 TI2V-5B) the latents are
    (1, C, 1, H, W), the first latent frame itself, which the pipeline puts in place of the denoised one.
    """

    latents: torch.Tensor
    embeds: torch.Tensor | None = None
    first_frame: bool = False

    def to(self, device: torch.device | str) -> ImageCondition:
        embeds = None if self.embeds is None else self.embeds.to(device)
        return replace(self, latents=self.latents.to(device), embeds=embeds)

    def join(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, C0, ...) latents as the transformer gets them: with the condition behind them, (B, C0 + C, ...), or with
        the first frame in its place.
        """
        image = self.latents.to(latents).expand(len(latents), *self.latents.shape[1:])
        return torch.cat([image, latents[:, :, 1:]], dim=2) if self.first_frame else torch.cat([latents, image], dim=1)

    def embeds_for(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """The transformer's argument for a batch of latents; empty without an image encoder."""
        if self.embeds is None:
            return {}
        return {"encoder_hidden_states_image": self.embeds.to(latents).expand(len(latents), -1, -1)}


@dataclass(frozen=True)
class Condition:
    """Inputs of the transformer beside latents and timestep, of some videos.

    ``positive``, ``negative`` (B, L, D) text embeddings, ``negative`` None without guidance; ``image`` None for
    text-to-video.
    """

    positive: torch.Tensor
    negative: torch.Tensor | None = None
    image: ImageCondition | None = None

    def to(self, device: torch.device | str) -> Condition:
        negative = None if self.negative is None else self.negative.to(device)
        return Condition(self.positive.to(device), negative, None if self.image is None else self.image.to(device))

    def unguided(self) -> Condition:
        """The same without the negative prompt."""
        return replace(self, negative=None)


class GuidedVelocity(nn.Module):
    """v = v_uncond + g (v_cond - v_uncond), computed as the pipeline does.

    A separate module, so that DDP sees one forward per backward. FSDP goes around the transformer instead, which the
    pipeline calls without this module.

    Args:
        transformer: with its adapter.
        guidance_scale: g; up to 1 there is one call and no guidance, as in the pipeline.
        batched: both halves in one call.
        guided: whether there is guidance; None: by ``guidance_scale``. The second expert of a pipeline is guided if the
            first one is, also at a scale of 1.
        token_timesteps: the transformer gets a timestep for every token, 0 for those of a given first frame
            (``expand_timesteps``).
    """

    def __init__(
        self,
        transformer: ModelMixin,
        guidance_scale: float,
        batched: bool = True,
        *,
        guided: bool | None = None,
        token_timesteps: bool = False,
    ) -> None:
        super().__init__()
        self.transformer: Any
        self.transformer, self.guidance_scale, self.batched = transformer, guidance_scale, batched
        self.guided = guidance_scale > 1 if guided is None else guided
        self.token_timesteps = token_timesteps

    @property
    def transformers(self) -> dict[str, Any]:
        """The transformer by the name of its part, as a pipeline with two experts has two."""
        return {"transformer": self.transformer}

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        """(B, ...) velocity.

        Args:
            latents: (B, C, T, H, W).
            timestep: 0-dim, or (B,).
            condition: condition of the B videos.
        """
        dtype, image, negative = self.transformer.dtype, condition.image, condition.negative
        x, times = latents.to(dtype), timestep.to(latents.device).expand(len(latents))
        text = condition.positive.to(dtype)
        if image is not None:
            x = image.join(x)
        if self.token_timesteps:
            times = token_timesteps(times, x, self.transformer.config.patch_size, image)

        def call(x: torch.Tensor, times: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            more = {} if image is None else image.embeds_for(x)
            return self.transformer(
                hidden_states=x, timestep=times, encoder_hidden_states=text, return_dict=False, **more
            )[0]

        if not self.guided or negative is None:
            return call(x, times, text)
        other = negative.to(dtype)
        if self.batched:
            cond, uncond = _both(call, x, times, text, other)
        else:
            cond, uncond = call(x, times, text), call(x, times, other)
        return uncond + self.guidance_scale * (cond - uncond)


def token_timesteps(
    timestep: torch.Tensor, latents: torch.Tensor, patch_size: Sequence[int], image: ImageCondition | None = None
) -> torch.Tensor:
    """The timestep of every token, (B, L), as pipelines with ``expand_timesteps`` compute it.

    Args:
        timestep: (B,).
        latents: (B, C, T, H, W), of which a token covers one patch.
        patch_size: latent frames, rows and columns of a patch.
        image: tokens of its first frame, which holds no noise, are at 0.
    """
    mask = torch.ones(latents.shape[2:], device=latents.device)  # (T, H, W)
    if image is not None and image.first_frame:
        mask[0] = 0
    places = mask[:: patch_size[0], :: patch_size[1], :: patch_size[2]].flatten()
    return timestep[:, None] * places


@contextmanager
def batched_calls(transformer: ModelMixin, negative: torch.Tensor | None, active: bool = True) -> Iterator[None]:
    """While active, the pipeline's call for the prompt also computes that for the negative prompt, whose own call then
    costs nothing.

    Args:
        transformer: transformer of the pipeline.
        negative: (B, L, D), the embeddings the pipeline was given as ``negative_prompt_embeds``; None: no guidance.
        active: False leaves the pipeline alone.
    """
    if not active or negative is None:
        yield
        return
    forward = transformer.forward
    waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def paired(
        hidden_states: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor]:
        if waiting and waiting[0][0] is hidden_states:
            return (waiting.pop()[1],)
        if (embeds := kwargs.get("encoder_hidden_states_image")) is not None:
            kwargs["encoder_hidden_states_image"] = torch.cat([embeds, embeds])

        def call(x: torch.Tensor, times: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return forward(hidden_states=x, timestep=times, encoder_hidden_states=text, **kwargs)[0]

        other = negative.to(encoder_hidden_states)
        cond, uncond = _both(call, hidden_states, timestep, encoder_hidden_states, other)
        waiting[:] = [(hidden_states, uncond)]
        return (cond,)

    with replaced_forward(transformer, paired):
        yield


@contextmanager
def noted_condition(transformers: Iterable[ModelMixin], first_frame: bool = False) -> Iterator[list[ImageCondition]]:
    """While a pipeline runs once, notes the image condition of its first transformer call; none for text-to-video.

    Args:
        transformers: those of the pipeline, any of which may be called first.
        first_frame: the image is the first latent frame, not further channels.
    """
    conditions: list[ImageCondition] = []

    def note(module: Any, args: tuple[object, ...], kwargs: Mapping[str, Any]) -> None:
        shown = kwargs["hidden_states"][:1]
        if not conditions and first_frame:
            conditions.append(ImageCondition(shown[:, :, :1].clone(), first_frame=True))
        elif not conditions and (extra := shown[:, module.config.out_channels :]).shape[1]:
            embeds = kwargs.get("encoder_hidden_states_image")
            conditions.append(ImageCondition(extra.clone(), None if embeds is None else embeds[:1].clone()))

    hooks = [transformer.register_forward_pre_hook(note, with_kwargs=True) for transformer in transformers]
    try:
        yield conditions
    finally:
        for hook in hooks:
            hook.remove()


def run_autocast(transformer: ModelMixin, device: torch.device, mixed_precision: str) -> None:
    """Makes every call of the transformer, the pipeline's too, run under autocast: ``bf16``, ``fp16`` or ``no``."""
    if mixed_precision == "no":
        return
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]
    forward = transformer.forward

    @functools.wraps(forward)
    def cast(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype):
            return forward(*args, **kwargs)

    transformer.forward = cast


def _both(
    call: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    times: torch.Tensor,
    text: torch.Tensor,
    other: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    whole = call(torch.cat([x, x]), torch.cat([times, times]), torch.cat([text, other]))
    first, second = whole.chunk(2)
    return first, second
