"""The scheduler a pipeline comes with: whether it can be the base of stochastic sampling, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_flow_matching(scheduler: Any) -> None:
    """Raises ValueError unless a scheduler steps along x = (1 - sigma) x0 + sigma eps with a velocity model."""
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if not name.startswith("Flow") and not config.get("use_flow_sigmas", False):
        raise ValueError(
            f"{name} is no flow-matching scheduler; use FlowMatchEulerDiscreteScheduler, or UniPCMultistepScheduler "
            "with use_flow_sigmas=True"
        )
    if config.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise ValueError(
            f"{name} has prediction_type={config['prediction_type']!r}; the kernels need 'flow_prediction'"
        )
    for option in ("invert_sigmas", "stochastic_sampling"):
        if config.get(option, False):
            raise ValueError(f"{name} has {option}=True, which the kernels do not know; set it to False")


def shift_of(scheduler: Any) -> float | None:
    """The shift a scheduler applies now: ``flow_shift`` of UniPC, ``shift`` of FlowMatchEuler, or None."""
    live = getattr(scheduler, "_shift", None)
    if live is None:
        live = scheduler.config.get("flow_shift")
    return None if live is None else float(live)


def describe(scheduler: Any) -> dict[str, Any]:
    """What :func:`build` needs: class name, configuration, and the shift if ``set_shift`` has changed it since."""
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    shift = shift_of(scheduler)
    changed = shift is not None and shift != config.get("shift", config.get("flow_shift"))
    return {
        "base_class": type(scheduler).__name__,
        "base_config": config,
        "live_shift": shift if changed else None,
    }


def build(base_class: str, base_config: Mapping[str, Any], live_shift: float | None = None) -> Any:
    """The scheduler of a description.

    Raises:
        ValueError: diffusers has no such scheduler, or it is none of flow matching.
    """
    import diffusers

    kind: Any = getattr(diffusers, base_class, None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise ValueError(f"base_class={base_class!r} is no scheduler of diffusers; UniPCMultistepScheduler is one")
    base = kind.from_config(dict(base_config))
    if live_shift is not None:
        base.set_shift(live_shift)
    check_flow_matching(base)
    return base
