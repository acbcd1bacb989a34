"""The velocity a pipeline uses, recomputed for training: transformer and classifier-free guidance, nothing else.

:func:`batched_calls` makes the unmodified pipeline compute both halves of guidance in one call, and
:class:`GuidedVelocity` does the same in training; without it both make two calls. Either way the numbers of sampling
and training are bit-identical at equal batches, which is what a ratio of exactly 1 rests on.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cac_align.flow_grpo.sampler.conditioning import ImageCondition
from reward_model.engine.replaced_forward import replaced_forward


class GuidedVelocity(nn.Module):
    """v = v_uncond + g (v_cond - v_uncond), computed as the pipeline does.

    A module of its own, so that DDP sees one forward per backward. FSDP goes around the transformer instead, which the
    pipeline calls without this module.

    Args:
        transformer: with its adapter.
        guidance_scale: g; up to 1 there is one call and no guidance, as in the pipeline.
        batched: both halves in one call.
    """

    def __init__(self, transformer: Any, guidance_scale: float, batched: bool = True) -> None:
        super().__init__()
        self.transformer: Any
        self.transformer, self.guidance_scale, self.batched = transformer, guidance_scale, batched

    def forward(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
        image: ImageCondition | None = None,
    ) -> torch.Tensor:
        """(B, ...) velocity.

        Args:
            latents: (B, C, T, H, W).
            timestep: 0-dim, or (B,).
            positive, negative: (B, L, D) text embeddings.
            image: of image-to-video, shared by the batch.
        """
        dtype = self.transformer.dtype
        x, times, text = latents.to(dtype), timestep.to(latents.device).expand(len(latents)), positive.to(dtype)
        if image is not None:
            x = image.join(x)

        def call(x: torch.Tensor, times: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            more = {} if image is None else image.embeds_for(x)
            return self.transformer(
                hidden_states=x, timestep=times, encoder_hidden_states=text, return_dict=False, **more
            )[0]

        if self.guidance_scale <= 1 or negative is None:
            return call(x, times, text)
        other = negative.to(dtype)
        if self.batched:
            cond, uncond = _both(call, x, times, text, other)
        else:
            cond, uncond = call(x, times, text), call(x, times, other)
        return uncond + self.guidance_scale * (cond - uncond)


@contextmanager
def batched_calls(transformer: Any, negative: torch.Tensor | None, active: bool = True) -> Iterator[None]:
    """While active, the pipeline's call for the prompt also computes that for the negative prompt, whose own call then
    costs nothing.

    Args:
        transformer: of the pipeline.
        negative: (B, L, D), the embeddings the pipeline was given as ``negative_prompt_embeds``; None: no guidance.
        active: False leaves the pipeline alone.
    """
    if not active or negative is None:
        yield
        return
    forward = transformer.forward
    waiting: list[tuple[torch.Tensor, torch.Tensor]] = []

    def paired(hidden_states: Any, timestep: Any, encoder_hidden_states: Any, **kwargs: Any) -> Any:
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


def run_autocast(transformer: Any, device: torch.device, mixed_precision: str) -> None:
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
    call: Any, x: torch.Tensor, times: torch.Tensor, text: torch.Tensor, other: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    whole = call(torch.cat([x, x]), torch.cat([times, times]), torch.cat([text, other]))
    first, second = whole.chunk(2)
    return first, second
