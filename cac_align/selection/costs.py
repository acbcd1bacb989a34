"""Costs of a choice: forward passes of the denoiser, judge calls and seconds, and what chance would have picked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cac_align.pipelines import Pipeline, videos_passed

#: Parts of a pipeline that denoise; Wan 2.2 has two experts.
DENOISERS = ("transformer", "transformer_2", "unet")


@dataclass(frozen=True)
class Cost:
    """Cost of one video: forward passes of the denoiser with one latent video each (guidance takes two a step), None
    where the pipeline has no denoiser by a known name; and seconds, its share of those of its batch.
    """

    forwards: float | None
    seconds: float


@dataclass
class Meter:
    """Running count of a block under :func:`metered`."""

    forwards: int | None = None
    started: float = field(default_factory=time.perf_counter)

    def cost(self, videos: int) -> Cost:
        """The cost of each of several videos drawn since the block began."""
        forwards = None if self.forwards is None else self.forwards / videos
        return Cost(forwards, (time.perf_counter() - self.started) / videos)


@contextmanager
def metered(pipe: Pipeline) -> Iterator[Meter]:
    """Counts the rows that pass the pipeline's denoisers within the block; the hooks are gone after it."""
    meter, hooks = Meter(), []

    def count(_module: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        assert meter.forwards is not None
        meter.forwards += videos_passed(args, kwargs)

    for name in DENOISERS:
        part = getattr(pipe, name, None)
        if part is not None and hasattr(part, "register_forward_pre_hook"):
            meter.forwards = 0
            hooks.append(part.register_forward_pre_hook(count, with_kwargs=True))
    try:
        yield meter
    finally:
        for hook in hooks:
            hook.remove()


def seconds_of(values: Sequence[float]) -> dict[str, float | int]:
    """Mean and 95th percentile (the higher of two neighbours) of some seconds, and their number.

    >>> seconds_of([1.0, 2.0, 3.0])
    {'mean': 2.0, 'p95': 3.0, 'videos': 3}
    """
    if not values:
        return {"videos": 0}
    p95 = float(np.quantile(values, 0.95, method="higher"))
    return {"mean": round(float(np.mean(values)), 4), "p95": round(p95, 4), "videos": len(values)}


def pick(scores: Sequence[float | None], objected: Sequence[bool | None]) -> dict[str, float | int | None]:
    """Expected score of a candidate picked at random, and the share of candidates a judge objects to.

    Args:
        scores: one per candidate; None where there is none, which is left out.
        objected: whether the verdict objects; None: there is none.

    >>> pick([0.2, 0.6, None], [True, False, None])
    {'score': 0.4, 'abnormal': 0.5, 'candidates': 2}
    """
    known = [score for score in scores if score is not None]
    said = [o for o in objected if o is not None]
    return {
        "score": round(sum(known) / len(known), 6) if known else None,
        "abnormal": round(sum(said) / len(said), 6) if said else None,
        "candidates": len(known),
    }


def total_forwards(costs: Sequence[Cost | None]) -> float | None:
    """Forward passes of several videos; None where one is not known.

    >>> total_forwards([Cost(20.0, 1.0), Cost(20.0, 1.0)])
    40
    """
    found = [None if cost is None else cost.forwards for cost in costs]
    known = [count for count in found if count is not None]
    return None if len(known) < len(found) else as_count(sum(known))


def as_count(number: float) -> float:
    """A number without a decimal point where it needs none."""
    return int(number) if float(number).is_integer() else number
