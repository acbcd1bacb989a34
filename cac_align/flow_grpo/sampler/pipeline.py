"""Checks that a pipeline can be sampled, and puts the scheduler in and takes it out again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cac_align.flow_grpo.maths.schedule import check_flow_matching
from cac_align.pipelines import Pipeline

if TYPE_CHECKING:
    from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler


def check_pipeline(pipe: Pipeline) -> None:
    """Raises ValueError unless a pipeline has one transformer, one timestep per sample and a flow-matching scheduler.

    Wan 2.2 comes in two kinds this excludes: two experts, of which one never sees the noisy half of the steps
    (``boundary_ratio``), and timesteps per token (``expand_timesteps``).
    """
    name = type(pipe).__name__
    config = getattr(pipe, "config", {})
    if config.get("boundary_ratio") is not None or getattr(pipe, "transformer_2", None) is not None:
        raise ValueError(
            f"{name} has two experts (boundary_ratio={config.get('boundary_ratio')}): Wan 2.2 A14B is not supported, "
            "because one LoRA would be trained on half of the steps; use a Wan 2.1 checkpoint"
        )
    if config.get("expand_timesteps"):
        raise ValueError(
            f"{name} has expand_timesteps=True: Wan 2.2 5B, whose timestep differs between tokens, is not supported; "
            "use a Wan 2.1 checkpoint"
        )
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None or getattr(pipe, "transformer", None) is None:
        raise ValueError(f"{name} lacks a transformer or a scheduler; pass a diffusers flow-matching pipeline")
    check_flow_matching(scheduler)


@contextmanager
def sde_sampling(pipe: Pipeline, **options: Any) -> Iterator[FlowSDEScheduler]:
    """Puts a :class:`FlowSDEScheduler` in place of ``pipe.scheduler``, and always restores the old one.

    Args:
        pipe: see :func:`check_pipeline`.
        **options: arguments of the scheduler.

    Example:
        >>> with sde_sampling(pipe, kernel="cps", noise_level=0.7) as scheduler:             # doctest: +SKIP
        ...     with scheduler.rollout(seeds=[0], windows=(1, 2)) as trajectory:
        ...         frames = pipe("a dog catches a ball", num_inference_steps=20).frames
    """
    from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler

    check_pipeline(pipe)
    before = pipe.scheduler
    pipe.scheduler = FlowSDEScheduler.from_scheduler(before, **options)
    try:
        yield pipe.scheduler
    finally:
        pipe.scheduler = before
