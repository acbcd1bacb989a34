"""The adapter and everything that changes it: optimiser, schedule, averages, and the updates on a step's videos.

The loss is a sum over videos with weights fixed beforehand, so it is the same for any split into forwards or processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner import checkpoint as files
from cac_align.flow_grpo.learner.data_term import DataTerm, Draw
from cac_align.flow_grpo.learner.experience import Chunk, Experience, chunks_of, gather, idle_chunk
from cac_align.flow_grpo.learner.lora import adapters_of, weights_of
from cac_align.flow_grpo.learner.nft import NFT
from cac_align.flow_grpo.learner.phases import Phases, check_processes
from cac_align.flow_grpo.learner.quantised import quantised_names
from cac_align.flow_grpo.learner.replay import Replay, StepLoss, StepObjective, columns_of, policy_numbers
from cac_align.flow_grpo.learner.rvm import RVM
from cac_align.flow_grpo.maths.credit import LatentGrid, verdict_weights, without_first_frame
from cac_align.flow_grpo.sampler.clips import ClipLatents
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.flow_grpo.sampler.experts import ExpertVelocity
from cac_align.flow_grpo.sampler.policy import GuidedVelocity
from cac_align.flow_grpo.sampler.rollout import negative_prompt
from cac_align.flow_grpo.sampler.scheduler import FlowSDEScheduler
from reward_model.engine.guards import diverged
from reward_model.engine.processes import is_sharded, settle_sharding, uses_deepspeed

if TYPE_CHECKING:
    from accelerate import Accelerator


class Learner:
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

    ``parameters`` are the adapter's, by name; ``updates`` counts optimiser updates; ``ema`` is None if the run
    keeps no average.
    """

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
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.config, self.accelerator, self.texts = config, accelerator, texts
        check_processes(accelerator, len(policy.transformers))
        self.grid = LatentGrid(config.num_frames, config.height, config.width, spatial_factor=spatial_factor)
        optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.schedule = get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.max_steps * config.num_iterations * config.num_minibatches,
        )
        self.bare = policy
        settle_sharding(accelerator, config.max_grad_norm)
        self._deepspeed = uses_deepspeed(accelerator)
        if is_sharded(accelerator) and not self._deepspeed:
            # The pipeline calls the transformer without the policy around it: the one that gathers its weights.
            self.wrapped, self.optimizer = accelerator.prepare(policy.transformer, optimizer)
            self.policy = policy
        else:
            # Quantised weights are equal on all processes, and nothing that DDP could broadcast; offloaded ones stay.
            policy._ddp_params_and_buffers_to_ignore = quantised_names(policy)  # type: ignore[assignment]
            moved = [False, None] if config.offload_blocks else None
            self.wrapped, self.optimizer = accelerator.prepare(policy, optimizer, device_placement=moved)
            self.policy = self.wrapped
        self.parameters = adapters_of(policy.transformers)
        self.ema = EMAModel(self.parameters.values(), decay=config.ema_decay) if config.ema_decay else None
        self.replay = Replay(self.policy, self.bare, scheduler, config, step_weights)
        self.objective = self._objective()
        self.data = None if clips is None else DataTerm(clips, texts, self.replay)
        self._data_losses: list[float] = []
        self.phases = Phases(policy, self.objective, self.parameters, accelerator, self.policy is not policy)
        self.passes, self.negative = config.num_trained_steps, negative_prompt(config)
        self.updates = 0
        #: Experts with a pass since the last update; meaningless for a single transformer.
        self.trained: set[str] = set()

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

    def averaged_weights(self) -> AbstractContextManager[None]:
        """A block in which the adapter holds the averaged weights, where the run keeps them."""
        return nullcontext() if self.ema is None else self._with(self.ema.shadow_params)

    @contextmanager
    def _with(self, values: Sequence[torch.Tensor]) -> Iterator[None]:
        """Other values in the adapter. FSDP2 leaves the outermost weights gathered after a forward pass: they are
        released on both sides, so that what is gathered next is what is there.
        """
        release = getattr(self.wrapped, "reshard", lambda: None)
        release()
        with weights_of(list(self.parameters.values()), values):
            yield
            release()

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
        total = 0.0
        self.trained = set()
        work = [
            partial(self._part, experience, part, k, scale, losses)
            for chunk in chunks
            for k in range(self.passes)
            for part in self.phases.passes(experience, chunk, k)
        ]
        work += self._data_parts()
        for number, part in enumerate(work):
            last = number == len(work) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss = part()
                self.accelerator.backward(loss)
            total += float(loss.detach())
        self.apply(total, experience.step)
        return losses

    def _part(self, experience: Experience, chunk: Chunk, k: int, scale: float, losses: list[StepLoss]) -> torch.Tensor:
        """The share of pass k of a chunk in the loss, with gradient; what is logged of it goes to ``losses``."""
        result = self.step_loss(experience, chunk, k)
        kept, expert = chunk.counted > 0, self.phases.expert(experience, chunk, k)
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

    def apply(self, loss: float, step: int) -> None:
        """Clips, checks and steps.

        Args:
            loss: loss of this process's share.
            step: steps done before this one, for the message.
        """
        limit = self.config.max_grad_norm or math.inf
        if self.phases.boundary is None:
            norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit)
            self.grad_norm = 0.0 if norm is None else float(norm)
        else:
            self.grad_norm = self.phases.clip(self.trained, limit)
        total = sum(gather(self.accelerator, [loss])) / self.accelerator.num_processes
        scaled = self.accelerator.scaler is not None  # fp16: the scaler passes over a step that overflowed
        if not math.isfinite(total) or not (scaled or math.isfinite(self.grad_norm)):
            self.optimizer.zero_grad()
            last = files.last_finished_checkpoint(Path(self.config.output_dir))
            remedy = "a lower learning_rate, a larger beta or bf16"
            raise diverged(step + 1, total, self.grad_norm, last, remedy)
        self.loss = total
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.updates += 1
        if self.ema is not None and self.updates % self.config.ema_every == 0:
            self.ema.step(self.parameters.values())

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

    # --- state --------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors of a checkpoint: adapter, optimiser and averages, each by name, whole and on the CPU."""
        parts = {
            "lora": {name: files.whole(p) for name, p in self.parameters.items()},
        }
        if not self._deepspeed:
            parts["optimizer"] = files.optimizer_tensors(self._inner, self.parameters)
        averages = {"ema": self.ema.shadow_params if self.ema is not None else None, "old": self.old}
        for name, values in averages.items():
            if values is not None:
                parts[name] = {k: files.whole(v) for k, v in zip(self.parameters, values, strict=True)}
        return parts

    def layout(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Names and shapes of :meth:`tensors` after the first update, to hold a checkpoint against."""
        shapes = {name: tuple(p.shape) for name, p in self.parameters.items()}
        expected = {"lora": shapes}
        if self.ema is not None:
            expected["ema"] = shapes
        if self.old is not None:
            expected["old"] = shapes
        if self._deepspeed:
            expected["optimizer"] = files.shard_layout(self._inner)
        else:
            moments = [(n, key, shape) for n, shape in shapes.items() for key in files.MOMENTS]
            expected["optimizer"] = {f"{n}/{key}": () if key == "step" else shape for n, key, shape in moments}
        return expected

    def own_tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Tensors that a checkpoint keeps for each process: DeepSpeed's share of the optimiser."""
        return {"optimizer": files.shard_tensors(self._inner)} if self._deepspeed else {}

    def counters(self) -> dict[str, Any]:
        """Counters of a checkpoint, as JSON."""
        scaler = self.accelerator.scaler
        return {
            "updates": self.updates,
            "ema_updates": self.ema.optimization_step if self.ema is not None else 0,
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    @torch.no_grad()
    def restore(self, parts: Mapping[str, Mapping[str, torch.Tensor]], counters: Mapping[str, Any]) -> None:
        """Puts :meth:`tensors` and :meth:`counters` back."""
        for name, parameter in self.parameters.items():
            parameter.copy_(files.like(parts["lora"][name], parameter))
        if self._deepspeed:
            files.restore_shard(self._inner, dict(parts["optimizer"]))
        else:
            files.restore_optimizer(self._inner, self.parameters, dict(parts["optimizer"]))
        for name, kept in (("ema", self.ema.shadow_params if self.ema is not None else None), ("old", self.old)):
            for target, key in zip(kept or [], self.parameters, strict=False):
                target.copy_(files.like(parts[name][key], target))
        if self.ema is not None:
            self.ema.optimization_step = counters["ema_updates"]
        if self.accelerator.scaler is not None and counters["scaler"]:
            self.accelerator.scaler.load_state_dict(counters["scaler"])
        self.schedule.load_state_dict(counters["schedule"])
        for group, rate in zip(self._inner.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # the schedule sets it after an update only
        self.updates = counters["updates"]

    def exported(self, *, averaged: bool) -> dict[str, torch.Tensor]:
        """The adapter to hand over, whole and on the CPU: the averaged one if asked for and kept."""
        values = self.ema.shadow_params if averaged and self.ema is not None else self.parameters.values()
        return {name: files.whole(value) for name, value in zip(self.parameters, values, strict=True)}

    @property
    def _inner(self) -> torch.optim.Optimizer:
        """The optimiser without the wrappers of accelerate and DeepSpeed."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        return inner.optimizer if self._deepspeed else inner
