"""Settings of models with two experts, part of :class:`~cac_align.flow_grpo.training_settings.TrainingSettings`."""

from __future__ import annotations

from dataclasses import dataclass

from reward_model.terminal.described import setting


@dataclass(frozen=True)
class ExpertSettings:
    """Settings that Wan 2.2 A14B reads and Wan 2.1 does not."""

    # --- two experts --------------------------------------------------------------------------------------------------
    guidance_scale_2: float | None = setting(None, least=1)
    """Guidance scale of Wan 2.2 A14B's second expert, for low noise; null: guidance_scale."""

    def check_expert_guidance(self, guidance_scale: float) -> None:
        """Raises ValueError for a second scale where the first has turned guidance off for both experts."""
        if self.guidance_scale_2 is not None and guidance_scale <= 1:
            raise ValueError(
                f"guidance_scale_2={self.guidance_scale_2:g} has no effect at guidance_scale={guidance_scale:g}, which "
                "turns guidance off for both experts; raise guidance_scale, or set guidance_scale_2 to null"
            )
