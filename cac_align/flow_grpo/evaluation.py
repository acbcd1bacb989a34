"""Evaluation of a run: the same prompts and first latents each time, by the sampler users will run, with canaries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.canaries import WATCHED, canaries, collapsed
from cac_align.flow_grpo.judging.reward_bus import RewardBus
from cac_align.flow_grpo.learner.experience import shares_at_limit
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.flow_grpo.sampler.experts import batched_pipeline, drawing_arguments
from cac_align.flow_grpo.sampler.rollout import image_argument, negative_prompt
from cac_align.flow_grpo.training_settings import TrainingSettings
from cac_align.pipelines import Pipeline
from cac_align.rewards.base import Evaluation
from reward_model.statistics.significance import paired_bootstrap, paired_permutation
from reward_model.video.layouts import split_frames


@dataclass
class EvaluatedVideo:
    """One video of an evaluation; ``index`` is its prompt's place in the list."""

    index: int
    frames: np.ndarray
    answer: Evaluation

    @property
    def score(self) -> float | None:
        return self.answer.scores[0]

    def numbers(self) -> dict[str, float | None]:
        """Reward, its parts and the canaries."""
        parts = {f"part/{name}": values[0] for name, values in self.answer.parts.items()}
        return {"reward": self.score, **parts, **canaries(self.frames)}


def evaluation_indices(num_prompts: int, rank: int, world_size: int) -> list[int]:
    """The prompts of a rank. All ranks get equally many, because a sharded model needs all of them in every forward:
    where they do not divide, the last ones draw a prompt that another rank draws too.
    """
    rounds = math.ceil(num_prompts / world_size)
    return [min(k * world_size + rank, num_prompts - 1) for k in range(rounds)]


@torch.no_grad()
def evaluate_prompts(
    pipe: Pipeline,
    texts: TextEmbeddings,
    prompts: Sequence[str],
    indices: Sequence[int],
    bus: RewardBus,
    config: FlowGRPOConfig,
    images: Mapping[str, Any] | None = None,
) -> list[EvaluatedVideo]:
    """Draws and judges one video for each index, with the pipeline's own deterministic scheduler.

    A prompt's latents depend on ``eval_seed`` and its place alone, so base model and every later one start alike.
    """
    drawn = []
    for place, index in enumerate(indices):
        seed, steps = derive_seed(config.eval_seed, "evaluation", index), config.eval_num_inference_steps
        drawn.append(
            draw_video(pipe, texts, prompts[index], config, seed=seed, num_inference_steps=steps, images=images)
        )
        bus.submit(place, drawn[-1:], [prompts[index]], fps=config.fps)
    answers = bus.collect()
    return [EvaluatedVideo(index, drawn[place], answers[place]) for place, index in enumerate(indices)]


@torch.no_grad()
def draw_video(
    pipe: Pipeline,
    texts: TextEmbeddings,
    prompt: str,
    config: TrainingSettings,
    *,
    seed: int,
    num_inference_steps: int | None = None,
    images: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """One video as the pipeline draws it in training, (T, H, W, 3) uint8.

    Args:
        pipe: with its adapter, without its text encoder.
        texts: embeddings of the prompt and of the negative prompt.
        prompt: text.
        config: size, guidance, steps.
        seed: seed of its first latents.
        num_inference_steps: steps; None or 0: those of the settings.
        images: first frame by prompt, for image-to-video.
    """
    condition = texts.condition([prompt], negative_prompt(config), pipe.transformer.device)
    with batched_pipeline(pipe, condition.negative, config.batched_guidance):
        output = pipe(
            **image_argument(images or {}, prompt),
            prompt_embeds=condition.positive,
            negative_prompt_embeds=condition.negative,
            **drawing_arguments(config) | ({"num_inference_steps": num_inference_steps} if num_inference_steps else {}),
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        )
    return split_frames(output, 1)[0]


def summarise(rows: Mapping[int, Mapping[str, float | None]]) -> dict[str, float]:
    """Means over prompts of :meth:`EvaluatedVideo.numbers`, and ``judge_failure_rate``.

    ``reward`` is absent where no video could be judged. ``saturated`` is the share of videos at the limit of a clipped
    reward, such as that of motion; of several the largest. At 1 the reward tells no more.
    """
    names = dict.fromkeys(name for row in rows.values() for name in row)
    found: dict[str, float] = {}
    for name in names:
        known = [v for row in rows.values() if (v := row.get(name)) is not None]
        if known:
            found[name] = math.fsum(known) / len(known)
    failed = sum(row.get("reward") is None for row in rows.values())
    limits = shares_at_limit(found)
    if limits:
        found["saturated"] = max(limits.values())
    return {**found, "judge_failure_rate": failed / max(len(rows), 1)}


def describe_change(
    history: Sequence[Mapping[str, float]], rewards: Mapping[str, Sequence[float | None]], *, level: float = 0.05
) -> str:
    """A sentence or two on what a run did to the reward of the evaluation prompts, for the end of a run.

    Args:
        history: :func:`summarise` of every evaluation, the base model's first.
        rewards: rewards of each prompt, ``base`` and ``last``; None if a video could not be judged. Base and trained
            model start from the same latents, so prompts are compared in pairs.
        level: level of the sign-flip test that says whether a difference is more than noise.
    """
    known = [entry for entry in history if "reward" in entry]
    if len(known) < 2:
        return "No two evaluations to compare: set eval_prompts to see what a run does to the reward."
    before, after = known[0]["reward"], known[-1]["reward"]
    said = f"Reward on the evaluation prompts: {before:.4f} (base), {after:.4f} after step {known[-1]['step']:.0f}."
    pairs = [(b, a) for b, a in zip(rewards.get("base", []), rewards.get("last", []), strict=False)]
    both = [(b, a) for b, a in pairs if b is not None and a is not None]
    if len(both) < 2:
        return f"{said} One prompt or none can be compared, which tells nothing."
    base, last = np.array(both, dtype=float).T
    found = paired_bootstrap(lambda values, _: float(values.mean()), last, base)
    chance, interval = paired_permutation(last, base), found.interval
    said += f"\nDifference {found.value:+.4f} over {len(both)} prompts"
    if interval is not None:
        said += f", 95 % interval {interval.low:+.4f} to {interval.high:+.4f}"
    said += f" (p = {chance:.2g}): "
    if chance >= level:
        return f"{said}noise at {len(both)} prompts; more prompts (eval_num_prompts) or more steps would tell."
    return said + ("the reward rose." if found.value > 0 else "the reward FELL.")


def collapsed_canaries(history: Sequence[Mapping[str, float]], config: FlowGRPOConfig) -> tuple[str, ...]:
    """The canaries that fell while the reward rose, by the limits of the settings; empty while all is well.

    Args:
        history: :func:`summarise` of every evaluation so far, the base model's first. Those in which nothing could be
            judged are passed over.
        config: ``canary_min_ratio``, ``canary_max_failure_rate``, ``canary_patience``.
    """
    watched = ("reward", "judge_failure_rate", *WATCHED)
    past = [{k: v for k, v in entry.items() if k in watched} for entry in history if "reward" in entry]
    return collapsed(
        past,
        min_ratio=config.canary_min_ratio,
        max_failure_rate=config.canary_max_failure_rate,
        patience=config.canary_patience,
    )
