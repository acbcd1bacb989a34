"""Texts and pictures of a report on what was drawn twice: previews and repairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def preview_view(told: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Text on a candidate's preview; ``left_out`` where it did not let the candidate through."""
    if told is None:
        return None
    score = "no score" if told["score"] is None else f"score {told['score']:.3f}"
    status = f", {told['status']}" if told["status"] else ""
    note: str = told["note"]
    return {"left_out": note, "text": f"Its preview came {_ordinal(told['rank'])}: {score}{status}."}


def _ordinal(rank: int) -> str:
    """A rank in words of figures.

    >>> [_ordinal(k) for k in (1, 2, 11, 23)]
    ['1st', '2nd', '11th', '23rd']
    """
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def repair_view(told: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Text and pictures of a repair that was tried on a candidate."""
    if told is None:
        return None
    before, after = (
        "no score" if told[name] is None else f"{told[name]:.3f}" for name in ("score_before", "score_after")
    )
    outcome = "Accepted" if told["accepted"] else f"Not accepted: {told['reason']}"
    kept = f"kept pixels moved by {told['kept_change']:.2f} levels of 255 (the VAE alone: {told['vae_error']:.2f})"
    kept = "nothing was kept" if told["cells"] == told["of_cells"] else kept
    captions = {"before": "before", "mask": "drawn again: what is bright", "after": "after"}
    return {
        "label": "repaired" if told["accepted"] else "repair not accepted",
        "text": f"{outcome}. {told['cells']} of {told['of_cells']} latent cells were drawn again; score {before} to "
        f"{after}; {kept}.",
        "pictures": [
            {"src": told["pictures"][name], "caption": caption}
            for name, caption in captions.items()
            if name in told["pictures"]
        ],
    }
