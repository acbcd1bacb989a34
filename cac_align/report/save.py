"""Results on disk: the videos, ``result.json``, and the page made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import cac_align
from cac_align.report.form import form_fault
from cac_align.report.media import write_mp4
from cac_align.report.page import render_page
from reward_model.files import atomic, write_json, write_text
from reward_model.video.clip import VideoError
from reward_model.video.load import read_file

if TYPE_CHECKING:
    from cac_align.selection.best import BestOfNOutput

RESULT_FILE, PAGE_FILE = "result.json", "report.html"
FORMAT = 1


class ReportError(ValueError):
    """A folder is no saved result. The message names what is missing."""


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
        "cac_align": cac_align.__version__,
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
        ReportError: the folder holds no readable result, or one of its videos is missing or broken.
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
