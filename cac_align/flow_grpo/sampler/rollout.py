"""Draws the videos of a step with the unmodified pipeline and keeps what training needs of them, and nothing else.

One :class:`VideoRollout` is one call of the pipeline: some videos of one group, which share prompt and window. Every
video has its own seed for its first latents and its noise, so it depends on neither rank nor batch mates (up to the
rounding of batched arithmetic).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.sampling import PrefixSharing, SampleSpec
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.flow_grpo.sampler.experts import batched_pipeline, drawing_arguments, transformers_of
from cac_align.flow_grpo.sampler.policy import ImageCondition, noted_condition
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from cac_align.flow_grpo.sampler.trajectory import StepRecord
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.pipelines import Pipeline
from reward_model.video.layouts import split_frames


@dataclass
class VideoRollout:
    """Videos of one call.

    ``records`` are the stochastic steps (their row k is video k), on the CPU; ``clean`` the final latents (R, ...),
    kept for nft and rvm only; ``frames`` (T, H, W, 3) uint8 each, empty if they were not decoded; ``image`` the
    condition of an image-to-video pipeline, on the CPU.
    """

    specs: tuple[SampleSpec, ...]
    prompt: str
    records: list[StepRecord]
    frames: list[np.ndarray]
    clean: torch.Tensor | None = None
    image: ImageCondition | None = None

    @property
    def group(self) -> int:
        return self.specs[0].group


def split_calls(specs: Sequence[SampleSpec], batch_size: int) -> list[tuple[SampleSpec, ...]]:
    """The samples of a rank as calls of at most ``batch_size`` videos of one group."""
    calls: list[tuple[SampleSpec, ...]] = []
    for _, members in groupby(specs, key=lambda spec: spec.group):
        whole = tuple(members)
        calls += [whole[k : k + batch_size] for k in range(0, len(whole), batch_size)]
    return calls


class RolloutSampler:
    """Draws calls of a step.

    Args:
        pipe: a Wan pipeline, whose scheduler is the ``scheduler`` given here while it is drawn from.
        scheduler: the scheduler of :func:`~cac_align.flow_grpo.sampler.pipeline.sde_sampling`.
        texts: embeddings of all prompts and of the negative prompt.
        config: sizes, guidance, windows, seed.
        images: first frame by prompt, for image-to-video pipelines.
    """

    def __init__(
        self,
        pipe: Pipeline,
        scheduler: FlowSDEScheduler,
        texts: TextEmbeddings,
        config: FlowGRPOConfig,
        images: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipe, self.scheduler, self.texts, self.config = pipe, scheduler, texts, config
        self.images, self.negative = images or {}, negative_prompt(config)
        self._first_frame = bool(self.images) and bool(pipe.config.get("expand_timesteps"))

    def window(self, spec: SampleSpec, epoch: int, step: int) -> tuple[int, ...]:
        """The stochastic steps of a group; none for objectives that train on finished videos."""
        config = self.config
        if config.on_finished_videos:
            return ()
        steps = config.num_inference_steps if config.last_step_noise else config.num_inference_steps - 1
        return config.window.steps(steps, seed=config.seed, epoch=epoch, prompt_id=spec.prompt_index, iteration=step)

    def draw(
        self, calls: Sequence[tuple[SampleSpec, ...]], prompts: Sequence[str], epoch: int, step: int
    ) -> Iterator[VideoRollout]:
        """One rollout after the other; ``prompts`` is the whole list that specs point into.

        Steps that the videos of a group have in common are drawn once, as ``shared_prefix`` says.
        """
        group: int | None = None
        known: dict[int, torch.Tensor] = {}  # by the number of videos: latents where the window begins
        for specs in calls:
            prompt, window = prompts[specs[0].prompt_index], self.window(specs[0], epoch, step)
            if specs[0].group != group:
                group, known = specs[0].group, {}
            size, sharing = len(specs), self._sharing(window)
            if sharing == "single" and size not in known:
                alone = known.get(1)
                if alone is None:
                    alone = known[1] = self._prefix(specs[:1], prompt, window)
                known[size] = alone.repeat(size, 1, 1, 1, 1)
            rollout = self.draw_one(specs, prompt, window, latents=known.get(size))
            if sharing == "exact":
                known.setdefault(size, rollout.records[0].latents)
            yield rollout

    def _sharing(self, window: Sequence[int]) -> PrefixSharing:
        """The way in which the videos of a group share what lies before their window; there must be something."""
        shared = self.config.same_initial_noise and bool(window) and window[0] > 0
        return self.config.shared_prefix if shared else "off"

    def _prefix(self, specs: tuple[SampleSpec, ...], prompt: str, window: tuple[int, ...]) -> torch.Tensor:
        """The latents of a group's videos where their window begins."""
        drawn = self.draw_one(specs, prompt, (), decode=False, stop=window[0])
        assert drawn.clean is not None
        return drawn.clean

    @torch.no_grad()
    def draw_one(
        self,
        specs: tuple[SampleSpec, ...],
        prompt: str,
        window: tuple[int, ...],
        *,
        decode: bool = True,
        latents: torch.Tensor | None = None,
        stop: int | None = None,
    ) -> VideoRollout:
        """One call of the pipeline.

        Args:
            specs: samples of one group.
            prompt: its text.
            window: its stochastic steps.
            decode: False skips the VAE, and there are no frames.
            latents: (R, C, T, H, W), those of the window's first step, to go on from; None: from the first latents on.
            stop: the step to stop before, with the latents come to as ``clean``; None: goes on to the end.
        """
        config, pipe = self.config, self.pipe
        device = pipe.transformer.device
        texts = self.texts.condition([prompt] * len(specs), self.negative, device)
        last: list[torch.Tensor] = []
        starts = [s.group_seed if config.same_initial_noise else s.seed for s in specs]
        part = (0 if latents is None else window[0], stop)
        before, pipe.scheduler = pipe.scheduler, self.scheduler
        try:
            with (
                self.scheduler.rollout([s.seed for s in specs], window, part=part) as trajectory,
                batched_pipeline(pipe, texts.negative, config.batched_guidance),
                noted_condition(transformers_of(pipe).values(), self._first_frame) as noted,
            ):
                output = pipe(
                    **image_argument(self.images, prompt),
                    prompt_embeds=texts.positive,
                    negative_prompt_embeds=texts.negative,
                    **drawing_arguments(config),
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in starts],
                    latents=latents,
                    output_type="np" if decode else "latent",
                    callback_on_step_end=_keep(last) if config.on_finished_videos or stop is not None else None,
                )
        finally:
            pipe.scheduler = before
        frames = split_frames(output, len(specs)) if decode else []
        records = [record.to("cpu") for record in trajectory]
        image = noted[0].to("cpu") if noted else None
        return VideoRollout(specs, prompt, records, frames, last[0].cpu() if last else None, image)


def negative_prompt(config: TrainingSettings) -> str | None:
    """The text that guidance leads away from; None without guidance."""
    return config.negative_prompt if config.guided else None


def image_argument(images: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """``image`` of a pipeline call; nothing for text-to-video."""
    return {"image": images[prompt]} if images else {}


def _keep(last: list[torch.Tensor]) -> Callable[..., dict[str, torch.Tensor]]:
    """A callback that keeps the latents of the latest step."""

    def callback(
        pipe: Pipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        last[:] = [tensors["latents"]]
        return tensors

    return callback
