"""The outcome of best-of-n, and its files: the videos, ``result.json``, and the page made from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.report.form import form_fault
from cac_align.report.media import write_mp4
from cac_align.report.page import render_page
from cac_align.report.view import readout_note
from cac_align.rewards.order import objections, order
from reward_model.files import atomic, write_json, write_text
from reward_model.shipped import package_version
from reward_model.terminal.program import score_text
from reward_model.video.clip import VideoError, read_file

if TYPE_CHECKING:
    from reward_model.schema import Verdict

RESULT_FILE, PAGE_FILE = "result.json", "report.html"
FORMAT = 1


class ReportError(ValueError):
    """Raised for a folder that is not a saved result. The message names what is missing."""


class VideoFrames(np.ndarray):
    """(T, H, W, 3) uint8, of which a single frame is a PIL image; slices and everything else are as of any array."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, int | np.integer) and self.ndim == 4 and self.dtype == np.uint8:
            from PIL import Image

            return Image.fromarray(np.asarray(found))
        return found if isinstance(found, np.generic) else np.asarray(found)

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain


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

    @property
    def frames(self) -> VideoFrames:
        """The chosen video, an array (T, H, W, 3) uint8. A single frame of it, ``out.frames[k]``, is a PIL image, so
        that ``diffusers.utils.export_to_video(out.frames, ...)`` writes what is there: it multiplies arrays by 255.
        ``out.candidates[out.best]`` is the plain array.
        """
        return self.candidates[self.best].view(VideoFrames)

    @property
    def ranking(self) -> list[int]:
        """Candidates from best to worst, by :func:`cac_align.rewards.order.order`; ties in drawing order, those without
        a score last."""
        return order(self.scores, objections(self.verdicts), self.settings.get("rank_by", "verdict"))

    def __repr__(self) -> str:
        return f"BestOfNOutput(prompt={self.prompt!r}, best={self.best}, scores={self.scores})"

    def __str__(self) -> str:
        """One line per candidate, best first."""
        return "\n".join(f"{rank}.  {self._line(k)}" for rank, k in enumerate(self.ranking, 1))

    def _line(self, k: int) -> str:
        score, verdict = self.scores[k], self.verdicts[k]
        if score is None:
            return f"candidate {k:02d}    -     could not judge: {self.reasons[k]}"
        found = ", ".join(t.value for t in verdict.types) if verdict else ""
        note = readout_note(verdict, score)
        said = "  ".join(part for part in (found, f"({note})" if note else "") if part)
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
        "candidates": entries,
    }
    write_json(folder / RESULT_FILE, result)
    write_text(folder / PAGE_FILE, render_page(result, videos, output.candidates))
    return folder / PAGE_FILE


def render_folder(folder: Path) -> Path:
    """Writes the page of a saved result again, from ``result.json`` and the stored videos.

    Raises:
        ReportError: if the folder holds no readable result, or one of its videos is missing or broken.
    """
    result = _read_result(folder / RESULT_FILE)
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
        page = render_page(result, videos, frames)
    except broken as error:
        place = folder / RESULT_FILE
        raise ReportError(f"{place} is not a complete result of best_of_n: {error!r}; save it again") from error
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def _stills(path: Path, scale: int) -> np.ndarray:
    """The frames of a saved video at their native size."""
    return np.ascontiguousarray(read_file(path)[0][:, scale // 2 :: scale, scale // 2 :: scale])


def _read_result(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ReportError(f"{path.parent} holds no {RESULT_FILE}; give a folder that BestOfNOutput.save wrote")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not JSON: {error}") from error
    found = result.get("format") if isinstance(result, dict) else None
    if found != FORMAT:
        raise ReportError(f"{path} has format {found!r}; this version reads format {FORMAT}. Save the result again")
    if fault := form_fault(result):
        raise ReportError(f"{path} is not a complete result of best_of_n: {fault}; save the result again")
    return result
