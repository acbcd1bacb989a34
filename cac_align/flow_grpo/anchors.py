"""Settings of what a training holds on to: videos that are as they should be, the anchor.

They are part of :class:`~cac_align.flow_grpo.config.FlowGRPOConfig`, which inherits them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from cac_align.flow_grpo.judging.reward_specs import read_specs
from reward_model.terminal.described import setting


@dataclass(frozen=True, kw_only=True)
class AnchorSettings:
    """Settings of the data term and of the anchor's reach."""

    # --- against reward hacking ---------------------------------------------------------------------------------------
    data_regulariser: str | None = setting(None)
    """Videos that keep the model ordinary: a folder, or a .jsonl of video and prompt; null: none (DDRL)."""
    data_weight: float = setting(0.1, above=0, below=inf)
    """Weight of their flow-matching loss beside that of the objective."""
    data_batch: int = setting(4, least=1)
    """Such videos in one update, over all processes."""
    anchor: Literal["all", "selective"] = setting("all")
    """Videos that beta holds to the base model: all, or those on which the rewards disagree (selective)."""
    anchor_disagreement: float = setting(0.25, least=0, below=1, when={"anchor": ["selective"]})
    """Disagreement from which on 'selective' holds a video: a distance of ranks in its group, 0 to 1."""
    anchor_rewards: list[str] | None = setting(None, when={"anchor": ["selective"]})
    """Names of the rewards that are compared, the main one first; null: those of weight above 0, in their order."""

    def compared_rewards(self, rewards: list[Any]) -> list[str]:
        """Names of the rewards that the selective anchor compares, the main one first.

        Args:
            rewards: rewards of the settings.
        """
        return self.anchor_rewards or [spec.name for spec in read_specs(rewards) if spec.weight > 0]

    def check_anchors(self, beta: float, rewards: list[Any]) -> None:
        """Raises ValueError where the anchor cannot select anything.

        Args:
            beta: weight of the anchor.
            rewards: rewards of the settings.
        """
        if self.anchor != "selective":
            return
        if not beta:
            raise ValueError("anchor='selective' has no effect with beta=0; raise beta, or set anchor: all")
        names, known = self.compared_rewards(rewards), [spec.name for spec in read_specs(rewards)]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"anchor_rewards names {unknown[0]!r}, which is not one of {', '.join(known)}; name those")
        if len(set(names)) < 2:
            raise ValueError(
                f"anchor='selective' compares two rewards or more, and there is {', '.join(names)}; add one (of weight "
                "0 and named in anchor_rewards, if it shall only be compared), or set anchor: all"
            )
