"""Flow-GRPO in one file, to be read from top to bottom: the trainer of ``flow_grpo.py`` without its savings and checks.

    python recipes/flow_grpo_minimal.py                 # the minis on one CPU core: four steps, one or two minutes
    python recipes/flow_grpo_minimal.py --steps 40

A step draws a group of videos of each prompt with a stochastic sampler, has them judged, compares each with its group
and makes the steps that led to the better ones likelier. ``[saved: FILE]`` stands where this file pays for something
that the trainer saves; paths are below ``cac_align/flow_grpo``. What it leaves out altogether: several processes, mixed
precision and other objectives (``learner/learner.py``), checkpoints (``learner/checkpoint.py``), the averaged LoRA and
its export (``trainer.py``), a look at replay noise before the first step (``learner/replay.py``), and evaluations that
stop a run which cheats the judge (``evaluation.py``, ``judging/canaries.py``).
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import build_reward
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.loading import load_pipeline, located_settings, prepare_pipeline, prompt_lists
from cac_align.flow_grpo.maths.advantages import compute_advantages
from cac_align.flow_grpo.maths.kernels import log_prob
from cac_align.flow_grpo.maths.sampling import GroupSampler, SampleSpec
from cac_align.flow_grpo.maths.schedule import read_schedule, step_weights
from cac_align.flow_grpo.sampler.rollout import split_calls
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from cac_align.rewards.base import Reward, evaluate
from cac_align.selection.candidates import split_frames
from reward_model.engine.settings import read_yaml

if TYPE_CHECKING:
    import numpy as np

    from cac_align.flow_grpo.sampler.trajectory import StepRecord
    from cac_align.pipelines import Pipeline

MINI = Path(__file__).resolve().parent / "configs" / "flow_grpo" / "mini.yaml"


class PlainFlowGRPO:
    """A run of objective ``grpo``; every number is the trainer's for the same settings, up to rounding."""

    def __init__(
        self, config: FlowGRPOConfig, reward: Reward, pipe: Pipeline | None = None, prompts: list[str] | None = None
    ) -> None:
        if (config.objective, config.kl_space, config.advantage_std) != ("grpo", "velocity", "group"):
            raise ValueError("the plain loop knows objective grpo with KL of velocities and groups' std only")
        self.config, self.reward, self.done = config, reward, 0
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipe = pipe = pipe or load_pipeline(config)
        prepare_pipeline(pipe, config)  # everything frozen, and a LoRA on the transformer
        pipe.to(self.device)  # text encoder included, for the whole run [saved: sampler/embeddings.py]
        self.prompts, _ = prompt_lists(config, prompts, [])
        groups, members = config.groups_per_step, config.num_generations
        self.sampler = GroupSampler(len(self.prompts), groups, members, config.seed)
        # The pipeline stays as it is: this scheduler draws its steps from Gaussians, whose log-prob can be computed.
        pipe.scheduler = FlowSDEScheduler.from_scheduler(pipe.scheduler, record_means=False, **config.noise)
        pipe.scheduler.set_timesteps(config.num_inference_steps)
        schedule, window = read_schedule(pipe.scheduler), config.window
        candidates = window.check(pipe.scheduler.num_stochastic_steps)
        self.weights = step_weights(config.step_weighting, schedule, **config.noise, candidates=candidates).tolist()
        self.transformer = pipe.transformer
        self.parameters = [p for p in pipe.transformer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, eps=config.adam_eps, weight_decay=config.weight_decay
        )

    def step(self) -> list[float | None]:
        """Draws, judges and updates once; returns the rewards of the videos."""
        config = self.config
        epoch, place = self.sampler.locate(self.done)
        specs = self.sampler.step_samples(epoch, place)
        self.calls, scores = [], []
        for members in split_calls(specs, config.sample_batch_size):
            index, stochastic = members[0].prompt_index, self.pipe.scheduler.num_stochastic_steps
            prompt, place_of = self.prompts[index], {"seed": config.seed, "epoch": epoch, "prompt_id": index}
            window = config.window.steps(stochastic, **place_of, iteration=self.done)
            frames, trajectory, latents = self.draw(members, prompt, window)
            self.calls.append((prompt, trajectory, latents))
            # Nothing is drawn while the judge works. [saved: judging/reward_bus.py]
            scores += self.judge(frames, prompt)
        # By how many standard deviations is a video better than its group? One that was not judged takes no part.
        groups, eps, clip = [spec.group for spec in specs], config.advantage_eps, config.advantage_clip
        advantages = compute_advantages(scores, groups, ddof=config.advantage_ddof, eps=eps, clip=clip)
        differs = torch.tensor([group not in advantages.zero_variance for group in groups])
        self.update(advantages.values.float().to(self.device), (advantages.valid & differs).to(self.device))
        self.done += 1
        return scores

    @torch.no_grad()
    def draw(self, members: tuple[SampleSpec, ...], prompt: str, window: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """Videos of one group, their recorded steps, and all their latents."""
        config, latents = self.config, []
        seeds = [s.group_seed if config.same_initial_noise else s.seed for s in members]

        def keep(
            pipe: Pipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            latents.append(tensors["latents"].clone())  # of all steps, on the device [saved: sampler/trajectory.py]
            return tensors

        with self.pipe.scheduler.rollout([s.seed for s in members], window) as trajectory:
            # The pipeline encodes the texts at every call [saved: sampler/embeddings.py], and calls the transformer
            # twice at every step where there is guidance [saved: sampler/policy.py].
            output = self.pipe(
                prompt=[prompt] * len(members),
                negative_prompt=[config.negative_prompt] * len(members),
                max_sequence_length=config.max_sequence_length,
                height=config.height,
                width=config.width,
                num_frames=config.num_frames,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                output_type="np",
                callback_on_step_end=keep,
            )
        return split_frames(output, len(members)), trajectory, latents

    def judge(self, frames: Sequence[np.ndarray], prompt: str) -> list[float | None]:
        """The rewards of some videos of a prompt."""
        return evaluate(self.reward, frames, [prompt] * len(frames), fps=self.config.fps).scores

    def update(self, advantages: torch.Tensor, counted: torch.Tensor) -> None:
        """One update on the step's videos: ``advantages`` (N,), ``counted`` (N,) bool."""
        config, sizes = self.config, [len(trajectory.seeds) for _, trajectory, _ in self.calls]
        total = max(int(counted.sum()), 1) * config.num_trained_steps
        shares = zip(self.calls, advantages.split(sizes), counted.split(sizes), strict=True)
        for (prompt, trajectory, _), gain, mask in shares:
            # Groups of equal rewards go through the transformer too, for nothing. [saved: learner/experience.py]
            for record in trajectory.records[: config.num_trained_steps]:
                texts = self.pipe.encode_prompt(  # once more for every step [saved: sampler/embeddings.py]
                    [prompt] * len(gain),
                    [config.negative_prompt] * len(gain),
                    config.guided,
                    max_sequence_length=config.max_sequence_length,
                    device=self.device,
                )
                velocity = self.velocity(record, *texts)  # (R, C, T, H, W), with gradient
                mean, std = self.pipe.scheduler.transition_at(record.step, record.latents, velocity)
                # How much likelier is the step that was drawn than when it was drawn? The difference of two
                # log-probs keeps one digit of a change of 1e-6 in fp32. [saved: maths/kernels.py, log_ratio]
                ratio = torch.exp(log_prob(record.next_latents, mean, std) - record.log_prob)  # (R,)
                clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
                loss = self.weights[record.step] * torch.maximum(-gain * ratio, -gain * clipped)
                if config.beta:  # and not too far from the model without adapter
                    with torch.no_grad(), adapter_off(self.transformer):
                        reference = self.velocity(record, *texts)
                    loss = loss + config.beta * (velocity - reference).square().flatten(1).mean(1)
                ((loss * mask).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def velocity(self, record: StepRecord, positive: torch.Tensor, negative: torch.Tensor | None) -> torch.Tensor:
        """The transformer's answer for the latents of a recorded step, in two calls. [saved: sampler/policy.py]"""
        times = record.timestep.to(record.latents.device).expand(len(record.latents))

        def call(text: torch.Tensor) -> torch.Tensor:
            inputs = {"hidden_states": record.latents, "timestep": times, "encoder_hidden_states": text}
            return self.transformer(**inputs, return_dict=False)[0]

        if not self.config.guided or negative is None:
            return call(positive)
        cond, uncond = call(positive), call(negative)
        return uncond + self.config.guidance_scale * (cond - uncond)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=4, help="steps to train (default: %(default)s)")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Trains the mini generator and prints the reward of every step."""
    steps = parser().parse_args(arguments).steps
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    # The preset weighs advantages of each reward; here the mean of the rewards counts.
    config = FlowGRPOConfig.from_dict(located_settings({**read_yaml(MINI), "reward_combination": "scores"}))
    run = PlainFlowGRPO(config, build_reward(config.rewards))
    for number in range(1, steps + 1):
        began = time.perf_counter()
        rewards = [score for score in run.step() if score is not None]
        mean = sum(rewards) / max(len(rewards), 1)
        seconds = time.perf_counter() - began
        print(f"step {number}: reward {mean:.4f} ({len(rewards)} videos, {seconds:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
