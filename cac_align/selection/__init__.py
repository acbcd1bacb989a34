"""Best-of-n: ``best`` (the function), ``candidates`` (how a pipeline draws them), ``run_folder`` (resuming)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "BestOfNOutput": "cac_align.report.save",
    "best_of_n": "cac_align.selection.best",
}

__all__ = ["BestOfNOutput", "best_of_n"]

if TYPE_CHECKING:
    from cac_align.report.save import BestOfNOutput
    from cac_align.selection.best import best_of_n

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
