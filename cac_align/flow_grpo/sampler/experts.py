"""The transformers of a pipeline: one, or the two experts of Wan 2.2 A14B, each with its timesteps and its guidance.

The pipeline calls ``transformer`` at timesteps of ``boundary_ratio`` * 1000 and above (high noise), ``transformer_2``
below (low noise). A training forward lies on one side of the boundary; :class:`ExpertVelocity` refuses any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cac_align.flow_grpo.sampler.policy import Condition, GuidedVelocity, batched_calls

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from cac_align.flow_grpo.training_settings import TrainingSettings
    from cac_align.pipelines import Pipeline

#: Parts of a pipeline with two experts -> what logs and files call them, from noise to detail.
PHASES = {"transformer": "high_noise", "transformer_2": "low_noise"}


def transformers_of(pipe: Pipeline) -> dict[str, ModelMixin]:
    """The transformers of a pipeline by the name of the part, that for high noise first."""
    found = {name: getattr(pipe, name, None) for name in PHASES}
    return {name: part for name, part in found.items() if part is not None}


def has_experts(pipe: Pipeline) -> bool:
    """True for a pipeline with two experts."""
    return len(transformers_of(pipe)) > 1


def boundary_of(pipe: Pipeline) -> float | None:
    """The lowest timestep of the high-noise expert, as the pipeline computes it; None for a single transformer."""
    if not has_experts(pipe):
        return None
    return float(pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps)


def expert_at(timestep: torch.Tensor, boundary: float) -> str:
    """The expert of a batch, as the name of its part.

    Args:
        timestep: 0-dim, or one per sample.
        boundary: see :func:`boundary_of`.

    Raises:
        ValueError: if the samples belong to both experts.
    """
    high = (timestep >= boundary).flatten()
    if bool(high.all()):
        return "transformer"
    if bool(high.any()):
        raise ValueError(
            f"a forward of timesteps {float(timestep.min()):.5g} to {float(timestep.max()):.5g} mixes the experts on "
            f"both sides of {boundary:g}; each has its own weights and guidance, so split the batch there"
        )
    return "transformer_2"


def split_by_expert(timesteps: torch.Tensor, boundary: float | None) -> list[list[int]]:
    """Places of a batch, (B,) timesteps, in parts of one expert each, that for high noise first; no part is empty."""
    if boundary is None:
        return [list(range(len(timesteps)))]
    high = (timesteps >= boundary).tolist()
    parts = [[k for k, side in enumerate(high) if side is wanted] for wanted in (True, False)]
    return [part for part in parts if part]


class ExpertVelocity(nn.Module):
    """The velocity of a pipeline with two experts: that of the one whose timestep it is, with its guidance.

    A module around both, so that DDP sees one forward per backward; see
    :class:`~cac_align.flow_grpo.sampler.policy.GuidedVelocity`.

    Args:
        experts: velocity of each part, by the names of :data:`PHASES`.
        boundary: see :func:`boundary_of`.

    ``joined`` has every training forward depend on the adapters of both, by exactly nothing: DDP waits for the gradient
    of each trained weight.
    """

    def __init__(self, experts: Mapping[str, GuidedVelocity], boundary: float) -> None:
        super().__init__()
        self.experts = nn.ModuleDict(experts)
        self.boundary, self.joined = boundary, False

    @property
    def transformers(self) -> dict[str, Any]:
        """Both transformers by the name of their part."""
        return {name: expert.transformer for name, expert in self.experts.items()}

    @property
    def transformer(self) -> Any:
        """The expert for high noise, which knows what both have in common: sizes, dtype, device."""
        return self.experts["transformer"].transformer

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, condition: Condition) -> torch.Tensor:
        """(B, ...) velocity.

        Args:
            latents: (B, C, T, H, W).
            timestep: 0-dim, or (B,).
            condition: condition of the B videos.

        Raises:
            ValueError: if the timesteps belong to both experts.
        """
        active = expert_at(timestep, self.boundary)
        velocity = self.experts[active](latents, timestep, condition)
        if self.joined and torch.is_grad_enabled():
            resting = (p for name, e in self.experts.items() if name != active for p in e.parameters())
            for parameter in resting:
                if parameter.requires_grad:
                    velocity = velocity + 0 * parameter.sum()
        return velocity


def velocity_of(pipe: Pipeline, config: TrainingSettings) -> GuidedVelocity | ExpertVelocity:
    """The policy that training recomputes: the velocity the pipeline draws with under these settings."""
    tokens = bool(pipe.config.get("expand_timesteps"))
    scales = {"transformer": config.guidance_scale, "transformer_2": guidance_scales(config)[1]}
    experts = {
        name: GuidedVelocity(part, scales[name], config.batched_guidance, guided=config.guided, token_timesteps=tokens)
        for name, part in transformers_of(pipe).items()
    }
    boundary = boundary_of(pipe)
    return experts["transformer"] if boundary is None else ExpertVelocity(experts, boundary)


def guidance_scales(config: TrainingSettings) -> tuple[float, float]:
    """Scales of both experts. The pipeline asks the first alone whether there is guidance at all."""
    second = config.guidance_scale_2
    return config.guidance_scale, config.guidance_scale if second is None else second


def drawing_arguments(config: TrainingSettings) -> dict[str, Any]:
    """Arguments of a pipeline call: size, length, steps and guidance. Pipelines with one transformer refuse a second
    scale.
    """
    second = config.guidance_scale_2
    return {
        "height": config.height,
        "width": config.width,
        "num_frames": config.num_frames,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        **({} if second is None else {"guidance_scale_2": second}),
    }


@contextmanager
def batched_pipeline(pipe: Pipeline, negative: torch.Tensor | None, active: bool = True) -> Iterator[None]:
    """:func:`~cac_align.flow_grpo.sampler.policy.batched_calls` for every transformer of a pipeline."""
    with ExitStack() as stack:
        for part in transformers_of(pipe).values():
            stack.enter_context(batched_calls(part, negative, active))
        yield
