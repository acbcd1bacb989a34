"""Stages 1 and 2, supervised.

``config`` (arguments), ``parts`` (what a caller may bring), ``model`` and ``data`` (what is trained on what),
``trainer`` (collator, loss, run), ``run`` (a whole stage from its arguments to an exported judge), ``left_out``
(videos without use in stage 1), ``samples`` (answers shown while it trains).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "AnswerCollator": "reward_model.training.sft.trainer",
    "AnswerTrainer": "reward_model.training.sft.trainer",
    "run_sft": "reward_model.training.sft.trainer",
    "sft_config": "reward_model.training.sft.trainer",
}

__all__ = ["AnswerCollator", "AnswerTrainer", "run_sft", "sft_config"]

if TYPE_CHECKING:
    from reward_model.training.sft.trainer import AnswerCollator, AnswerTrainer, run_sft, sft_config

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
