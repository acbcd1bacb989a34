"""Forwards of the transformer in a step, one video and one side of guidance each: planned before, counted after."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.sampling import GroupSampler, prefix_videos
from cac_align.flow_grpo.sampler.rollout import split_calls
from cac_align.pipelines import videos_passed

if TYPE_CHECKING:
    from diffusers import ModelMixin


class ForwardCount:
    """Counts the videos that pass through a transformer from now on: a batch of both sides of guidance counts twice,
    and what a checkpointed block recomputes does not.

    Args:
        transformers: any modules that take ``hidden_states`` (B, ...), by name or first; counted together.
    """

    def __init__(self, *transformers: ModelMixin) -> None:
        self.videos = 0
        for transformer in transformers:
            transformer.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.videos += videos_passed(args, kwargs)

    def taken(self) -> float:
        """The videos counted since the last call of this method."""
        found, self.videos = self.videos, 0
        return float(found)


def sampling_forwards(config: FlowGRPOConfig, *, world_size: int = 1) -> float:
    """Forwards that draw the videos of a step, over all processes; the mean over the windows there can be.

    Args:
        config: settings.
        world_size: processes. A group that two of them share is begun by both.
    """
    sides = 2 if config.guided else 1
    whole = config.num_inference_steps * config.samples_per_step
    if not config.shares_prefix:
        return float(sides * whole)
    starts = config.window.starts(config.num_inference_steps - (0 if config.last_step_noise else 1))
    return sides * (whole - fmean(starts) * _spared(config, world_size))


def _spared(config: FlowGRPOConfig, world_size: int) -> int:
    """Videos of a step that begin where their window does, over all processes."""
    sampler = GroupSampler(config.groups_per_step, config.groups_per_step, config.num_generations, config.seed)
    spared = 0
    for rank in range(world_size):
        groups: dict[int, list[int]] = {}
        for call in split_calls(sampler.rank_samples(0, 0, rank, world_size), config.sample_batch_size):
            groups.setdefault(call[0].group, []).append(len(call))
        spared += sum(sum(calls) - prefix_videos(calls, config.shared_prefix) for calls in groups.values())
    return spared
