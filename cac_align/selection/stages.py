"""Notes and pictures of previews and repairs, for a candidate's line, its entry of ``result.json`` and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cac_align.report.view import spread
from reward_model.files import atomic
from reward_model.video.writing import data_uri, display_scale, write_mp4

if TYPE_CHECKING:
    from cac_align.selection.repair import Repair
    from reward_model.schema import Verdict

#: Pixels of the pictures of a repair, from top to bottom.
TALLEST = 240


def notes(k: int, kept: Sequence[int] | None, settings: Mapping[str, Any], repair: Repair | None) -> list[str]:
    """Half sentences on a candidate that is shown as its preview, or that a repair was tried on."""
    found = [preview_note(k, kept, settings)]
    if repair is not None:
        found.append("repaired" if repair.accepted else f"repair not accepted: {repair.reason}")
    return found


def preview_note(k: int, kept: Sequence[int] | None, settings: Mapping[str, Any]) -> str:
    """Half a sentence on a candidate that previews left out; ``""`` for one they kept, and where there were none."""
    if kept is None or k in kept:
        return ""
    steps = settings["preview_steps"]
    return "left out by its preview" if settings.get("judge_all") else f"only its preview of {steps} steps"


def preview_entry(score: float | None, verdict: Verdict | None, rank: int, note: str) -> dict[str, Any]:
    """A candidate's preview as ``result.json`` tells it; ``rank`` is its place among the previews, 1 the best."""
    return {"score": score, "status": None if verdict is None else verdict.status, "rank": rank, "note": note}


def repair_entry(repair: Repair, folder: Path, k: int, fps: float) -> dict[str, Any]:
    """A repair as ``result.json`` tells it; writes the video that does not stand among the candidates, and pictures
    before, of the mask, and after.
    """
    place = folder / "repairs"
    other, frames = ("before", repair.before) if repair.accepted else ("after", repair.after)
    write_mp4(place / f"{k:02d}-{other}.mp4", frames, fps)
    pictures = {}
    for name, picture in repair_pictures(repair).items():
        pictures[name] = f"repairs/{k:02d}-{name}.png"
        with atomic(folder / pictures[name]) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
    return {
        "accepted": repair.accepted,
        "reason": repair.reason,
        "score_before": repair.score_before,
        "score_after": repair.score_after,
        "status_after": repair.verdict.status if repair.verdict is not None else None,
        "cells": int(repair.cells.sum()),
        "of_cells": int(repair.cells.size),
        "kept_change": round(repair.kept_change, 4),
        "vae_error": round(repair.vae_error, 4),
        "forwards": repair.cost.forwards,
        "seconds": round(repair.cost.seconds, 4),
        "seed": repair.seed,
        "video": f"repairs/{k:02d}-{other}.mp4",
        "pictures": pictures,
    }


def repair_pictures(repair: Repair, count: int = 4) -> dict[str, np.ndarray]:
    """Frames before, the same with the cells that were drawn again left bright, and frames after, each (H, N W, 3)
    uint8 with frames side by side, from the first to the last that was redrawn.
    """
    from cac_align.selection.repair import pixels_of

    mask = pixels_of(repair.cells, repair.before.shape)
    touched = np.flatnonzero(mask.any((1, 2)))
    frames = spread(touched.tolist(), count)
    scale = max(1, min(display_scale(*repair.before.shape[1:3]), TALLEST // repair.before.shape[1]))
    dimmed = np.where(mask[..., None], repair.before, repair.before // 4)

    def shown(frame: np.ndarray) -> np.ndarray:
        if len(frame) <= TALLEST:
            return frame.repeat(scale, 0).repeat(scale, 1)
        width = round(frame.shape[1] * TALLEST / len(frame))
        return np.asarray(Image.fromarray(frame).resize((width, TALLEST), Image.Resampling.LANCZOS))

    def strip(video: np.ndarray) -> np.ndarray:
        return np.concatenate([shown(video[k]) for k in frames], axis=1)

    return {"before": strip(repair.before), "mask": strip(dimmed), "after": strip(repair.after)}


def with_pictures(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A result whose repairs hold their pictures as data URIs, for the page; pictures that are gone are left out."""

    def filled(entry: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(entry.get("repair"), dict):
            return entry
        named = {name: folder / "repairs" / Path(path).name for name, path in entry["repair"]["pictures"].items()}
        shown = {n: data_uri(path.read_bytes(), "image/png") for n, path in named.items() if path.is_file()}
        return {**entry, "repair": {**entry["repair"], "pictures": shown}}

    return {**result, "candidates": [filled(entry) for entry in result["candidates"]]}
