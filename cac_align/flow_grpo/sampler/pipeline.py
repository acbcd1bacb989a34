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
    """Raises ValueError unless a pipeline has a flow-matching scheduler and one transformer, or the two experts of Wan
    2.2 A14B with the timestep at which they change.
    """
    name = type(pipe).__name__
    config = getattr(pipe, "config", {})
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None or getattr(pipe, "transformer", None) is None:
        raise ValueError(f"{name} lacks a transformer or a scheduler; pass a diffusers flow-matching pipeline")
    boundary, second = config.get("boundary_ratio"), getattr(pipe, "transformer_2", None)
    if (boundary is None) != (second is None):
        has = "transformer_2 and no boundary_ratio, so that it is never called"
        if second is None:
            has = f"boundary_ratio={boundary} and no transformer_2 for the timesteps below"
        raise ValueError(f"{name} has {has}; load the pipeline whole, with both experts")
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
