"""A Flow-GRPO step as a first version would be written: what ``benchmarks/flow_grpo.py`` holds the trainer against.

The step is that of ``recipes/flow_grpo_minimal.py``, whose lines name the savings that are left out; here it only says
what it has kept. Kernel, windows, seeds, objective and optimiser are those of the settings, so the numbers must be the
trainer's up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.sampler.trajectory import StepRecord
from cac_align.pipelines import Pipeline
from cac_align.rewards.base import Reward
from recipes.flow_grpo_minimal import PlainFlowGRPO


class PlainLoop(PlainFlowGRPO):
    """The recipe's run, which also keeps the latents of every step, not of the noisy ones only, and its records."""

    def __init__(self, config: FlowGRPOConfig, reward: Reward, pipe: Pipeline | None = None) -> None:
        super().__init__(config, reward, pipe)
        self.latents: list[torch.Tensor] = []
        draw_step = self.pipe.scheduler.step

        def kept(*args: Any, **kwargs: Any) -> Any:
            following = draw_step(*args, **kwargs)
            self.latents.append(following[0])
            return following

        self.pipe.scheduler.step = kept

    def step(self) -> list[float | None]:
        self.latents.clear()
        return super().step()

    def records(self) -> list[list[StepRecord]]:
        return [list(trajectory) for _, trajectory in self.calls]

    def record_bytes(self) -> int:
        return bytes_of([*self.latents, *(record.log_prob for part in self.records() for record in part)])


def bytes_of(tensors: Iterable[torch.Tensor | None]) -> int:
    """Memory of some tensors; one that appears twice counts once."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors if t is not None}.values())
