"""Checkpoints: everything a run needs to go on as if it had never stopped, in safetensors and JSON, whole or absent.

A folder ``checkpoint-N`` holds ``lora``, ``optimizer``, ``ema`` (and ``old`` for nft) by parameter name, the random
states of every process (under DeepSpeed also its share of the optimiser), and ``grpo_state.json`` with counters,
schedule, settings, the fingerprint of the sigma schedule, the evaluations and a digest of every file. The engine writes
it beside its place and renames it at the end. Nothing in it is pickled, so a folder from elsewhere can hold wrong
numbers but no code; :mod:`~cac_align.flow_grpo.learner.checkpoint_checks` demands and inspects every part before a run
continues.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cac_align.flow_grpo.learner.checkpoint_checks import (
    MOMENTS,
    Layout,
    Tensors,
    check_counters,
    check_file,
    check_tensors,
    damaged,
    digest,
    last_finished_checkpoint,
    newest_checkpoint,
    read_state,
)
from reward_model.engine.checkpoints import STATE_FILE, TrainingCheckpointError, check_same_run, write_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

__all__ = [
    "TrainingCheckpointError",
    "last_finished_checkpoint",
    "newest_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    step: int,
    parts: Mapping[str, Tensors],
    state: Mapping[str, Any],
    keep: int,
    *,
    own: Mapping[str, Tensors] | None = None,
) -> Path:
    """Writes ``checkpoint-<step>`` and deletes all but the last ``keep``. Called by all processes.

    Args:
        accelerator: processes.
        output_dir: folder of the run.
        step: rounds done.
        parts: tensors by file and name, whole, equal on all processes.
        state: what goes into JSON.
        keep: checkpoints kept.
        own: tensors by file and name, of this process alone; the names of files are equal on all processes.

    Raises:
        TrainingCheckpointError: it could not be written (disk full, ...), on every process. Older checkpoints stay.
    """
    own = own or {}
    names = {"parts": sorted(parts), "own_parts": sorted(own)}
    return write_checkpoint(
        accelerator,
        output_dir,
        step,
        write=lambda folder: _write(accelerator, folder, parts, own),
        finish=lambda folder: _write_state(folder, {**state, "step": step, **names}),
        keep=keep,
    )


def read_checkpoint(
    folder: Path,
    expected: Mapping[str, Any],
    process: int,
    processes: int = 1,
    *,
    layout: Layout,
    counters: Mapping[str, Any],
    ema_every: int = 0,
    meant: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> tuple[dict[str, Tensors], dict]:
    """The parts and the state of a checkpoint, once it is seen to belong to this run and to be whole; random states are
    restored.

    Args:
        folder: ``checkpoint-N``.
        expected: entries of the state that must be equal, or the run would not be the same.
        process: whose random state is restored. With another number of processes than before there may be none: the
            samples of a run depend on seeds alone, so that is logged and nothing more.
        processes: there are. State that each process keeps for itself can only be read by as many.
        layout: names and shapes of the tensors of every part that is read (:meth:`.Learner.layout`).
        counters: those of a fresh run, as :meth:`.Learner.counters` has them: the form of what is read.
        ema_every: updates between two averagings, 0 without an average.
        meant: gives the state of an older checkpoint as today's would say it.

    Raises:
        TrainingCheckpointError: it belongs to another run, or a file is damaged; the message says which and what to do.
    """
    state = read_state(folder)
    check_same_run(folder, meant(state), _plain(expected))
    check_counters(folder, state, _plain(counters), ema_every)
    own = state.get("own_parts") or []
    if own and state["num_processes"] != processes:
        raise TrainingCheckpointError(
            f"{str(folder)!r} was written by {state['num_processes']} processes under DeepSpeed, which divides "
            f"its state among them; resume with as many, not {processes}"
        )
    if missing := sorted(set(layout) - {*state["parts"], *own}):
        raise damaged(folder / STATE_FILE, f"'parts' lacks {missing[0]!r}")
    parts = _read_parts(folder, state, own, process, layout)
    if process < state["num_processes"]:
        _restore_random(folder, process, state)
    else:
        log.warning("%s has no random state of process %d; it was written by fewer processes", folder.name, process)
    return parts, state


def _read_parts(
    folder: Path, state: Mapping[str, Any], own: Sequence[str], process: int, layout: Layout
) -> dict[str, Tensors]:
    """The tensors of every part, with the names and shapes they must have."""
    parts: dict[str, Tensors] = {}
    for name in layout:
        path = folder / f"{name}_{process}.safetensors" if name in own else folder / f"{name}.safetensors"
        parts[name] = _load(path, state)
        # AdamW has no state before its first update; in fp16 every update so far may have overflowed.
        none_yet = name == "optimizer" and (not state["updates"] or (state.get("scaler") and not parts[name]))
        check_tensors(path, parts[name], {} if none_yet and name not in own else layout[name], exact=name not in own)
    return parts


def _load(path: Path, state: Mapping[str, Any]) -> Tensors:
    from safetensors.torch import load_file

    check_file(path, state)
    try:
        return load_file(path)
    except Exception as error:
        # A file that is cut, or whose header was changed, is refused by safetensors in a dozen ways.
        raise damaged(path, f"{error}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]) -> Tensors:
    """AdamW's state as ``<parameter>/<moment>``; empty before the first update.

    An expert that no update has trained yet has no state. Zeros, which AdamW would begin with, stand for it.
    """
    tensors: Tensors = {}
    known = [parameter for parameter in parameters.values() if optimizer.state.get(parameter)]
    for name, parameter in parameters.items() if known else ():
        fresh = {key: torch.zeros(()) if key == "step" else torch.zeros_like(parameter) for key in MOMENTS}
        for key, value in (optimizer.state.get(parameter) or fresh).items():
            tensors[f"{name}/{key}"] = whole(torch.as_tensor(value))
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], saved: Tensors
) -> None:
    """Puts :func:`optimizer_tensors` back, onto the parameters' devices and shards."""
    if not saved:
        return  # before the first update
    for name, parameter in parameters.items():
        entries = {key: saved[f"{name}/{key}"] for key in MOMENTS}
        optimizer.state[parameter] = {
            key: value.clone() if key == "step" else like(value, parameter) for key, value in entries.items()
        }


def shard_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Master weights and AdamW's state of the flat shares DeepSpeed (ZeRO-1, -2) gives a process."""
    tensors: Tensors = {}
    for number, share in enumerate(_shares(optimizer)):
        tensors[f"{number}/weights"] = share.detach().cpu().clone()
        for key, value in optimizer.state.get(share, {}).items():
            tensors[f"{number}/{key}"] = torch.as_tensor(value).detach().cpu().clone()
    return tensors


@torch.no_grad()
def restore_shard(optimizer: torch.optim.Optimizer, saved: Tensors) -> None:
    """Puts :func:`shard_tensors` back."""
    for number, share in enumerate(_shares(optimizer)):
        share.copy_(saved[f"{number}/weights"])
        entries = {key: saved[f"{number}/{key}"] for key in MOMENTS if f"{number}/{key}" in saved}
        if entries:
            optimizer.state[share] = {k: v.clone() if k == "step" else v.to(share.device) for k, v in entries.items()}


def shard_layout(optimizer: torch.optim.Optimizer) -> dict[str, tuple[int, ...]]:
    """Names and shapes of :func:`shard_tensors` that a checkpoint must have at least."""
    return {k: tuple(v.shape) for k, v in shard_tensors(optimizer).items() if not k.endswith("/step")}


def _shares(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [share for group in optimizer.param_groups for share in group["params"]]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, gathered if it is spread over processes (FSDP2: called by all of them)."""
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return tensor.to("cpu", copy=True).contiguous()


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor on the parameter's device, and spread as it is."""
    moved = value.to(parameter.device, copy=True)
    if not hasattr(parameter, "full_tensor"):
        return moved
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(moved, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]


def _write(accelerator: Accelerator, folder: Path, parts: Mapping[str, Tensors], own: Mapping[str, Tensors]) -> None:
    """This process's files."""
    from safetensors.torch import save_file

    process = accelerator.process_index
    tensors, plain = _random_state()
    save_file(tensors, folder / f"random_{process}.safetensors")
    (folder / f"random_{process}.json").write_text(json.dumps(plain), encoding="utf-8")
    for name, content in own.items():
        save_file(content, folder / f"{name}_{process}.safetensors")
    if accelerator.is_main_process:
        for name, content in parts.items():
            save_file(content, folder / f"{name}.safetensors")


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """The state, with a digest of every file that is there."""
    digests = {path.name: digest(path) for path in sorted(folder.iterdir())}
    text = json.dumps({**_plain(state), "digests": digests}, indent=2, allow_nan=False)
    (folder / STATE_FILE).write_text(text + "\n", encoding="utf-8")


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples become lists, numbers that are none are refused."""
    return json.loads(json.dumps(dict(state), allow_nan=False))


def _random_state() -> tuple[Tensors, dict[str, Any]]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    kind, keys, place, has_gauss, gauss = np.random.get_state()
    version, internal, following = random.getstate()
    numpy_state = [str(kind), np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)]
    return tensors, {"numpy": numpy_state, "python": [version, list(internal), following]}


def _restore_random(folder: Path, process: int, state: Mapping[str, Any]) -> None:
    tensors = _load(folder / f"random_{process}.safetensors", state)
    path = folder / f"random_{process}.json"
    check_file(path, state)
    try:
        _set_random(tensors, json.loads(path.read_text(encoding="utf-8")))
    except Exception as error:
        # torch, numpy and random each refuse what is not a state in their own way.
        raise damaged(path, f"it holds no random state ({type(error).__name__}: {error})") from error


def _set_random(tensors: Tensors, plain: Mapping[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    kind, keys, place, has_gauss, gauss = plain["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, gauss))
    version, internal, following = plain["python"]
    random.setstate((version, tuple(internal), following))
