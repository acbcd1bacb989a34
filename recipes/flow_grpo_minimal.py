"""Flow-GRPO in one file, to be read from top to bottom: the trainer of ``flow_grpo.py`` without its savings and checks.

    python recipes/flow_grpo_minimal.py                 # the minis on one CPU core: four steps, one or two minutes

``[saved: FILE]`` stands where this file pays for what the trainer saves, below ``cac_align/flow_grpo``. Left out:
several processes and other objectives (``learner/learner.py``), checkpoints (``learner/checkpoint.py``), averaged
weights and their export (``trainer.py``), and evaluations that stop a run which cheats the judge (``evaluation.py``).
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: threads of a small model wait for each other

import torch

from cac_align.flow_grpo import loading, run_prompts
from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import build_reward
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.maths.kernels import log_prob
from cac_align.flow_grpo.maths.sampling import GroupSampler
from cac_align.flow_grpo.sampler.rollout import split_calls
from cac_align.flow_grpo.sampler.trajectory import StepRecord, Trajectory
from cac_align.pipelines import Pipeline
from cac_align.rewards.base import Reward
from reward_model.engine.settings import read_yaml
from reward_model.video.layouts import split_frames

MINI = Path(__file__).resolve().parent / "configs" / "flow_grpo" / "mini.yaml"
SIZES = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")


class PlainFlowGRPO:
    """A run of objective ``grpo``; every number is the trainer's for the same settings, up to rounding."""

    def __init__(
        self, config: FlowGRPOConfig, reward: Reward, pipe: Pipeline | None = None, prompts: list[str] | None = None
    ) -> None:
        if (config.objective, config.kl_space, config.advantage_std) != ("grpo", "velocity", "group"):
            raise ValueError("the plain loop knows objective grpo with KL of velocities and groups' std only")
        self.config, self.reward, self.done = config, reward, 0
        self.pipe = pipe or loading.load_pipeline(config)
        if self.pipe.config.get("boundary_ratio") or self.pipe.config.get("expand_timesteps"):
            raise ValueError("the plain loop knows one transformer and one timestep a video, as in Wan 2.1")
        loading.prepare_pipeline(self.pipe, config)  # freezes everything and puts a LoRA on the transformer
        self.pipe.to("cuda" if torch.cuda.is_available() else "cpu")  # text encoder too [saved: sampler/embeddings.py]
        self.transformer = self.pipe.transformer
        # This scheduler draws its steps from Gaussians, so that the likelihood of a step can be computed and raised.
        base, device = self.pipe.scheduler, self.transformer.device
        self.pipe.scheduler, self.weights = loading.stochastic_scheduler(base, config, device)
        self.prompts, _ = run_prompts.prompt_lists(config, prompts, [])
        self.sampler = GroupSampler(len(self.prompts), config.groups_per_step, config.num_generations, config.seed)
        self.parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        decay, eps = config.weight_decay, config.adam_eps
        self.optimizer = torch.optim.AdamW(self.parameters, config.learning_rate, eps=eps, weight_decay=decay)

    def step(self) -> list[float | None]:
        """Draws G groups of M videos, has them judged and updates once; returns the rewards, None if not judged."""
        config, (epoch, place), scheduler = self.config, self.sampler.locate(self.done), self.pipe.scheduler
        self.calls: list[tuple[str, Trajectory]] = []
        scores: list[float | None] = []
        for members in split_calls(self.sampler.step_samples(epoch, place), config.sample_batch_size):
            index, seeds = members[0].prompt_index, [member.seed for member in members]
            where = {"seed": config.seed, "epoch": epoch, "prompt_id": index, "iteration": self.done}
            window = config.window.steps(scheduler.num_stochastic_steps, **where)  # the steps that are noisy
            starts = [member.group_seed for member in members] if config.same_initial_noise else seeds
            positive, negative = self.texts(self.prompts[index], len(members))
            with scheduler.rollout(seeds, window) as trajectory:  # keeps the noisy steps, on the device
                output = self.pipe(  # calls the transformer twice at every step where there is guidance
                    prompt_embeds=positive,  # [saved: sampler/policy.py]
                    negative_prompt_embeds=negative,
                    generator=[torch.Generator().manual_seed(start) for start in starts],
                    output_type="np",
                    **{size: getattr(config, size) for size in SIZES},
                )
            self.calls.append((self.prompts[index], trajectory))
            # Nothing is drawn while the judge works. [saved: judging/reward_bus.py]
            videos = split_frames(output, len(members))
            scores += self.reward(videos, [self.prompts[index]] * len(videos), fps=config.fps)
        # By how many standard deviations is a video better than the others of its prompt? Only that is learned from.
        rewards = torch.tensor([float("nan") if score is None else score for score in scores], dtype=torch.float64)
        rewards = rewards.view(-1, config.num_generations)  # (G, M)
        centred = rewards - rewards.nanmean(1, keepdim=True)  # (G, M)
        std = centred.square().nanmean(1, keepdim=True).sqrt()  # (G, 1)
        limit = config.advantage_clip or float("inf")
        advantages = (centred / (std + config.advantage_eps)).clamp(-limit, limit)  # (G, M)
        advantages[std.squeeze(1) < 1e-9] = float("nan")  # a group of equal rewards prefers none of its videos
        self.update(advantages.flatten().float().to(self.transformer.device))
        self.done += 1
        return scores

    def update(self, advantages: torch.Tensor) -> None:
        """One step of AdamW; ``advantages`` (N,) of the videos of all calls, NaN where one does not count."""
        config, counted = self.config, advantages.isfinite()
        share = 1 / (max(int(counted.sum()), 1) * config.num_trained_steps)  # of one step of one video in the loss
        sizes = [len(trajectory.seeds) for _, trajectory in self.calls]
        rows = zip(self.calls, advantages.nan_to_num().split(sizes), counted.split(sizes), strict=True)
        for (prompt, trajectory), gain, mask in rows:  # gain, mask: (R,)
            # Videos that do not count go through the transformer too. [saved: learner/experience.py]
            for record in trajectory.records[: config.num_trained_steps]:
                velocity = self.velocity(record, prompt)  # (R, C, T, H, W)
                mean, std = self.pipe.scheduler.transition_at(record.step, record.latents, velocity)
                # How much likelier has the step become? A difference of log-probs keeps one digit of a change of 1e-6
                # in fp32. [saved: maths/kernels.py]
                ratio = torch.exp(log_prob(record.next_latents, mean, std) - record.log_prob)  # (R,)
                clipped = ratio.clamp(1 - config.clip_range, 1 + config.clip_range)
                # Beyond the clip range a gain is no longer counted, a loss still is.
                loss = self.weights[record.step] * torch.maximum(-gain * ratio, -gain * clipped)  # (R,)
                if config.beta:  # not too far from the model without the LoRA
                    with torch.no_grad(), adapter_off(self.transformer):
                        reference = self.velocity(record, prompt)
                    loss = loss + config.beta * (velocity - reference).square().flatten(1).mean(1)
                ((loss * mask).sum() * share).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def velocity(self, record: StepRecord, prompt: str) -> torch.Tensor:
        """(R, C, T, H, W): the transformer's answer at a recorded step, one call for each text."""
        times = record.timestep.to(record.latents.device).expand(len(record.latents))
        texts = [text for text in self.texts(prompt, len(times)) if text is not None]
        answers = [self.transformer(record.latents, times, text, return_dict=False)[0] for text in texts]
        conditional, unconditional = answers[0], answers[-1]  # the same without guidance
        return unconditional + self.config.guidance_scale * (conditional - unconditional)

    @torch.no_grad()
    def texts(self, prompt: str, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(R, L, D) of the prompt and of the negative prompt, encoded at every call. [saved: sampler/embeddings.py]"""
        config, prompts, negatives = self.config, [prompt] * count, [self.config.negative_prompt] * count
        length, device = config.max_sequence_length, self.transformer.device
        return self.pipe.encode_prompt(prompts, negatives, config.guided, max_sequence_length=length, device=device)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=4, help="steps to train (default: %(default)s)")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Trains the mini generator and prints the mean reward of every step."""
    # The preset weighs advantages of each reward; here the mean of the rewards counts.
    config = FlowGRPOConfig.from_dict(loading.located_settings({**read_yaml(MINI), "reward_combination": "scores"}))
    run = PlainFlowGRPO(config, build_reward(config.rewards))
    for number in range(1, parser().parse_args(arguments).steps + 1):
        rewards = [reward for reward in run.step() if reward is not None]
        print(f"step {number}: reward {sum(rewards) / max(len(rewards), 1):.4f} ({len(rewards)} videos)", flush=True)


if __name__ == "__main__":
    main()
