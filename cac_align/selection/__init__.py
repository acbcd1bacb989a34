"""Best-of-n, and repair of what it chose.

In reading order: ``best`` (the function), ``run`` (one call), ``candidates`` (how a pipeline draws them),
``run_folder`` (resuming, saving), ``costs``; on request ``previews`` (fewer forwards), ``repair`` (one video),
``repairing`` (within a choice) and ``stages`` (notes and pictures of both).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "BestOfNOutput": "cac_align.selection.run_folder",
    "best_of_n": "cac_align.selection.best",
    "repair": "cac_align.selection.repair",
}

__all__ = ["BestOfNOutput", "best_of_n", "repair"]

if TYPE_CHECKING:
    from cac_align.selection.best import best_of_n
    from cac_align.selection.repair import repair
    from cac_align.selection.run_folder import BestOfNOutput

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
