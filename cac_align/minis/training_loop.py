"""One training loop for the mini models: schedule, EMA, TensorBoard, and checkpoints that survive a kill.

A run is a pure function of its seed: the batch and the noise of a step come from generators made from ``(seed, step)``,
so a resumed run continues exactly where it stopped and there is no random state to save.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from reward_model.engine.interrupts import StopRequest
from reward_model.engine.muon import MuonAdamW, divide_parameters
from reward_model.files import atomic

log = logging.getLogger(__name__)

#: A step's loss (a scalar tensor) and numbers to log.
LossAndNumbers = tuple[torch.Tensor, dict[str, float]]
#: Computes them from the step and its two random generators.
LossFn = Callable[[int, np.random.Generator, torch.Generator], LossAndNumbers]


@dataclass(frozen=True)
class LoopConfig:
    """Length of a training and its intervals; learning rates are set in the optimizers."""

    num_steps: int
    seed: int = 0
    warmup_steps: int = 50
    final_lr: float = 0.0
    ema_decay: float = 0.995
    max_grad_norm: float = 1.0
    log_every: int = 20
    save_every: int = 100


def generators(seed: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The randomness of one step, the same on every machine."""
    rng = np.random.default_rng([seed, step])
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


def learning_rate_factor(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then a cosine down to ``final_lr``, as a share of the full learning rate."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / max(1, config.num_steps))
    return warmup * (config.final_lr + (1 - config.final_lr) * cosine)


def mini_optimizers(
    modules: Iterable[nn.Module], *, lr: float, adam_lr: float, adam_names: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices, AdamW for the rest; see :func:`reward_model.engine.muon.divide_parameters`."""
    named = [pair for module in modules for pair in module.named_parameters()]
    groups = divide_parameters(named, lr=lr, adam_lr=adam_lr, adam_names=adam_names)
    return [MuonAdamW(groups, momentum=0.9, betas=(0.9, 0.99), weight_decay=0.0)]


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """``torch.save`` that never leaves half a file behind: written beside the target, then renamed."""
    with atomic(path) as temporary:
        torch.save(dict(state), temporary)


class TrainingLoop:
    """Trains ``modules`` by a loss function and keeps an average of their weights.

    Args:
        modules: what is trained, by name; the names are the keys of the checkpoint.
        optimizers: stepped together; their learning rates at construction are the full ones.
        config: length, seed, intervals.
        directory: holds ``checkpoint.pt`` and TensorBoard's files.
        resume: continue from ``checkpoint.pt`` where there is one.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: list[torch.optim.Optimizer],
        config: LoopConfig,
        directory: Path,
        resume: bool = True,
    ) -> None:
        self.modules, self.optimizers, self.config = dict(modules), optimizers, config
        self.checkpoint = directory / "checkpoint.pt"
        self.ema = {k: copy.deepcopy(m).eval().requires_grad_(False) for k, m in modules.items()}
        self.full_rates = [[group["lr"] for group in o.param_groups] for o in optimizers]
        self.writer = SummaryWriter(str(directory))
        self.step = 0
        for leftover in directory.glob(f".{self.checkpoint.name}.*"):  # of a process killed while it wrote
            leftover.unlink(missing_ok=True)
        if resume and self.checkpoint.exists():
            self.load()

    def run(self, loss_fn: LossFn, on_save: Callable[[TrainingLoop], None] | None = None, name: str = "train") -> None:
        """Runs to ``num_steps``; ``on_save`` is called after each checkpoint but the last, for sample sheets.

        Raises:
            SystemExit: with the code of the signal (130, 143), where Ctrl-C or SIGTERM asked to stop: the step is
                finished and saved first.
        """
        bar = tqdm(total=self.config.num_steps, initial=self.step, desc=name, mininterval=5.0)
        stop = StopRequest()
        with stop.listening(), bar:
            while self.step < self.config.num_steps:
                numbers = self._train_step(loss_fn)
                if self.step % self.config.log_every == 0:
                    bar.set_postfix({k: f"{v:.4g}" for k, v in numbers.items()})
                    for key, value in numbers.items():
                        self.writer.add_scalar(f"{name}/{key}", value, self.step)
                bar.update()
                done = self.step == self.config.num_steps
                if self.step % self.config.save_every == 0 or done or stop.requested:
                    self.save()
                    if on_save is not None and not done and not stop.requested:
                        on_save(self)
                if stop.requested and not done:
                    log.warning("%s: stopped after step %d; the same command resumes from there", name, self.step)
                    raise SystemExit(128 + stop.signal)
        self.writer.flush()

    def _train_step(self, loss_fn: LossFn) -> dict[str, float]:
        factor = learning_rate_factor(self.step, self.config)
        for optimizer, rates in zip(self.optimizers, self.full_rates, strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss, numbers = loss_fn(self.step, *generators(self.config.seed, self.step))
        loss.backward()
        params = [p for m in self.modules.values() for p in m.parameters() if p.grad is not None]
        grad_norm = nn.utils.clip_grad_norm_(params, self.config.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self._update_ema()
        self.step += 1
        return {"loss": float(loss.detach()), **numbers, "grad_norm": float(grad_norm), "lr_factor": factor}

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for key, module in self.modules.items():
            for average, value in zip(self.ema[key].parameters(), module.parameters(), strict=True):
                average.lerp_(value, 1 - decay)

    def save(self) -> None:
        """Writes weights, averages, optimizers and the step, atomically."""
        state = {
            "step": self.step,
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "ema": {k: m.state_dict() for k, m in self.ema.items()},
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        save_atomically(state, self.checkpoint)

    def load(self) -> None:
        """Restores what :meth:`save` wrote.

        Raises:
            ValueError: if the file is damaged, or of another model.
        """
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            for key, module in self.modules.items():
                module.load_state_dict(state["modules"][key])
                self.ema[key].load_state_dict(state["ema"][key])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = int(state["step"])
        except Exception as error:
            # A file that is cut or foreign is refused by zip, pickle and torch in a way of each.
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{str(self.checkpoint)!r} cannot be continued from ({type(error).__name__}: {reason}); delete it to "
                "restart this part"
            ) from error
