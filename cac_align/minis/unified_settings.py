"""Settings of a build of unified-mini: sizes, steps, rates."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class UnifiedMiniConfig:
    """Everything that sets the cost of a build.

    Attributes:
        max_steps, batch_size: steps and batch size of the first round; every row is seen once.
        second_steps: steps of the second round; 0 leaves it out.
        second_rate: its learning rates relative to those of the first.
        learning_rate: learning rate of AdamW, for parameters that are not matrices; ``matrix_lr``: of Muon.
        vision_lr_scale: rate of the vision tower relative to the rest: an untrained language model must not wreck it.
        num_test_videos: reserved videos of each measurement.
    """

    max_steps: int = 4000
    batch_size: int = 16
    second_steps: int = 1600
    second_rate: float = 0.5
    learning_rate: float = 2e-3
    matrix_lr: float = 0.01
    vision_lr_scale: float = 0.2
    weight_decay: float = 0.01
    save_steps: int = 250
    num_test_videos: int = 400

    def scaled(self, scale: float) -> UnifiedMiniConfig:
        """The same recipe with ``scale`` times the steps and test videos.

        Raises:
            ValueError: if ``scale`` is not above zero.
        """
        if not scale > 0:
            raise ValueError(f"scale={scale} must be above zero: 1.0 is the full recipe, 0.001 a smoke test")
        return replace(
            self,
            max_steps=max(2, round(scale * self.max_steps)),
            second_steps=max(2, round(scale * self.second_steps)) if self.second_steps else 0,
            num_test_videos=max(24, round(scale * self.num_test_videos)),
        )
