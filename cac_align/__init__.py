"""Video generation, judged and aligned: rewards for diffusers users, best-of-n, Flow-GRPO, and pages of evidence.

Importing this package loads nothing heavy: torch, diffusers and transformers load when a name is first used.

Example:
    >>> from cac_align import CaCReward, best_of_n          # doctest: +SKIP
    >>> out = best_of_n(pipe, "a dog catches a ball", reward=CaCReward(), n=5)      # doctest: +SKIP
    >>> out.save("outputs/dog")                             # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reward_model.lazy import lazy_names

__version__ = "0.2.0"

_HOMES = {
    "BestOfNOutput": "cac_align.selection.run_folder",
    "CaCReward": "cac_align.rewards.cac",
    "CompositeReward": "cac_align.rewards.composite",
    "FlowGRPOConfig": "cac_align.flow_grpo.config",
    "FlowGRPOTrainer": "cac_align.flow_grpo.trainer",
    "MotionReward": "cac_align.metrics.motion",
    "RemoteReward": "cac_align.rewards.remote",
    "UnifiedReward": "cac_align.rewards.unified",
    "VBenchMetric": "cac_align.metrics.metric",
    "best_of_n": "cac_align.selection.best",
    "repair": "cac_align.selection.repair",
    "set_verbosity": "reward_model.terminal.program",
}

__all__ = [
    "BestOfNOutput",
    "CaCReward",
    "CompositeReward",
    "FlowGRPOConfig",
    "FlowGRPOTrainer",
    "MotionReward",
    "RemoteReward",
    "UnifiedReward",
    "VBenchMetric",
    "__version__",
    "best_of_n",
    "repair",
    "set_verbosity",
]

if TYPE_CHECKING:
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.trainer import FlowGRPOTrainer
    from cac_align.metrics.metric import VBenchMetric
    from cac_align.metrics.motion import MotionReward
    from cac_align.rewards.cac import CaCReward
    from cac_align.rewards.composite import CompositeReward
    from cac_align.rewards.remote import RemoteReward
    from cac_align.rewards.unified import UnifiedReward
    from cac_align.selection.best import best_of_n
    from cac_align.selection.repair import repair
    from cac_align.selection.run_folder import BestOfNOutput
    from reward_model.terminal.program import set_verbosity

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
