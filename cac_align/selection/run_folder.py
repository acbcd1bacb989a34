"""The folder of a best-of-n run: candidates while it runs, the outcome and its page at the end.

Each finished candidate is one file, ``candidates/NN.npz``: its exact frames and the settings that made them. An
interrupted run goes on where it stopped, and only with candidates that are truly the same: it reads back what matches
and refuses what does not, naming the difference. The outcome (:class:`BestOfNOutput`) adds the videos, ``result.json``
and ``report.html``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.pipelines import Pipeline
from cac_align.report.form import form_fault
from cac_align.report.page import render_page
from cac_align.report.view import domain_note, readout_note
from cac_align.rewards.base import objections, order
from cac_align.selection.candidates import VideoFrames
from cac_align.selection.costs import Cost
from reward_model.files import atomic, write_json, write_text
from reward_model.shipped import package_version
from reward_model.strict_json import differences
from reward_model.terminal.program import score_text
from reward_model.video.clip import VideoError, read_file
from reward_model.video.writing import write_mp4

if TYPE_CHECKING:
    from cac_align.selection.repair import Repair
    from reward_model.schema import Verdict

RESULT_FILE, PAGE_FILE = "result.json", "report.html"
FORMAT = 1


class ResumeError(ValueError):
    """The output folder holds candidates of another run. The message names what differs and what to do."""


class ReportError(ValueError):
    """Raised for a folder that is not a saved result. The message names what is missing."""


# --- candidates of a run that goes on ---------------------------------------------------------------------------------


def frames_path(folder: Path, index: int) -> Path:
    """File of the exact frames of a candidate."""
    return folder / "candidates" / f"{index:02d}.npz"


def store(folder: Path, index: int, frames: np.ndarray, settings: Mapping[str, Any], cost: Cost | None = None) -> None:
    """Writes one finished candidate, whole or not at all; with what it cost, where that is known."""
    told = {"settings": settings} if cost is None else {"settings": settings, "cost": asdict(cost)}
    arrays: dict[str, Any] = {name: np.array(json.dumps(value)) for name, value in told.items()}
    with atomic(frames_path(folder, index)) as temporary:
        np.savez_compressed(temporary, frames=frames, **arrays)


def load_cost(folder: Path, index: int) -> Cost | None:
    """The cost of a stored candidate that was loaded; None in folders of earlier versions."""
    with np.load(frames_path(folder, index), allow_pickle=False) as data:
        return Cost(**json.loads(str(data["cost"]))) if "cost" in data else None


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


def check_same_settings(folder: Path, count: int, settings: Mapping[str, Any]) -> None:
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


def _refuse(path: Path, stored: object, wanted: object) -> None:
    if stored != wanted:
        raise ResumeError(
            f"{path} was made with other settings: {'; '.join(differences(stored, wanted))}. "
            f"Use another output_dir, repeat the earlier settings, or delete {path.parent} to start over"
        )


def stored_pipeline(folders: Iterable[Path | None]) -> object:
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


def describe_pipeline(pipe: Pipeline, known: object = None) -> dict[str, Any]:
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
    names = {n: _describe(p) for n, p in parts.items()}
    marks: dict[str, Any] = {"class": type(pipe).__name__, "model": place, "components": names}
    if not isinstance(known, Mapping) or known.keys() != marks.keys():
        return marks
    for name, part in parts.items():
        before = known["components"].get(name)
        if before != marks["components"][name] and before == _describe(part, move=(place, str(known["model"]))):
            marks["components"][name] = before
    return dict(known) if known == {**marks, "model": known["model"]} else marks


def _describe(part: object, move: tuple[str, str] | None = None) -> str:
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


def _state(part: object) -> list[str]:
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


def _adapters(module: object) -> set[str]:
    """The active adapters of a layer with their strength; ``off`` where it has some and none is active."""
    scaling = getattr(module, "scaling", None)
    if not isinstance(scaling, Mapping) or not hasattr(module, "active_adapters"):
        return set()
    active = [] if getattr(module, "disable_adapters", False) else module.active_adapters
    return {f"{name}={scaling[name]:g}" for name in active if name in scaling} or {"off"}


def _processors(module: object) -> set[str]:
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


def plain(value: object) -> object:
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


# --- the outcome and its files ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class BestOfNOutput:
    """The candidates of one prompt, what the reward said of them, and the choice.

    Lists have one entry per candidate, in drawing order. ``scores`` and ``verdicts`` hold None if there is none;
    ``reasons`` says why a score is missing; ``parts`` holds the members' scores of a composite reward.
    """

    prompt: str
    candidates: list[np.ndarray]
    scores: list[float | None]
    best: int
    seeds: list[int]
    verdicts: list[Verdict | None]
    reasons: list[str | None]
    fps: float
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    #: Forward passes, judge calls, seconds, and what a random pick would have got; see docs/how_to/best_of_n.md.
    costs: dict[str, Any] = field(default_factory=dict)
    #: The outcome of the previews, where there were some; and the candidates they chose, which were drawn in full.
    previews: BestOfNOutput | None = None
    kept: list[int] | None = None
    #: Outcomes of repairs by candidate; an accepted one has taken the place of the candidate's frames.
    repairs: dict[int, Repair] = field(default_factory=dict)

    @property
    def frames(self) -> VideoFrames:
        """The chosen video, an array (T, H, W, 3) uint8. A single frame of it, ``out.frames[k]``, is a PIL image, so
        that ``diffusers.utils.export_to_video(out.frames, ...)`` writes what is there: it multiplies arrays by 255.
        ``out.candidates[out.best]`` is the plain array.
        """
        return self.candidates[self.best].view(VideoFrames)

    @property
    def ranking(self) -> list[int]:
        """Candidates from best to worst, by :func:`cac_align.rewards.base.order`; ties in drawing order, those without
        a score last, and those that previews left out behind all others."""
        found = order(self.scores, objections(self.verdicts), self.settings.get("rank_by", "verdict"))
        kept = range(len(found)) if self.kept is None else self.kept
        return sorted(found, key=lambda k: k not in kept)

    def _stage_notes(self, k: int) -> list[str]:
        if self.previews is None and not self.repairs:
            return []
        from cac_align.selection.stages import notes

        return notes(k, self.kept, self.settings, self.repairs.get(k))

    def __repr__(self) -> str:
        return f"BestOfNOutput(prompt={self.prompt!r}, best={self.best}, scores={self.scores})"

    def __str__(self) -> str:
        """One line per candidate, best first."""
        return "\n".join(f"{rank}.  {self._line(k)}" for rank, k in enumerate(self.ranking, 1))

    def _line(self, k: int) -> str:
        score, verdict = self.scores[k], self.verdicts[k]
        if score is None:
            return f"candidate {k:02d}    -     could not judge: {self.reasons[k]}"
        types = ", ".join(t.value for t in verdict.types) if verdict else ""
        note = readout_note(verdict, score)
        notes = [note, domain_note(verdict), *self._stage_notes(k)]
        said = "  ".join([*([types] if types else []), *(f"({text})" for text in notes if text)])
        return f"candidate {k:02d}  {score_text(score)}  {verdict.status if verdict else ''}  {said}".rstrip()

    def save(self, directory: str | Path) -> Path:
        """Writes ``best.mp4``, ``candidates/*.mp4``, ``result.json`` and ``report.html``; each file is written whole or
        not at all.

        Args:
            directory: created when missing; files of an earlier save are replaced.

        Returns:
            The path of ``report.html``, a self-contained page.
        """
        return save_output(self, Path(directory))


def save_output(output: BestOfNOutput, folder: Path) -> Path:
    """Writes everything :meth:`cac_align.BestOfNOutput.save` promises; returns the path of the page."""
    entries, videos = [], []
    for k, frames in enumerate(output.candidates):
        path = folder / "candidates" / f"{k:02d}.mp4"
        scale = write_mp4(path, frames, output.fps)
        videos.append(path.read_bytes())
        verdict = output.verdicts[k]
        entries.append(
            {
                "index": k,
                "seed": output.seeds[k],
                "score": output.scores[k],
                "reason": output.reasons[k],
                "parts": {name: scores[k] for name, scores in output.parts.items()},
                "video": f"candidates/{path.name}",
                "scale": scale,
                "verdict": verdict.to_dict() if verdict is not None else None,
                "out_of_domain": verdict.out_of_domain if verdict is not None else None,
                **_stages(output, k, folder),
            }
        )
    with atomic(folder / "best.mp4") as temporary:
        temporary.write_bytes(videos[output.best])
    shape = output.frames.shape
    result = {
        "format": FORMAT,
        "cac_align": package_version(),
        "prompt": output.prompt,
        "best": output.best,
        "ranking": output.ranking,
        "fps": output.fps,
        "num_frames": [len(c) for c in output.candidates],
        "height": shape[1],
        "width": shape[2],
        "settings": output.settings,
        **({"costs": output.costs} if output.costs else {}),
        "candidates": entries,
    }
    write_json(folder / RESULT_FILE, result)
    write_text(folder / PAGE_FILE, render_page(_pictured(result, folder), videos, output.candidates))
    return folder / PAGE_FILE


def _stages(output: BestOfNOutput, k: int, folder: Path) -> dict[str, Any]:
    """Part of a candidate's entry on its preview and its repair; empty where there were none."""
    told: dict[str, Any] = {}
    if (previews := output.previews) is not None:
        from cac_align.selection.stages import preview_entry, preview_note

        rank = previews.ranking.index(k) + 1
        note = preview_note(k, output.kept, output.settings)
        told["preview"] = preview_entry(previews.scores[k], previews.verdicts[k], rank, note)
    if (repair := output.repairs.get(k)) is not None:
        from cac_align.selection.stages import repair_entry

        told["repair"] = repair_entry(repair, folder, k, output.fps)
    return told


def render_folder(folder: Path) -> Path:
    """Writes the page of a saved result again, from ``result.json`` and the stored videos.

    Raises:
        ReportError: if the folder holds no readable result, or one of its videos is missing or broken.
    """
    result = read_result(folder / RESULT_FILE)
    videos, frames = [], []
    for entry in result["candidates"]:
        path = folder / "candidates" / Path(entry["video"]).name
        if not path.is_file():
            raise ReportError(
                f"candidate {entry['index']} of {folder}: {path} is not a file; draw the candidates again"
            )
        try:
            frames.append(_stills(path, entry["scale"]))
        except VideoError as error:
            raise ReportError(f"candidate {entry['index']} of {folder}: {error}") from error
        videos.append(path.read_bytes())
    from jinja2 import TemplateError

    # The verdicts inside may be anything: what reads them says what is wrong.
    broken = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, TemplateError)
    try:
        page = render_page(_pictured(result, folder), videos, frames)
    except broken as error:
        place = folder / RESULT_FILE
        raise ReportError(f"{place} is not a complete result of best_of_n: {error!r}; save it again") from error
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _pictured(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The result as the page shows it: with the pictures of repairs, where there are any."""
    if not any("repair" in entry for entry in result["candidates"]):
        return result
    from cac_align.selection.stages import with_pictures

    return with_pictures(result, folder)


def _stills(path: Path, scale: int) -> np.ndarray:
    """The frames of a saved video at their native size."""
    return np.ascontiguousarray(read_file(path)[0][:, scale // 2 :: scale, scale // 2 :: scale])


def read_result(path: Path) -> dict[str, Any]:
    """The outcome in a ``result.json``, whose form is checked.

    Raises:
        ReportError: if it is not there, not JSON, of another format or incomplete.
    """
    if not path.is_file():
        raise ReportError(f"{path.parent} holds no {RESULT_FILE}; give a folder that BestOfNOutput.save wrote")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}") from error
    version = result.get("format") if isinstance(result, dict) else None
    if version != FORMAT:
        raise ReportError(f"{path} has format {version!r}; this version reads format {FORMAT}. Save the result again")
    if fault := form_fault(result):
        raise ReportError(f"{path} is not a complete result of best_of_n: {fault}; save the result again")
    return result
