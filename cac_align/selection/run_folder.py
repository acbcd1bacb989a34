"""An interrupted best-of-n run goes on where it stopped, and only with candidates that are truly the same.

Each finished candidate is one file, ``candidates/NN.npz``: its exact frames and the settings that made them. A run
reads back what matches and refuses what does not, naming the difference.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cac_align.pipelines import Pipeline
from reward_model.files import atomic
from reward_model.strict_json import differences


class ResumeError(ValueError):
    """The output folder holds candidates of another run. The message names what differs and what to do."""


def frames_path(folder: Path, index: int) -> Path:
    """File of the exact frames of a candidate."""
    return folder / "candidates" / f"{index:02d}.npz"


def store(folder: Path, index: int, frames: np.ndarray, settings: Mapping[str, Any]) -> None:
    """Writes one finished candidate, whole or not at all."""
    with atomic(frames_path(folder, index)) as temporary:
        np.savez_compressed(temporary, frames=frames, settings=np.array(json.dumps(settings)))


def load(folder: Path, index: int, settings: Mapping[str, Any]) -> np.ndarray | None:
    """The stored frames (T, H, W, 3) uint8 of a candidate made with exactly these settings; None when there is no such
    file.

    Raises:
        ResumeError: if the file was made with other settings, or cannot be read.
    """
    path = frames_path(folder, index)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            frames, stored = data["frames"], json.loads(str(data["settings"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ResumeError(f"cannot read {path}: {error}. Delete the file to draw this candidate again") from error
    _refuse(path, stored, json.loads(json.dumps(settings)))
    return frames


def check_settings(folder: Path, count: int, settings: Mapping[str, Any]) -> None:
    """Raises ResumeError if one of the first ``count`` candidates of a folder was made with other values of these
    settings: what is known before the pipeline is loaded.
    """
    for index in range(count):
        path = frames_path(folder, index)
        if not path.exists():
            continue
        try:
            with np.load(path, allow_pickle=False) as data:
                stored = json.loads(str(data["settings"]))
            known = {name: stored[name] for name in settings}
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            continue  # told when the file is read
        _refuse(path, known, dict(settings))


def _refuse(path: Path, stored: Any, wanted: Any) -> None:
    if stored != wanted:
        raise ResumeError(
            f"{path} was made with other settings: {'; '.join(differences(stored, wanted))}. "
            f"Use another output_dir, repeat the earlier settings, or delete {path.parent} to start over"
        )


def stored_pipeline(folders: Iterable[Path | None]) -> Any:
    """The marks of the pipeline that the candidates of these folders were made with, as the first one tells them; None
    if there is none that can be read.
    """
    for folder in folders:
        for path in sorted(frames_path(folder, 0).parent.glob("*.npz")) if folder is not None else ():
            try:
                with np.load(path, allow_pickle=False) as data:
                    return json.loads(str(data["settings"]))["pipeline"]
            except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
                continue  # told when the file is read
    return None


def describe_pipeline(pipe: Pipeline, known: Any = None) -> dict[str, Any]:
    """Marks that tell two pipelines apart: class, source, and per component its class and a digest of its config and
    weights.

    The weights' digest reads a few values of every tensor, milliseconds even for large models: it notices another
    checkpoint or adapter. Active adapters, their strength, attention processors of another kind and tiling follow where
    there are any.

    Args:
        pipe: a pipeline.
        known: marks that an earlier run's folder holds. Those of the same pipeline are returned as they are: its files
            may lie elsewhere now, and the digests of version 0.2 counted where they lay.
    """
    parts = {name: part for name, part in (getattr(pipe, "components", None) or {}).items() if part is not None}
    config = getattr(pipe, "config", None)
    place = str(config.get("_name_or_path") or "") if isinstance(config, Mapping) else ""
    marks = {"class": type(pipe).__name__, "model": place, "components": {n: _describe(p) for n, p in parts.items()}}
    if not isinstance(known, Mapping) or known.keys() != marks.keys():
        return marks
    for name, part in parts.items():
        before = known["components"].get(name)
        if before != marks["components"][name] and before == _describe(part, move=(place, str(known["model"]))):
            marks["components"][name] = before
    return dict(known) if known == {**marks, "model": known["model"]} else marks


def _describe(part: Any, move: tuple[str, str] | None = None) -> str:
    """Class, digest and state of a component; with the places of its pipeline now and then, as version 0.2 had it."""
    if not hasattr(part, "config"):
        return type(part).__name__
    digest = hashlib.sha256(json.dumps(plain(_config(part, move)), sort_keys=True).encode())
    for name, tensor in part.state_dict().items() if hasattr(part, "state_dict") else ():
        if not hasattr(tensor, "detach"):
            continue
        digest.update(name.encode() + str(tuple(tensor.shape)).encode())
        if tensor.device.type != "meta" and tensor.numel():
            picked = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // 4)][:4]
            digest.update(repr(picked.float().tolist()).encode())
    return " ".join([type(part).__name__, digest.hexdigest()[:12], *_state(part)])


def _state(part: Any) -> list[str]:
    """State that changes a component's output and is in neither its config nor its weights.

    Empty for a component as it was loaded, so that folders of earlier versions are recognised.
    """
    if not hasattr(part, "modules"):
        return []
    modules = list(part.modules())
    states = {
        "adapters": {name for module in modules for name in _adapters(module)},
        "processors": {name for module in modules for name in _processors(module)},
        "flags": {name for name in ("use_tiling", "use_slicing") if getattr(part, name, False) is True},
    }
    return [f"{kind}[{', '.join(sorted(names))}]" for kind, names in states.items() if names]


def _adapters(module: Any) -> set[str]:
    """The active adapters of a layer with their strength; ``off`` where it has some and none is active."""
    scaling = getattr(module, "scaling", None)
    if not isinstance(scaling, Mapping) or not hasattr(module, "active_adapters"):
        return set()
    active = [] if getattr(module, "disable_adapters", False) else module.active_adapters
    return {f"{name}={scaling[name]:g}" for name in active if name in scaling} or {"off"}


def _processors(module: Any) -> set[str]:
    """The attention processor of a layer that is not the usual one, and its attention backend."""
    processor, usual = getattr(module, "processor", None), getattr(module, "_default_processor_cls", None)
    other = processor is not None and usual is not None and type(processor) is not usual
    backend = getattr(processor, "_attention_backend", None)
    names = {type(processor).__name__} if other else set()
    return names if backend is None else names | {f"attention {getattr(backend, 'value', backend)}"}


def _config(part: Any, move: tuple[str, str] | None) -> dict[str, Any]:
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    config = {k: v for k, v in config.items() if k not in ("_diffusers_version", "transformers_version")}
    place = config.pop("_name_or_path", None)
    if move is None or place is None:
        return config
    now, then = move
    moved = isinstance(place, str) and place.startswith(now)
    return {**config, "_name_or_path": then + place.removeprefix(now) if moved else place}


def plain(value: Any) -> Any:
    """A JSON form of a pipeline argument that is equal exactly when the argument is: pictures and tensors become
    digests."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    if hasattr(value, "tobytes"):
        shape: Any = getattr(value, "shape", None) or getattr(value, "size", ())
        return f"{type(value).__name__} {tuple(shape)} {hashlib.sha256(value.tobytes()).hexdigest()[:12]}"
    # Callables, devices, dtypes: an address in a repr would differ in every run.
    return getattr(value, "__qualname__", None) or (
        str(value) if type(value).__module__ == "torch" else type(value).__name__
    )
