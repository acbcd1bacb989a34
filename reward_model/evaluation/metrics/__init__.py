"""Numbers that say how good a judge is, as pure functions: ``classification``, ``calibration``, ``tubes`` (vIoU)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "Confusion": "reward_model.evaluation.metrics.classification",
    "ImpliedRates": "reward_model.evaluation.metrics.classification",
    "auroc": "reward_model.evaluation.metrics.classification",
    "confusion": "reward_model.evaluation.metrics.classification",
    "implied_rates": "reward_model.evaluation.metrics.classification",
}

__all__ = ["Confusion", "ImpliedRates", "auroc", "confusion", "implied_rates"]

if TYPE_CHECKING:
    from reward_model.evaluation.metrics.classification import Confusion, ImpliedRates, auroc, confusion, implied_rates

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
