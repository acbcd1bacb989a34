"""From judged videos to an updated adapter.

``experience`` (advantages of a step), ``replay``, ``nft`` and ``rvm`` (the loss of a pass), the ``learner``, what it
shares with other trainings (``adapter_learner``), ``phases`` where there are two experts, ``lora`` and its files
(``lora_files``, ``lora_convert``, ``wan_names``), ``checkpoint`` and its checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

_HOMES = {
    "DivergenceError": "reward_model.engine.guards",
    "Learner": "cac_align.flow_grpo.learner.learner",
}

__all__ = ["DivergenceError", "Learner"]

if TYPE_CHECKING:
    from cac_align.flow_grpo.learner.learner import Learner
    from reward_model.engine.guards import DivergenceError

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
