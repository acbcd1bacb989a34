"""The adapter of a training and everything that changes it: optimiser, schedule, averages; its state in checkpoints.

Which loss is differentiated is up to the classes made from it: Flow-GRPO's
:class:`~cac_align.flow_grpo.learner.learner.Learner`, and
:class:`~cac_align.preference.learner.PreferenceLearner`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.learner import checkpoint as files
from cac_align.flow_grpo.learner.experience import gather
from cac_align.flow_grpo.learner.lora import adapters_of, weights_of
from cac_align.flow_grpo.learner.phases import Phases, check_processes
from cac_align.flow_grpo.learner.quantised import quantised_names
from cac_align.flow_grpo.sampler.experts import ExpertVelocity
from cac_align.flow_grpo.sampler.policy import GuidedVelocity
from cac_align.flow_grpo.training_settings import TrainingSettings
from reward_model.engine.guards import diverged
from reward_model.engine.processes import is_sharded, settle_sharding, uses_deepspeed

if TYPE_CHECKING:
    from accelerate import Accelerator


class AdapterLearner:
    """Updates an adapter.

    Args:
        policy: of :func:`~cac_align.flow_grpo.sampler.experts.velocity_of`, whose transformers have their adapters; any
            device.
        config: optimiser, averages.
        accelerator: processes and precision.

    Raises:
        ValueError: if the policy cannot be trained by these processes.

    ``parameters`` are the adapter's, by name; ``updates`` counts optimiser updates; ``ema`` is None if the run
    keeps no average. ``policy`` is wrapped for passes with gradient, ``bare`` is the same without wrapper.
    """

    def __init__(
        self, policy: GuidedVelocity | ExpertVelocity, config: TrainingSettings, accelerator: Accelerator
    ) -> None:
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        self.config, self.accelerator = config, accelerator
        check_processes(accelerator, len(policy.transformers))
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
            num_training_steps=config.num_updates,
        )
        self.bare = policy
        settle_sharding(accelerator, config.max_grad_norm)
        self._deepspeed = uses_deepspeed(accelerator)
        self.policy: Callable[..., torch.Tensor]
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
        self.phases = Phases(policy, self.parameters, accelerator, self.policy is not policy)
        self.updates = 0
        #: Experts with a pass since the last update; meaningless for a single transformer.
        self.trained: set[str] = set()

    # --- which weights ------------------------------------------------------------------------------------------------

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
        """A second set of the adapter's values that checkpoints keep; None: there is none."""
        return None

    # --- updates ------------------------------------------------------------------------------------------------------

    def backward(self, work: Sequence[Callable[[], torch.Tensor]]) -> float:
        """Adds the gradients of some losses, which are computed one after the other; processes exchange them with the
        last one.

        Args:
            work: each gives a loss with gradient; all processes have equally many.

        Returns:
            The sum of the losses of this process.
        """
        total = 0.0
        self.trained = set()
        for number, part in enumerate(work):
            last = number == len(work) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                loss = part()
                self.accelerator.backward(loss)
            total += float(loss.detach())
        return total

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
