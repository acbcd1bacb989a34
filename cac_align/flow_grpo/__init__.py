"""Flow-GRPO: online reinforcement learning of diffusers flow-matching pipelines.

``recipes/flow_grpo_minimal.py`` is all of it in one file. Here :mod:`maths` holds the equations as pure functions;
:mod:`sampler` draws and records with the unmodified pipeline, in which :class:`FlowSDEScheduler` takes the place of
``pipe.scheduler``; :mod:`judging` has the videos judged and watches for hacking; :mod:`learner` updates the adapter;
:mod:`trainer` runs the steps, with settings (:mod:`config`), :mod:`loading`, :mod:`evaluation` and :mod:`run_log`.

Example:
    >>> from cac_align.flow_grpo import sde_sampling                                     # doctest: +SKIP
    >>> with sde_sampling(pipe, kernel="cps", noise_level=0.7) as scheduler:             # doctest: +SKIP
    ...     with scheduler.rollout(seeds=[1, 2], windows=(2, 3)) as trajectory:
    ...         videos = pipe(["a dog catches a ball"] * 2).frames
    >>> [record.log_prob for record in trajectory]                                       # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "FlowSDEScheduler": "cac_align.flow_grpo.sampler.scheduler",
    "GroupSampler": "cac_align.flow_grpo.maths.sampling",
    "SDEWindow": "cac_align.flow_grpo.maths.sampling",
    "Schedule": "cac_align.flow_grpo.maths.schedule",
    "StepRecord": "cac_align.flow_grpo.sampler.trajectory",
    "Trajectory": "cac_align.flow_grpo.sampler.trajectory",
    "check_pipeline": "cac_align.flow_grpo.sampler.pipeline",
    "load_lora": "cac_align.flow_grpo.learner.lora_files",
    "compute_advantages": "cac_align.flow_grpo.maths.advantages",
    "log_prob": "cac_align.flow_grpo.maths.kernels",
    "read_schedule": "cac_align.flow_grpo.maths.schedule",
    "sde_sampling": "cac_align.flow_grpo.sampler.pipeline",
    "transition": "cac_align.flow_grpo.maths.kernels",
}

__all__ = [
    "FlowSDEScheduler",
    "GroupSampler",
    "SDEWindow",
    "Schedule",
    "StepRecord",
    "Trajectory",
    "check_pipeline",
    "compute_advantages",
    "load_lora",
    "log_prob",
    "read_schedule",
    "sde_sampling",
    "transition",
]

if TYPE_CHECKING:
    from cac_align.flow_grpo.learner.lora_files import load_lora
    from cac_align.flow_grpo.maths.advantages import compute_advantages
    from cac_align.flow_grpo.maths.kernels import log_prob, transition
    from cac_align.flow_grpo.maths.sampling import GroupSampler, SDEWindow
    from cac_align.flow_grpo.maths.schedule import Schedule, read_schedule
    from cac_align.flow_grpo.sampler.pipeline import check_pipeline, sde_sampling
    from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
    from cac_align.flow_grpo.sampler.trajectory import StepRecord, Trajectory

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
