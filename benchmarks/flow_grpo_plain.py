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

from recipes.flow_grpo_minimal import PlainFlowGRPO


class PlainLoop(PlainFlowGRPO):
    """The recipe's run, with the records of its latest step."""

    def records(self) -> list[list[Any]]:
        return [list(trajectory) for _, trajectory, _ in self.calls]

    def record_bytes(self) -> int:
        kept = [t for _, _, latents in self.calls for t in latents]
        return bytes_of([*kept, *(r.log_prob for part in self.records() for r in part)])


def bytes_of(tensors: Iterable[torch.Tensor | None]) -> int:
    """Memory of some tensors; one that appears twice counts once."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors if t is not None}.values())
