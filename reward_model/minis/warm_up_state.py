"""State of a warm-up of the mini, in one file: a stopped one continues as if it had never stopped.

Tensors (weights, moments of the optimisers) are the body of a safetensors file, counters and schedules its header. It
is written beside its place and renamed, so it is always whole. Samples are a function of seed and step and no step
draws at random, so there is no random state to keep.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed, nn

from reward_model.engine.guards import TrainingStopped, safetensors_fault
from reward_model.files import atomic

log = logging.getLogger(__name__)

#: States kept over the length of a warm-up: a stop costs a fortieth of it at most.
NUM_STATES = 40


class WarmupState:
    """The state of one warm-up, for all processes of it: the first one writes, each one reads.

    Args:
        path: the file; None keeps nothing.
        modules: what is trained, by name.
        optimizers, schedules: what trains it.
        run: what must be equal for a state to be continued, ``steps`` among it.

    Example:
        >>> state = WarmupState(path, {"tower": tower}, optimizers, schedules, {"steps": 8000})    # doctest: +SKIP
        >>> first, right = state.load()                                                            # doctest: +SKIP
        >>> state.keep(first + 1, right)                                                           # doctest: +SKIP
    """

    def __init__(
        self,
        path: Path | None,
        modules: Mapping[str, nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        schedules: Sequence[Any],
        run: Mapping[str, Any],
    ) -> None:
        self.path, self.modules, self.optimizers, self.schedules = path, modules, optimizers, schedules
        ready = distributed.is_initialized()
        self.run = {**run, "num_processes": distributed.get_world_size() if ready else 1}
        self.writes = not ready or distributed.get_rank() == 0
        self.every = max(1, int(run["steps"]) // NUM_STATES)

    def load(self) -> tuple[int, float]:
        """Restores what the file holds; returns the steps that are done and the share that is right, (0, 0.0) without
        a file.

        Raises:
            ValueError: if the file is of another warm-up.
        """
        if self.path is None or not self.path.is_file():
            return 0, 0.0
        if fault := safetensors_fault(self.path):
            log.warning("%s is incomplete (%s); the warm-up restarts", self.path, fault)
            return 0, 0.0
        with safe_open(self.path, framework="pt") as file:
            known = json.loads(file.metadata()["state"])
            self._check(known["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        with torch.no_grad():
            for name, value in self._weights():
                value.copy_(tensors[name])
        for k, (optimizer, rates) in enumerate(zip(self.optimizers, known["rates"], strict=True)):
            optimizer.load_state_dict(_optimizer_state(optimizer, rates, tensors, f"optimizers.{k}."))
        for schedule, kept in zip(self.schedules, known["schedules"], strict=True):
            schedule.load_state_dict(kept)
        log.info("continues after step %d of %d, from %s", known["step"], self.run["steps"], self.path)
        return known["step"], known["right"]

    def keep(self, step: int, right: float) -> None:
        """Writes the state after ``step`` steps, now and then (:data:`NUM_STATES`).

        Raises:
            TrainingStopped: it could not be written; the one before is as it was.
        """
        if self.path is None or not self.writes or step % self.every:
            return
        known = {
            "step": step,
            "right": right,
            "run": self.run,
            "rates": [[group["lr"] for group in o.param_groups] for o in self.optimizers],
            "schedules": [s.state_dict() for s in self.schedules],
        }
        tensors = {name: value.detach() for name, value in self._weights()}
        for k, optimizer in enumerate(self.optimizers):
            for index, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizers.{k}.{index}.{name}": value for name, value in values.items()}
        try:
            with atomic(self.path) as temporary:
                save_file(tensors, temporary, metadata={"state": json.dumps(known)})
        except Exception as error:
            # What safetensors raises on a full disk differs by version.
            raise TrainingStopped(
                f"the state after step {step} could not be written to {self.path} ({type(error).__name__}: {error}). "
                "Free space there; the same command continues from the state before, if there is one"
            ) from error

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for part, module in self.modules.items():
            for name, value in module.named_parameters():
                yield f"{part}.{name}", value

    def _check(self, known: Mapping[str, Any]) -> None:
        wrong = [f"{k} was {known.get(k)!r} and is now {v!r}" for k, v in self.run.items() if known.get(k) != v]
        if wrong:
            raise ValueError(
                f"{str(self.path)!r} is of another warm-up: {'; '.join(wrong)}. Give the old settings, another "
                "output_dir, or --resume False to restart"
            )


def forget_state(path: Path) -> None:
    """Removes the state of a warm-up that is done, and what a kill left of writing it."""
    for old in (path, *path.parent.glob(f".{path.stem}.*{path.suffix}")):
        old.unlink(missing_ok=True)


def _optimizer_state(
    optimizer: torch.optim.Optimizer, rates: Sequence[float], tensors: Mapping[str, torch.Tensor], prefix: str
) -> dict[str, Any]:
    """The optimiser's own groups at other rates, with the moments whose names begin with ``prefix``."""
    groups = [{**g, "lr": lr} for g, lr in zip(optimizer.state_dict()["param_groups"], rates, strict=True)]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, _, key = name.removeprefix(prefix).partition(".")
            state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": groups}
