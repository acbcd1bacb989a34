"""A Flow-GRPO step as a first version would be written: what ``benchmarks/flow_grpo.py`` holds the trainer against.

Kernel, windows, seeds, objective and optimiser are those of the settings, so the numbers must be the trainer's up to
rounding. The savings are left out: every call encodes its texts again, in the update too; the latents of all steps are
kept; guidance takes two transformer calls; nothing is drawn while the judge works.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.loading import load_pipeline, open_accelerator, prepare_pipeline, prompt_lists
from cac_align.flow_grpo.maths.advantages import compute_advantages
from cac_align.flow_grpo.maths.kernels import log_prob
from cac_align.flow_grpo.maths.sampling import GroupSampler
from cac_align.flow_grpo.maths.schedule import read_schedule, step_weights
from cac_align.flow_grpo.sampler.rollout import split_calls
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from cac_align.rewards.base import evaluate
from cac_align.selection.candidates import split_frames


class PlainLoop:
    """The same step without any of the savings; the maths is that of ``config``, the code is this class."""

    def __init__(self, config: FlowGRPOConfig, reward: Any, pipe: Any = None) -> None:
        if (config.objective, config.kl_space, config.advantage_std) != ("grpo", "velocity", "group"):
            raise ValueError("the plain loop knows objective grpo with KL of velocities and groups' std only")
        self.config, self.reward, self.steps = config, reward, 0
        self.device = open_accelerator("no").device
        self.pipe = pipe = pipe or load_pipeline(config)
        prepare_pipeline(pipe, config)
        pipe.to(self.device)
        self.prompts, _ = prompt_lists(config, None, None)
        groups, members = config.groups_per_step, config.num_generations
        self.sampler = GroupSampler(len(self.prompts), groups, members, config.seed)
        pipe.scheduler = FlowSDEScheduler.from_scheduler(pipe.scheduler, record_means=False, **config.noise)
        pipe.scheduler.set_timesteps(config.num_inference_steps)
        schedule = read_schedule(pipe.scheduler)
        candidates = config.window.check(pipe.scheduler.num_stochastic_steps)
        self.weights = step_weights(config.step_weighting, schedule, **config.noise, candidates=candidates).tolist()  # type: ignore[arg-type]
        self.transformer = pipe.transformer
        self.parameters = [p for p in pipe.transformer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, eps=config.adam_eps, weight_decay=config.weight_decay
        )

    def step(self) -> None:
        epoch, place = self.sampler.locate(self.steps)
        specs = self.sampler.step_samples(epoch, place)
        self.calls, scores = [], []
        for members in split_calls(specs, self.config.sample_batch_size):
            prompt = self.prompts[members[0].prompt_index]
            window = self.config.window.steps(
                self.pipe.scheduler.num_stochastic_steps,
                seed=self.config.seed,
                epoch=epoch,
                prompt_id=members[0].prompt_index,
                iteration=self.steps,
            )
            frames, trajectory, latents = self.draw(members, prompt, window)
            self.calls.append((prompt, trajectory, latents))
            scores += self.judge(frames, prompt)
        config = self.config
        advantages = compute_advantages(
            scores,
            [s.group for s in specs],
            ddof=config.advantage_ddof,
            eps=config.advantage_eps,
            clip=config.advantage_clip,
        )
        self.update(advantages.values.float().split(config.sample_batch_size))
        self.steps += 1

    @torch.no_grad()
    def draw(self, members: Any, prompt: str, window: tuple[int, ...]) -> tuple[Any, Any, list[torch.Tensor]]:
        config, latents = self.config, []

        def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            latents.append(tensors["latents"].clone())
            return tensors

        with self.pipe.scheduler.rollout([s.seed for s in members], window) as trajectory:
            output = self.pipe(
                prompt=[prompt] * len(members),
                negative_prompt=[config.negative_prompt] * len(members),
                max_sequence_length=config.max_sequence_length,
                height=config.height,
                width=config.width,
                num_frames=config.num_frames,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                generator=[torch.Generator("cpu").manual_seed(s.seed) for s in members],
                output_type="np",
                callback_on_step_end=keep,
            )
        return split_frames(output, len(members)), trajectory, latents

    def judge(self, frames: Any, prompt: str) -> list[float | None]:
        return evaluate(self.reward, frames, [prompt] * len(frames), fps=self.config.fps).scores

    def update(self, advantages: Any) -> None:
        config = self.config
        passes = sum(len(trajectory) for _, trajectory, _ in self.calls)
        gains = [values.to(self.device) for values in advantages]
        for (prompt, trajectory, _), gain in zip(self.calls, gains, strict=True):
            for record in trajectory:
                count = len(gain)
                positive, negative = self.pipe.encode_prompt(
                    [prompt] * count,
                    [config.negative_prompt] * count,
                    True,
                    max_sequence_length=config.max_sequence_length,
                    device=self.device,
                )
                velocity = self._velocity(record, positive, negative)
                drawn = self.pipe.scheduler.transition_at(record.step, record.latents, velocity)
                now = log_prob(record.next_latents, drawn.mean, drawn.std)
                ratio = torch.exp(now - record.log_prob)
                clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
                loss = self.weights[record.step] * torch.maximum(-gain * ratio, -gain * clipped)
                if config.beta:
                    with torch.no_grad(), adapter_off(self.transformer):
                        reference = self._velocity(record, positive, negative)
                    loss = loss + config.beta * (velocity - reference).square().flatten(1).mean(1)
                (loss.mean() / passes).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _velocity(self, record: Any, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        times = record.timestep.to(record.latents.device).expand(len(record.latents))
        cond, uncond = (
            self.transformer(
                hidden_states=record.latents, timestep=times, encoder_hidden_states=text, return_dict=False
            )[0]
            for text in (positive, negative)
        )
        return uncond + self.config.guidance_scale * (cond - uncond)

    def records(self) -> list[list[Any]]:
        return [list(trajectory) for _, trajectory, _ in self.calls]

    def record_bytes(self) -> int:
        kept = [t for _, _, latents in self.calls for t in latents]
        return bytes_of([*kept, *(r.log_prob for part in self.records() for r in part)])


def bytes_of(tensors: Iterable[torch.Tensor | None]) -> int:
    """Memory of some tensors; one that appears twice counts once."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors if t is not None}.values())
