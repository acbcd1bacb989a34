"""Settings of what a training holds on to: a frozen adapter below it, videos that are as they should be, the anchor.

They are part of :class:`~cac_align.flow_grpo.config.FlowGRPOConfig`, which inherits them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from reward_model.terminal.described import setting


@dataclass(frozen=True, kw_only=True)
class AnchorSettings:
    """Settings of a frozen adapter, of the data term and of the anchor's reach."""

    # --- few steps ----------------------------------------------------------------------------------------------------
    frozen_adapter: str | None = setting(None)
    """LoRA (file or folder) under the trained one, a part of the base model: of a few-step distillation, say."""
    frozen_adapter_weight: float = setting(1.0, above=0, below=inf)
    """Strength of the frozen adapter."""

    # --- against reward hacking ---------------------------------------------------------------------------------------
    data_regulariser: str | None = setting(None)
    """Videos that keep the model ordinary: a folder, or a .jsonl of video and prompt; null: none (DDRL)."""
    data_weight: float = setting(0.1, above=0, below=inf)
    """Weight of their flow-matching loss beside that of the objective."""
    data_batch: int = setting(4, least=1)
    """Such videos in one update, over all processes."""
    data_cache: str | None = setting(None, free=True)
    """Folder of their encoded latents; null: output_dir/data."""
    anchor: Literal["all", "selective"] = setting("all")
    """Videos that beta holds to the base model: all, or those on which the other rewards disagree with the first."""
    anchor_disagreement: float = setting(0.25, least=0, below=1)
    """Disagreement from which on 'selective' holds a video: a distance of ranks in its group, 0 to 1."""

    def check_anchors(self, beta: float, rewards: list[Any]) -> None:
        """Raises ValueError where the anchor cannot select anything.

        Args:
            beta: weight of the anchor.
            rewards: entries of the rewards.
        """
        if self.anchor == "selective" and not beta:
            raise ValueError("anchor='selective' has no effect with beta=0; raise beta, or set anchor: all")
        if self.anchor == "selective" and len(rewards) < 2:
            raise ValueError(
                f"anchor='selective' compares the first reward with others, and rewards={rewards!r} has none; add one "
                "(of weight 0 if it shall only be compared), or set anchor: all"
            )
