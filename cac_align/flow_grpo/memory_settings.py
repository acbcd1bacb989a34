"""Settings of how the frozen model is kept, part of :class:`~cac_align.flow_grpo.training_settings.TrainingSettings`.

The adapter is float32 whatever they say: they change what lies under it, and where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reward_model.terminal.described import setting

BasePrecision = Literal["fp8", "int8", "nf4"]


@dataclass(frozen=True)
class MemorySettings:
    """Settings of the frozen weights' storage and place."""

    # --- memory -------------------------------------------------------------------------------------------------------
    base_precision: BasePrecision | None = setting(None, experimental=["int8"])
    """Storage of the frozen blocks' linear weights: fp8 or int8 (torchao), nf4 (bitsandbytes); null: unquantised."""
    offload_blocks: bool = setting(False, free=True)
    """Keep the frozen blocks in main memory and copy each to the GPU for its turn: less GPU memory, slower."""

    def check_memory(self, mixed_precision: str, gradient_checkpointing: bool) -> None:
        """Raises ValueError where the storage does not fit the arithmetic, or offloading would save nothing.

        Args:
            mixed_precision: precision that the blocks compute in.
            gradient_checkpointing: whether activations are computed again in the backward pass.
        """
        if self.base_precision is not None and mixed_precision == "fp16":
            raise ValueError(
                f"base_precision={self.base_precision!r} does not fit mixed_precision='fp16': the scales of quantised "
                "weights leave its range; set mixed_precision: bf16"
            )
        if self.offload_blocks and self.base_precision == "nf4":
            raise ValueError(
                "offload_blocks=True saves nothing with base_precision='nf4': bitsandbytes holds the weights of every "
                "layer until its backward pass; set base_precision to fp8, int8 or null, or offload_blocks to false"
            )
        if self.offload_blocks and not gradient_checkpointing:
            raise ValueError(
                "offload_blocks=True saves nothing with gradient_checkpointing=False, where the backward pass holds "
                "the copies of all blocks; set gradient_checkpointing: true"
            )
