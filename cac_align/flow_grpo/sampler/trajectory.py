"""Inputs of a rollout and the SDE transitions it records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from cac_align.flow_grpo.maths.sampling import derive_seed

#: Stochastic steps of the whole batch, or of each sample; None: every step that has noise.
Windows = Sequence[int] | Sequence[Sequence[int]] | None


@dataclass(frozen=True)
class StepRecord:
    """One stochastic step of some samples of a batch, as it was drawn.

    ``latents`` and ``next_latents`` are (R, ...) for R = ``len(rows)`` samples; ``mean`` is that of the sampling policy
    (None if it was not kept), ``log_prob`` (R,) its log-prob. ``timestep`` is the 0-dim tensor the transformer was
    conditioned on: pass the same one in training, expanded to the batch. ``step`` counts from 0.
    """

    step: int
    rows: tuple[int, ...]
    timestep: torch.Tensor
    sigma: float
    sigma_next: float
    std: float
    latents: torch.Tensor
    next_latents: torch.Tensor
    mean: torch.Tensor | None
    log_prob: torch.Tensor

    @property
    def step_size(self) -> float:
        """h = sigma - sigma_next."""
        return self.sigma - self.sigma_next

    def to(self, device: torch.device | str) -> StepRecord:
        """The same record with its tensors elsewhere; the timestep stays on the CPU."""
        return self._each(lambda tensor: tensor.to(device))

    def select(self, rows: Sequence[int]) -> StepRecord:
        """The record of some of its samples, named by their row in the batch and given in that order."""
        places = [self.rows.index(row) for row in rows]
        return replace(self._each(lambda tensor: tensor[places]), rows=tuple(rows))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> StepRecord:
        return replace(
            self,
            latents=change(self.latents),
            next_latents=change(self.next_latents),
            mean=None if self.mean is None else change(self.mean),
            log_prob=change(self.log_prob),
        )


@dataclass
class Trajectory:
    """The stochastic steps of one call of a pipeline, in the order they were drawn.

    ``seeds`` and ``windows`` have one entry per sample; a window of None stands for every step that has noise.
    ``fingerprint`` names the sigma schedule, and is empty before the pipeline has set it.
    """

    seeds: tuple[int, ...]
    windows: tuple[tuple[int, ...] | None, ...]
    fingerprint: str = ""
    records: list[StepRecord] = field(default_factory=list)

    @classmethod
    def planned(cls, seeds: Sequence[int], windows: Windows = None) -> Trajectory:
        """An empty one.

        Raises:
            ValueError: no seeds, or windows per sample that are not one per seed.
        """
        if not len(seeds):
            raise ValueError("seeds is empty; pass one per sample of the batch")
        numbers = tuple(int(seed) for seed in seeds)
        entries: list[Any] | None = None if windows is None else list(windows)
        if entries is None:
            return cls(numbers, (None,) * len(numbers))
        if all(isinstance(entry, int) for entry in entries):
            return cls(numbers, (tuple(entries),) * len(numbers))
        if len(entries) != len(numbers):
            raise ValueError(f"{len(entries)} windows for {len(numbers)} seeds; pass one per sample, or one for all")
        return cls(numbers, tuple(tuple(int(step) for step in entry) for entry in entries))

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[StepRecord]:
        return iter(self.records)

    def check(self, num_stochastic_steps: int) -> None:
        """Raises ValueError if a window holds a step without noise, counted from 0."""
        for step in sorted({step for window in self.windows for step in window or ()}):
            if not 0 <= step < num_stochastic_steps:
                raise ValueError(
                    f"window step {step} is not among the {num_stochastic_steps} stochastic steps, which are counted "
                    "from 0; choose others, raise num_inference_steps, or set last_step_noise for the last one"
                )

    def of(self, row: int) -> list[StepRecord]:
        """The steps of one sample, each as a batch of one."""
        return [record.select([row]) for record in self.records if row in record.rows]

    def to(self, device: torch.device | str) -> Trajectory:
        """A copy with all tensors on ``device``, for example to free the accelerator while rewards are computed."""
        return replace(self, records=[record.to(device) for record in self.records])

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors; latents that two neighbouring steps share count once."""
        kept = [t for r in self.records for t in (r.latents, r.next_latents, r.mean, r.log_prob) if t is not None]
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in kept}.values())


def step_noise(seeds: Sequence[int], step: int, like: torch.Tensor) -> torch.Tensor:
    """Standard normal noise of a step, (B, ...) as ``like``: a function of each sample's seed and the step alone.

    Every sample has its own generator on the CPU, so batch mates, windows and devices change nothing.
    """
    noise = [
        torch.randn(
            like.shape[1:],
            generator=torch.Generator("cpu").manual_seed(derive_seed(seed, "noise", step)),
            dtype=torch.float32,
        )
        for seed in seeds
    ]
    return torch.stack(noise).to(like)
