"""A sigma schedule and the scheduler it comes from: always read from the live scheduler, never from a table.

Tables go stale: diffusers changed the flow sigmas of UniPC on 2026-01-22 (pull request 12109), which moved them by
up to 4e-3 and made weights looked up by integer timestep fail. A checkpoint therefore keeps the fingerprint of its
schedule, and per-step weights are computed.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from cac_align.flow_grpo.maths.kernels import Coefficients, coefficients
from reward_model.digests import text_digest

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

StepWeighting = Literal["none", "inv_c", "tempflow"]


@dataclass(frozen=True)
class Schedule:
    """Sigmas of one sampling run, from noise to data.

    Args:
        sigmas: N + 1 values for N steps, falling, the last one 0. Each is a float32 value, as schedulers hold them.
        num_train_timesteps: timestep = sigma * num_train_timesteps.

    Raises:
        ValueError: sigmas that no flow-matching schedule has.
    """

    sigmas: tuple[float, ...]
    num_train_timesteps: int = 1000

    def __post_init__(self) -> None:
        if len(self.sigmas) < 3:
            raise ValueError(
                f"{len(self.sigmas) - 1} steps are too few: a schedule needs at least 2, for its second sigma "
                "scales the noise; raise num_inference_steps"
            )
        falling = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if not falling or self.sigmas[0] > 1 or self.sigmas[-1] != 0:
            raise ValueError(
                f"sigmas {self.sigmas[0]:.6g}, {self.sigmas[1]:.6g} ... {self.sigmas[-2]:.6g}, {self.sigmas[-1]:.6g} "
                "must fall from at most 1 to exactly 0; use a flow-matching scheduler of order 1 with "
                "final_sigmas_type='zero' and without inverted sigmas"
            )

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def sigma_max(self) -> float:
        """``sigmas[1]``: what the kernels call ``sigma_max``."""
        return self.sigmas[1]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the sigmas' exact bits; it changes with steps, shift, scheduler and diffusers version."""
        packed = struct.pack(f"<{len(self.sigmas)}fi", *self.sigmas, self.num_train_timesteps)
        return text_digest(packed)[:16]

    def timestep(self, step: int, *, integer: bool = False) -> torch.Tensor:
        """Condition of the transformer at ``step``: a 0-dim float32 tensor, usually 1000 * sigma.

        Args:
            integer: int64 instead, truncated as in the stock UniPC scheduler.
        """
        value = torch.tensor(self.sigmas[step], dtype=torch.float32) * self.num_train_timesteps
        return value.to(torch.int64) if integer else value

    def check_fingerprint(self, expected: str) -> None:
        """Raises ValueError unless the schedule is the one a checkpoint was made with."""
        if self.fingerprint != expected:
            from importlib.metadata import version

            raise ValueError(
                f"the sigma schedule has fingerprint {self.fingerprint}, the checkpoint was made with {expected}; "
                f"use its num_inference_steps, shift, scheduler and diffusers version (now {version('diffusers')}), "
                "or start a new run"
            )


def read_schedule(scheduler: SchedulerMixin, num_inference_steps: int | None = None, **kwargs: Any) -> Schedule:
    """The schedule of any diffusers flow-matching scheduler, with its own shift.

    Args:
        scheduler: left as it is.
        num_inference_steps: what ``set_timesteps`` is called with, on a copy; None reads the sigmas it has now.
        **kwargs: further arguments of ``set_timesteps`` (``sigmas``, ``mu``).

    Raises:
        ValueError: no flow-matching scheduler, or sigmas the kernels cannot use.

    Example:
        >>> from diffusers import UniPCMultistepScheduler
        >>> unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        >>> read_schedule(unipc, 20).num_steps
        20
    """
    check_flow_matching(scheduler)
    if num_inference_steps is not None or kwargs:
        scheduler = copy.deepcopy(scheduler)
        scheduler.set_timesteps(**{"num_inference_steps": num_inference_steps, **kwargs})
    sigmas = torch.as_tensor(scheduler.sigmas, dtype=torch.float32).tolist()
    return Schedule(tuple(sigmas), int(scheduler.config.num_train_timesteps))


def step_stds(
    schedule: Schedule, kernel: str, *, noise_level: float | None = None, last_step_noise: bool = False
) -> torch.Tensor:
    """Std of the noise of every step, (N,) float64; 0 marks a deterministic step."""
    return _coefficients(schedule, kernel, noise_level, last_step_noise).std


def num_stochastic_steps(
    schedule: Schedule, kernel: str, *, noise_level: float | None = None, last_step_noise: bool = False
) -> int:
    """Number of steps, from the first, that have noise: usually N - 1, N with ``last_step_noise``, 0 for an ODE."""
    stds = step_stds(schedule, kernel, noise_level=noise_level, last_step_noise=last_step_noise)
    return int((stds > 0).sum())


def gradient_scales(
    schedule: Schedule, kernel: str, *, noise_level: float | None = None, last_step_noise: bool = False
) -> torch.Tensor:
    """c = |d mean / d velocity| / std of every step, (N,) float64; infinite where there is no noise.

    The gradient of a step's log-prob is proportional to it, so a plain sum over steps weighs them by c, which differs
    by more than a factor of ten along a shifted schedule.
    """
    factors = _coefficients(schedule, kernel, noise_level, last_step_noise)
    # d log_prob / d v = (x' - mean) / std^2 * d mean / d v, and x' - mean is std * eps.
    return factors.velocity.abs() / factors.std  # (N,)


def step_weights(
    weighting: StepWeighting,
    schedule: Schedule,
    kernel: str,
    *,
    noise_level: float | None = None,
    last_step_noise: bool = False,
    candidates: Sequence[int] | None = None,
) -> torch.Tensor:
    """Factor of the loss of every step, (N,) float64; 0 for steps without noise.

    Args:
        weighting: ``none``: 1. ``inv_c``: 1/c over its mean (Flash-GRPO, arXiv 2605.15980), which makes gradients alike
            at all steps. ``tempflow``: 2.25 * std (TempFlow-GRPO), which still favours long steps.
        candidates: the steps a window may hold, over which the mean is taken; by default all with noise. Not the window
            of the moment, or a window of one step would always weigh 1.
    """
    if weighting not in get_args(StepWeighting):
        raise ValueError(f"step weighting {weighting!r} is unknown; choose one of {', '.join(get_args(StepWeighting))}")
    options: dict[str, Any] = {"noise_level": noise_level, "last_step_noise": last_step_noise}
    std = step_stds(schedule, kernel, **options)
    if weighting == "none":
        return (std > 0).to(std)
    if weighting == "tempflow":
        return 2.25 * std
    inverse = 1 / gradient_scales(schedule, kernel, **options)  # (N,); 0 without noise
    counted = std > 0  # (N,)
    if candidates is not None:
        chosen = torch.zeros_like(counted)
        chosen[list(candidates)] = True
        counted = counted & chosen
    if not bool(counted.any()):
        raise ValueError(f"none of the candidate steps has noise under kernel {kernel!r}; there is nothing to weigh")
    return inverse / inverse[counted].mean()  # of mean 1, so that the learning rate keeps its meaning


def _coefficients(schedule: Schedule, kernel: str, noise_level: float | None, last_step_noise: bool) -> Coefficients:
    sigmas = torch.tensor(schedule.sigmas, dtype=torch.float64)
    return coefficients(
        kernel,
        sigmas[:-1],
        sigmas[1:],
        noise_level=noise_level,
        sigma_max=schedule.sigma_max,
        last_step_noise=last_step_noise,
    )


# --- the scheduler a pipeline comes with ------------------------------------------------------------------------------


def check_flow_matching(scheduler: SchedulerMixin) -> None:
    """Raises ValueError unless a scheduler steps along x = (1 - sigma) x0 + sigma eps with a velocity model."""
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if not name.startswith("Flow") and not config.get("use_flow_sigmas", False):
        raise ValueError(
            f"{name} is not a flow-matching scheduler; use FlowMatchEulerDiscreteScheduler, or UniPCMultistepScheduler "
            "with use_flow_sigmas=True"
        )
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise ValueError(
            f"{name} has prediction_type={config['prediction_type']!r}; the kernels need 'flow_prediction'"
        )
    for option in ("invert_sigmas", "stochastic_sampling"):
        if config.get(option, False):
            raise ValueError(f"{name} has {option}=True, which the kernels do not support; set it to False")


def shift_of(scheduler: SchedulerMixin) -> float | None:
    """The shift a scheduler applies now: ``flow_shift`` of UniPC, ``shift`` of FlowMatchEuler, or None."""
    live = getattr(scheduler, "_shift", None)
    if live is None:
        live = scheduler.config.get("flow_shift")
    return None if live is None else float(live)


def describe_base(scheduler: SchedulerMixin) -> dict[str, Any]:
    """Arguments of :func:`build_base`: class name, configuration, and the shift if ``set_shift`` changed it."""
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    shift = shift_of(scheduler)
    changed = shift is not None and shift != config.get("shift", config.get("flow_shift"))
    return {
        "base_class": type(scheduler).__name__,
        "base_config": config,
        "live_shift": shift if changed else None,
    }


def build_base(base_class: str, base_config: Mapping[str, Any], live_shift: float | None = None) -> SchedulerMixin:
    """The scheduler of a description.

    Raises:
        ValueError: if diffusers has no scheduler of this name, or it is not a flow-matching one.
    """
    import diffusers

    kind: Any = getattr(diffusers, base_class, None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise ValueError(f"base_class={base_class!r} is not a diffusers scheduler, such as UniPCMultistepScheduler")
    base = kind.from_config(dict(base_config))
    if live_shift is not None:
        base.set_shift(live_shift)
    check_flow_matching(base)
    return base
