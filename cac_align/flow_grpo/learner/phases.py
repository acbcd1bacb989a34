"""Training of two experts: micro-batches of one expert each, and every expert's own gradient norm and numbers.

Between two updates an expert may have no pass at all. Its adapter then stays exactly as it is, where AdamW would move
it on by momentum and weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.experience import Chunk, gather
from cac_align.flow_grpo.learner.replay import StepLoss, columns_of, policy_numbers
from cac_align.flow_grpo.sampler.experts import PHASES, ExpertVelocity, expert_at, split_by_expert
from reward_model.engine.processes import is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn


class Phases:
    """The experts of a policy in training; with a single transformer there is nothing to split or to tell apart.

    Args:
        policy: the velocity, without wrapper.
        parameters: trained weights by the names of :func:`~cac_align.flow_grpo.learner.lora.adapters_of`.
        accelerator: processes.
        wrapped: whether DDP is around the policy, which one process may have as well.
    """

    def __init__(
        self,
        policy: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        accelerator: Accelerator,
        wrapped: bool,
    ) -> None:
        self.boundary = policy.boundary if isinstance(policy, ExpertVelocity) else None
        self.accelerator = accelerator
        self.norms: dict[str, float] = {}
        self.parameters: dict[str, list[nn.Parameter]] = {}
        if isinstance(policy, ExpertVelocity):
            policy.joined = wrapped
            self.parameters = {
                part: [p for name, p in parameters.items() if name.startswith(f"{part}.")] for part in PHASES
            }

    def split(self, times: torch.Tensor) -> list[list[int]]:
        """Places of a batch of these timesteps, (B,), as micro-batches of one expert and one guidance scale each."""
        return split_by_expert(times, self.boundary)

    def name(self, times: torch.Tensor) -> str:
        """The expert of a micro-batch; empty for a single transformer.

        Raises:
            ValueError: if it has both.
        """
        return "" if self.boundary is None else expert_at(times, self.boundary)

    def passes(self, chunk: Chunk, times: torch.Tensor) -> list[Chunk]:
        """A chunk of these timesteps, (R,), as micro-batches of one expert each."""
        parts = self.split(times)
        return [chunk] if len(parts) == 1 else [chunk.select(places) for places in parts]

    def clip(self, trained: Iterable[str], limit: float) -> float:
        """Clips the gradient of each expert that was trained, and takes it from the others.

        Args:
            trained: experts that this process has trained since the last update.
            limit: largest norm of each.

        Returns:
            The norm over all.
        """
        at_work = set(gather(self.accelerator, sorted(trained)))
        self.accelerator.unscale_gradients()
        self.norms = {}
        for part, parameters in self.parameters.items():
            if part in at_work:
                self.norms[part] = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
            else:
                for parameter in parameters:
                    parameter.grad = None
        return math.hypot(*self.norms.values())

    def numbers(self, passes: Sequence[StepLoss], config: FlowGRPOConfig) -> dict[str, float]:
        """The monitors of each expert over all processes, as ``high_noise/...`` and ``low_noise/...``; those of an
        expert without a pass are absent.
        """
        found: dict[str, float] = {}
        for part in self.parameters:
            own = [p for p in passes if p.expert == part]
            losses = gather(self.accelerator, [float(v) for p in own for v in p.loss])
            columns = [gather(self.accelerator, column) for column in columns_of(own)]
            if not losses:
                continue
            numbers = {"policy/loss": math.fsum(losses) / len(losses), "policy/passes": float(len(losses))}
            if part in self.norms:
                numbers["policy/grad_norm"] = self.norms[part]
            numbers |= policy_numbers(columns, config)
            found |= {f"{PHASES[part]}/{name}": value for name, value in numbers.items()}
        return found


def check_processes(accelerator: Accelerator, experts: int) -> None:
    """Raises ValueError where two experts meet weights that are spread over processes (FSDP2, DeepSpeed)."""
    if experts > 1 and is_sharded(accelerator):
        raise ValueError(
            "a pipeline with two experts (Wan 2.2 A14B) cannot be trained with FSDP2 or DeepSpeed, for one of them "
            "rests in every forward; use recipes/configs/accelerate/ddp.yaml"
        )
