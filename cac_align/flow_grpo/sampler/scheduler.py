"""A diffusers scheduler that samples the stochastic steps of Flow-GRPO, so that no pipeline needs a fork.

It stands in front of the scheduler a pipeline came with, which keeps deciding the sigmas: shift, dynamic shifting and
changes of diffusers are its own. Four things are added: the kernel inside the SDE window, noise of its own (most
pipelines pass no generator), a record of each stochastic step, and timesteps that are exactly 1000 * sigma, not
truncated to integers, so that sampling and training condition the transformer on one and the same value.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from cac_align.flow_grpo.maths.kernels import WITH_NOISE_LEVEL, Transition, check_kernel, log_prob, transition
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.maths.schedule import (
    Schedule,
    build_base,
    check_flow_matching,
    describe_base,
    num_stochastic_steps,
    read_schedule,
)
from cac_align.flow_grpo.sampler.trajectory import StepRecord, Trajectory, Windows, step_noise


class FlowSDEScheduler(SchedulerMixin, ConfigMixin):
    """Stochastic sampling for unmodified flow-matching pipelines.

    Make one with :meth:`from_scheduler`. Inside :meth:`rollout` it draws with given seeds and records; outside it draws
    with seeds of its own, a function of ``seed`` and of how often the pipeline was called, and records nothing.

    Args:
        base_class: name of the diffusers scheduler that decides the sigmas.
        base_config: its configuration.
        live_shift: its shift, where ``set_shift`` has changed it.
        kernel: see :mod:`cac_align.flow_grpo.maths.kernels`.
        noise_level: noise level of ``flow``, ``dance``, ``cps`` and ``precise``; None for the others, which have none.
        last_step_noise: keep the noise of the last step (``wan_linear``, ``flow``, ``dance``).
        integer_timesteps: int64 timesteps, as the public Flow-GRPO code has them.
        ode_solver: ``euler``, or ``base``: steps outside the window are those of the base scheduler, a multistep solver
            for UniPC, which restarts after the window.
        record_means: keep the mean of each step, which ``guard`` and ``dppo`` need.
        log_prob_constants: False records log-probs without constants, see
            :func:`~cac_align.flow_grpo.maths.kernels.log_prob`.
        seed: seed of the noise outside :meth:`rollout`.

    Raises:
        ValueError: an unknown kernel, solver or base, or a noise level the kernel does not have.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        >>> scheduler = FlowSDEScheduler.from_scheduler(euler, kernel="flow", noise_level=0.3)
        >>> scheduler.set_timesteps(20)
        >>> with scheduler.rollout(seeds=[7], windows=(0,)) as trajectory:
        ...     x = torch.zeros(1, 16, 5, 2, 2)
        ...     x = scheduler.step(torch.ones_like(x), scheduler.timesteps[0], x).prev_sample
        >>> trajectory.records[0].step, trajectory.records[0].log_prob.shape
        (0, torch.Size([1]))
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        base_class: str = "FlowMatchEulerDiscreteScheduler",
        base_config: dict[str, Any] | None = None,
        live_shift: float | None = None,
        kernel: str = "flow",
        noise_level: float | None = None,
        last_step_noise: bool = False,
        integer_timesteps: bool = False,
        ode_solver: str = "euler",
        record_means: bool = True,
        seed: int = 0,
        log_prob_constants: bool = True,
    ) -> None:
        check_kernel(kernel, noise_level)
        if kernel not in WITH_NOISE_LEVEL and noise_level is not None:
            raise ValueError(
                f"noise_level={noise_level} has no effect on kernel {kernel!r}, which does not take one; "
                f"pass noise_level=None, or choose one of {', '.join(WITH_NOISE_LEVEL)}"
            )
        if ode_solver not in ("euler", "base"):
            raise ValueError(f"ode_solver={ode_solver!r} must be 'euler' or 'base'")
        self.base = build_base(base_class, base_config or {}, live_shift)
        self.schedule: Schedule | None = None
        self.sigmas: torch.Tensor = self.base.sigmas
        self.timesteps: torch.Tensor = self.base.timesteps
        self.num_inference_steps: int | None = None
        self._solver: Any = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._trajectory: Trajectory | None = None
        #: Steps that the next call of the pipeline takes: the first, and the one it stops before (None: to the end).
        self._part: tuple[int, int | None] = (0, None)
        self._calls = self._num_noisy = 0

    # --- construction -------------------------------------------------------------------------------------------------

    @classmethod
    def from_scheduler(cls, scheduler: SchedulerMixin, **options: Any) -> FlowSDEScheduler:
        """Builds one with sigmas bit-identical to ``scheduler``'s, including a shift set later by ``set_shift``.

        Args:
            scheduler: a flow-matching scheduler, usually ``pipe.scheduler``; it is not changed. Of a
                :class:`FlowSDEScheduler` the base scheduler is used.
            **options: arguments of the constructor, ``kernel`` and ``noise_level`` above all.
        """
        if isinstance(scheduler, cls):
            scheduler = scheduler.base
        check_flow_matching(scheduler)
        return cls(**describe_base(scheduler), **options)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As for every diffusers scheduler; ``config`` may also be that of another flow-matching scheduler, if it says
        whose it is (``_class_name``: those loaded from files do)."""
        own = set(cls._get_init_keys(cls)) - {"self"}
        if isinstance(config, Mapping) and "base_class" in config:
            config = {k: v for k, v in config.items() if k in own or k in ("_class_name", "_diffusers_version")}
        elif isinstance(config, Mapping) and config:
            name = config.get("_class_name")
            if name is None:
                raise ValueError(
                    "this config does not say which scheduler it belongs to; "
                    "use FlowSDEScheduler.from_scheduler(pipe.scheduler, kernel=...)"
                )
            base = {k: v for k, v in config.items() if not k.startswith("_")}
            config = {"base_class": name, "base_config": base}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @property
    def config(self) -> FrozenDict:
        """Own settings, and behind them those of the base scheduler, which pipelines ask for."""
        return FrozenDict({**self.base.config, **self._internal_dict}) if "base" in vars(self) else self._internal_dict

    # --- the protocol of diffusers ------------------------------------------------------------------------------------

    @property
    def step_index(self) -> int | None:
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The step a pipeline starts with."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """The input as it is: flow matching does not scale it."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | torch.Tensor | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        """Has the base scheduler decide the sigmas; the arguments are its own.

        Raises:
            ValueError: if sigmas the kernels cannot use, a window that holds a step without noise or outside the part
                of the schedule that is drawn, or a second pipeline call within one rollout.
        """
        if self._trajectory is not None and self._trajectory.records:
            raise ValueError("one rollout holds one call of the pipeline; open another rollout() for the next call")
        passed = {"sigmas": sigmas, "mu": mu, "timesteps": timesteps, "num_inference_steps": num_inference_steps}
        self.base.set_timesteps(device=device, **{k: v for k, v in passed.items() if v is not None})
        self.schedule = schedule = read_schedule(self.base)
        taken = self._taken()
        self.sigmas = self.base.sigmas[taken.start : taken.stop + 1].to("cpu")
        integer = self._option("integer_timesteps")
        self.timesteps = torch.stack([schedule.timestep(k, integer=integer) for k in taken]).to(device)
        self.num_inference_steps = schedule.num_steps
        self._step_index = self._begin_index = self._solver = None
        self._calls += 1
        self._num_noisy = num_stochastic_steps(schedule, self._option("kernel"), **self._noise_options())
        if self._trajectory is not None:
            self._open(self._trajectory)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor | float,
        sample: torch.Tensor,
        return_dict: bool = True,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """Draws the next latents: by the kernel inside the window, by the ODE outside.

        Args:
            model_output: (B, ...) velocity, guidance folded in.
            timestep: one of ``timesteps``; read only for the first step, and only if no begin index was set.
            sample: (B, ...) latents.
            generator: of the noise, one or one per sample, as in diffusers' schedulers; by default the seeds of this
                scheduler. Within :meth:`rollout` its seeds decide, whatever generator a pipeline hands on: a record
                must not depend on how far a generator has run.

        Returns:
            The next latents, in the dtype of ``sample``.
        """
        index = self._advance(timestep)
        rows = self._stochastic_rows(index, len(sample))
        whole = len(rows) == len(sample)
        if not whole:
            following = self._deterministic(index, model_output, sample)
        if rows:
            latents, output = (sample, model_output) if whole else (sample[rows], model_output[rows])
            drawn = self._draw(index, rows, latents.detach(), output.detach(), generator)
            if whole:
                following = drawn.to(sample.dtype)
            else:
                following[rows] = drawn.to(sample.dtype)
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def __len__(self) -> int:
        return int(self.base.config.num_train_timesteps)

    # --- what training uses -------------------------------------------------------------------------------------------

    @contextmanager
    def rollout(
        self, seeds: Sequence[int], windows: Windows = None, *, part: tuple[int, int | None] = (0, None)
    ) -> Iterator[Trajectory]:
        """Around one call of the pipeline: draws with these seeds and records the stochastic steps.

        The noise of a sample at a step depends on its seed and the step alone: not on its batch mates, the window, the
        device or other samples.

        Args:
            seeds: one per sample of the batch.
            windows: the stochastic steps, one tuple for all samples or one tuple per sample; by default every step that
                has noise.
            part: the first step of the schedule that the pipeline takes, and the step it stops before (None: it goes on
                to the end). Steps keep their numbers. A pipeline that begins later is given the ``latents`` of that
                step; one that stops early returns those it came to. It must set its timesteps within this block, as
                pipelines do.

        Yields:
            The trajectory, filled while the pipeline runs.
        """
        if self._trajectory is not None:
            raise ValueError("a rollout is open already; close it before the next one")
        self._trajectory, self._part = Trajectory.planned(seeds, windows), part
        try:
            yield self._trajectory
        finally:
            self._trajectory, self._part = None, (0, None)

    def transition_at(self, step: int, sample: torch.Tensor, velocity: torch.Tensor) -> Transition:
        """Mean and std of a step under this kernel: what :meth:`step` drew from, and what training recomputes.

        Args:
            step: index into the schedule.
            sample, velocity: (B, ...); gradients pass through ``velocity``.
        """
        schedule = self._ready()
        return transition(
            self._option("kernel"),
            sample,
            velocity,
            schedule.sigmas[step],
            schedule.sigmas[step + 1],
            sigma_max=schedule.sigma_max,
            **self._noise_options(),
        )

    @property
    def num_stochastic_steps(self) -> int:
        """Steps with noise in the current schedule, counted from the first: usually all but one."""
        self._ready()
        return self._num_noisy

    # --- inside -------------------------------------------------------------------------------------------------------

    def _option(self, name: str) -> Any:
        return self._internal_dict[name]

    def _noise_options(self) -> dict[str, Any]:
        return {name: self._option(name) for name in ("noise_level", "last_step_noise")}

    def _ready(self) -> Schedule:
        if self.schedule is None:
            raise ValueError("the scheduler has no sigmas yet; call set_timesteps(num_inference_steps) first")
        return self.schedule

    def _taken(self) -> range:
        """The steps of the schedule that the present call of the pipeline takes."""
        first, stop = self._part
        steps = range(self._ready().num_steps)[first:stop]
        if first < 0 or not steps or (stop is not None and steps.stop != stop):
            raise ValueError(f"part={self._part} must lie within the {self._ready().num_steps} steps of the schedule")
        return steps

    def _open(self, trajectory: Trajectory) -> None:
        """Checks the windows of a rollout against the schedule, before any step is drawn."""
        trajectory.check(self._num_noisy)
        taken = self._taken()
        outside = sorted({step for window in trajectory.windows for step in window or () if step not in taken})
        if outside:
            raise ValueError(
                f"window step {outside[0]} lies outside part={self._part} of the schedule, which is all that this "
                "rollout draws; choose another window or part"
            )
        if self._option("ode_solver") == "base" and len(set(trajectory.windows)) > 1:
            raise ValueError("ode_solver='base' needs one window for the whole batch; sample groups apart")
        trajectory.fingerprint = self._ready().fingerprint

    def _advance(self, timestep: torch.Tensor | float) -> int:
        schedule = self._ready()
        if self._step_index is None:
            begin = self._begin_index if self._begin_index is not None else self._find(timestep)
            self._step_index = self._part[0] + begin
        if self._step_index >= schedule.num_steps:
            raise ValueError(f"all {schedule.num_steps} steps are done; call set_timesteps before the next run")
        self._step_index += 1
        return self._step_index - 1

    def _find(self, timestep: torch.Tensor | float) -> int:
        """The step whose timestep a pipeline passed; the first, where integer timesteps repeat."""
        places = (self.timesteps.cpu() == torch.as_tensor(timestep).cpu()).nonzero()
        if not len(places):
            raise ValueError(f"timestep {timestep} is not in the schedule; pass one of scheduler.timesteps")
        return int(places[0])

    def _stochastic_rows(self, index: int, batch: int) -> list[int]:
        trajectory = self._trajectory
        if trajectory is None:
            return list(range(batch)) if index < self._num_noisy else []
        if not trajectory.fingerprint:
            self._open(trajectory)
        if batch != len(trajectory.seeds):
            raise ValueError(
                f"the pipeline samples {batch} videos at once, the rollout has {len(trajectory.seeds)} seeds; "
                "pass one seed per video (prompts times num_videos_per_prompt)"
            )
        if index >= self._num_noisy:
            return []
        return [row for row, window in enumerate(trajectory.windows) if window is None or index in window]

    def _deterministic(self, index: int, velocity: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        if self._option("ode_solver") == "euler":
            now, then = self._ready().sigmas[index : index + 2]
            return transition("ode", sample, velocity, now, then).mean.to(sample.dtype)
        if self._solver is None:
            # A copy that has seen no step: a multistep solver must not build on what lies before the window.
            self._solver = copy.deepcopy(self.base)
            self._solver.set_begin_index(index)
        return self._solver.step(velocity, self.base.timesteps[index], sample, return_dict=False)[0].to(sample.dtype)

    def _draw(
        self,
        index: int,
        rows: list[int],
        sample: torch.Tensor,
        velocity: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> torch.Tensor:
        self._solver = None
        drawn = self.transition_at(index, sample, velocity)
        if generator is None or self._trajectory is not None:
            noise = step_noise(self._seeds(rows), index, drawn.mean)
        else:
            noise = randn_tensor(drawn.mean.shape, generator, drawn.mean.device, drawn.mean.dtype)
        following = drawn.mean + drawn.std * noise
        if self._trajectory is not None:
            schedule = self._ready()
            self._trajectory.records.append(
                StepRecord(
                    step=index,
                    rows=tuple(rows),
                    timestep=schedule.timestep(index, integer=self._option("integer_timesteps")),
                    sigma=schedule.sigmas[index],
                    sigma_next=schedule.sigmas[index + 1],
                    std=float(drawn.std),
                    latents=sample,
                    next_latents=following,
                    mean=drawn.mean if self._option("record_means") else None,
                    log_prob=log_prob(following, drawn.mean, drawn.std, constants=self._option("log_prob_constants")),
                )
            )
        return following

    def _seeds(self, rows: list[int]) -> list[int]:
        if self._trajectory is not None:
            return [self._trajectory.seeds[row] for row in rows]
        return [derive_seed(self._option("seed"), "call", self._calls, row) for row in rows]
