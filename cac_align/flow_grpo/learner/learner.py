"""The updates of Flow-GRPO on a step's videos.

The loss is a sum over videos with weights fixed beforehand, so it is the same for any split into forwards or processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.adapter_learner import AdapterLearner
from cac_align.flow_grpo.learner.data_term import DataTerm, Draw
from cac_align.flow_grpo.learner.experience import Chunk, Experience, chunks_of, gather, idle_chunk
from cac_align.flow_grpo.learner.nft import NFT
from cac_align.flow_grpo.learner.replay import Replay, StepLoss, StepObjective, columns_of, policy_numbers
from cac_align.flow_grpo.learner.rvm import RVM
from cac_align.flow_grpo.maths.credit import LatentGrid, verdict_weights, without_first_frame
from cac_align.flow_grpo.sampler.clips import ClipLatents
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.flow_grpo.sampler.experts import ExpertVelocity
from cac_align.flow_grpo.sampler.policy import GuidedVelocity
from cac_align.flow_grpo.sampler.rollout import negative_prompt
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler

if TYPE_CHECKING:
    from accelerate import Accelerator


class Learner(AdapterLearner):
    """Learns from the videos of a step.

    Args:
        policy: of :func:`~cac_align.flow_grpo.sampler.experts.velocity_of`, whose transformers have their adapters; any
            device.
        scheduler: the one that draws the videos.
        step_weights: weight of each step of its schedule.
        texts: embeddings of all prompts and of the negative prompt.
        config: objective, optimiser, averages.
        accelerator: processes and precision.
        clips: latents of the videos of the data term; None: without a data term.
        spatial_factor: pixels per latent cell in each direction.

    Raises:
        ValueError: if the policy cannot be trained by these processes.

    Attributes as of :class:`~cac_align.flow_grpo.learner.adapter_learner.AdapterLearner`.
    """

    config: FlowGRPOConfig

    def __init__(
        self,
        policy: GuidedVelocity | ExpertVelocity,
        scheduler: FlowSDEScheduler,
        step_weights: Sequence[float],
        texts: TextEmbeddings,
        config: FlowGRPOConfig,
        accelerator: Accelerator,
        clips: ClipLatents | None = None,
        spatial_factor: int = 8,
    ) -> None:
        super().__init__(policy, config, accelerator)
        self.texts = texts
        self.grid = LatentGrid(config.num_frames, config.height, config.width, spatial_factor=spatial_factor)
        self.replay = Replay(self.policy, self.bare, scheduler, config, step_weights)
        self.objective = self._objective()
        self.data: DataTerm | None = None
        if clips is not None:
            sizes = {"batch": config.data_batch, "rows": config.rows_per_forward, "seed": config.seed}
            self.data = DataTerm(clips, texts, self.policy, scheduler, **sizes)
        self._data_losses: list[float] = []
        self.passes, self.negative = config.num_trained_steps, negative_prompt(config)

    def _objective(self) -> StepObjective:
        if self.config.objective == "nft":
            return NFT(self.replay, list(self.parameters.values()))
        if self.config.objective == "rvm":
            return RVM(self.replay, lambda: self.updates)
        return self.replay

    # --- which weights ------------------------------------------------------------------------------------------------

    def sampling_weights(self) -> AbstractContextManager[None]:
        """A block in which the adapter holds what videos are drawn with: the trained weights, or nft's slow copy."""
        return nullcontext() if self.old is None else self._with(self.old)

    @property
    def old(self) -> list[torch.Tensor] | None:
        """The adapter's values that videos are drawn with; None: the trained ones."""
        return self.objective.old

    def follow(self) -> None:
        """After a step: the policy that draws the videos moves towards the trained one, where they differ (nft)."""
        self.objective.follow(self.updates)

    # --- updates ------------------------------------------------------------------------------------------------------

    def learn(self, experience: Experience) -> dict[str, float]:
        """All updates on the videos of a step, and their numbers; none if no group has variance.

        Raises:
            DivergenceError: loss or gradient norm is NaN or infinite.
        """
        config = self.config
        chunks = chunks_of(experience, config.rows_per_forward)
        parts = config.num_minibatches
        wanted = max(gather(self.accelerator, [len(chunks)]))
        if wanted == 0:
            return {"policy/updates": 0.0}
        wanted = math.ceil(wanted / parts) * parts
        self._data_losses = []
        chunks += [idle_chunk(experience, config.rows_per_forward)] * (wanted - len(chunks))
        size, losses = wanted // parts, []
        for _ in range(config.num_iterations):
            losses += [self.update(experience, chunks[k : k + size]) for k in range(0, wanted, size)]
        numbers = self.numbers(losses)
        if experience.anchors is not None:
            numbers["policy/anchored"] = fmean(experience.anchors)
        if self.data is not None:
            numbers["data/loss"] = sum(gather(self.accelerator, self._data_losses)) / len(losses)
        return numbers

    def update(self, experience: Experience, chunks: Sequence[Chunk]) -> list[StepLoss]:
        """One optimiser update.

        Raises:
            DivergenceError: loss or gradient norm is NaN or infinite; weights are as they were (DeepSpeed has stepped).
        """
        count = sum(gather(self.accelerator, [float(sum(c.counted.sum() for c in chunks))]))
        # A plain sum with weights fixed beforehand: no split into chunks changes the gradient. Times the processes,
        # because accelerate averages over them.
        scale = self.accelerator.num_processes / (max(count, 1.0) * self.passes)
        losses: list[StepLoss] = []
        work = [
            partial(self._part, experience, part, k, scale, losses)
            for chunk in chunks
            for k in range(self.passes)
            for part in self.phases.passes(chunk, self._times(experience, chunk, k))
        ]
        self.apply(self.backward([*work, *self._data_parts()]), experience.step)
        return losses

    def _times(self, experience: Experience, chunk: Chunk, k: int) -> torch.Tensor:
        """Conditions of the transformer in pass k of a chunk, (R,), which decide on its expert."""
        return self.objective.timesteps(experience.rollouts[chunk.rollout], chunk.rows, k)

    def _part(self, experience: Experience, chunk: Chunk, k: int, scale: float, losses: list[StepLoss]) -> torch.Tensor:
        """The share of pass k of a chunk in the loss, with gradient; what is logged of it goes to ``losses``."""
        result = self.step_loss(experience, chunk, k)
        kept, expert = chunk.counted > 0, self.phases.name(self._times(experience, chunk, k))
        tensors = (result.loss, result.log_ratio, result.kl, result.stopped)
        loss, log_ratio, kl, stopped = (t.detach().cpu()[kept] for t in tensors)
        losses.append(StepLoss(loss, log_ratio, kl, stopped, expert))
        self.trained |= {expert} if bool(kept.any()) else set()
        return (result.loss * chunk.counted.to(result.loss.device)).sum() * scale

    def _data_parts(self) -> list[partial[torch.Tensor]]:
        """The forwards of the data term in this update, on this process."""
        here = self.accelerator
        if self.data is None:
            return []
        shares = self.data.share(self.updates, here.process_index, here.num_processes)
        return [
            partial(self._data_part, [draws[place] for place in places])
            for draws in shares
            for places in self.phases.split(self.data.timesteps(draws))
        ]

    def _data_part(self, draws: list[Draw]) -> torch.Tensor:
        """The share of some videos of the data term in the loss, with gradient."""
        assert self.data is not None
        counted = torch.tensor([float(draw.counted) for draw in draws], device=self.accelerator.device)
        mean = (self.data.loss(draws, self.accelerator.device) * counted).sum() / self.config.data_batch
        self._data_losses.append(float(mean.detach()))
        self.trained |= {self.phases.name(self.data.timesteps(draws))} if any(d.counted for d in draws) else set()
        return self.config.data_weight * self.accelerator.num_processes * mean  # accelerate averages over processes

    def step_loss(self, experience: Experience, chunk: Chunk, k: int) -> StepLoss:
        """Pass k of a chunk: the k-th step of its window, or the k-th noise level of nft and rvm."""
        rollout = experience.rollouts[chunk.rollout]
        prompts, device = [rollout.prompt] * len(chunk.rows), self.accelerator.device
        condition = self.texts.condition(prompts, self.negative, device, rollout.image)
        cells = self._cells(experience, chunk)
        anchors = None if experience.anchors is None else chunk.anchors
        return self.objective.step_loss(
            rollout, chunk.rows, k, chunk.advantages, condition, cells=cells, anchors=anchors
        )

    def _cells(self, experience: Experience, chunk: Chunk) -> torch.Tensor | None:
        """Weights of latent cells from the judge's findings; none for the first frame where that is given."""
        image = experience.rollouts[chunk.rollout].image
        given = image is not None and image.first_frame
        cells = None
        if self.config.localised_credit:
            verdicts = experience.answers[chunk.rollout].verdicts
            cells = verdict_weights([verdicts[r] for r in chunk.rows], self.grid, floor=self.config.credit_floor)
        if given:
            cells = without_first_frame(cells, self.grid, len(chunk.rows))
        return None if cells is None else cells.to(self.accelerator.device)

    def numbers(self, updates: Sequence[Sequence[StepLoss]]) -> dict[str, float]:
        """The monitors of the updates of a step, over all processes."""
        passes = [p for update in updates for p in update]
        columns = [gather(self.accelerator, column) for column in columns_of(passes)]
        return {
            "policy/loss": self.loss,
            "policy/grad_norm": self.grad_norm,
            "policy/updates": float(len(updates)),
            "policy/learning_rate": float(self.schedule.get_last_lr()[0]),
            **policy_numbers(columns, self.config),
            **self.phases.numbers(passes, self.config),
        }
