"""Training of a generator's LoRA on preference pairs, by flow-matching DPO or by fine-tuning on the winners.

Reading order: ``config`` (settings, beside those of :mod:`cac_align.flow_grpo.training_settings`), ``training_pairs``
(the file of pairs, held against the run), ``pair_term`` (the loss of some pairs; its equations are in
:mod:`cac_align.flow_grpo.maths.preference`), ``learner`` (updates), ``trainer`` (loading, steps, samples, identity of a
run), ``plan`` and ``card``. Adapter, checkpoints, export and loop are those of :mod:`cac_align.flow_grpo`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "PreferenceConfig": "cac_align.preference.config",
    "PreferenceTrainer": "cac_align.preference.trainer",
}

__all__ = ["PreferenceConfig", "PreferenceTrainer"]

if TYPE_CHECKING:
    from cac_align.preference.config import PreferenceConfig
    from cac_align.preference.trainer import PreferenceTrainer

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
