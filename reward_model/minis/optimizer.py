"""The optimiser of the minis: Muon for weight matrices, and a separate rate for the vision tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reward_model.engine.muon import MuonAdamW, divide_parameters

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from reward_model.training.sft.trainer import AnswerTrainer

#: Tables of vectors, not matrices: AdamW trains them.
TABLES = ("embed_tokens", "lm_head", "pos_embed")


@dataclass(frozen=True)
class MiniOptimizer:
    """Makes the optimiser of stages 1 and 2; see :data:`reward_model.training.sft.trainer.MakeOptimizer`.

    Args:
        matrix_lr: trains weight matrices by Muon at this rate, everything else by AdamW; None: the stock optimiser.
        vision_lr_scale: learning rate of the vision tower relative to the other parts.
    """

    matrix_lr: float | None = None
    vision_lr_scale: float = 1.0

    def __call__(self, trainer: AnswerTrainer, stock: Callable[[], Optimizer]) -> Optimizer:
        """The optimiser, its groups divided into vision tower and the rest where their rates differ.

        Raises:
            ValueError: DeepSpeed keeps no whole matrices.
        """
        if self.matrix_lr is not None:
            if trainer.is_deepspeed_enabled:
                raise ValueError(
                    f"matrix_lr={self.matrix_lr} needs whole matrices, which DeepSpeed does not keep: leave it out, or "
                    "use recipes/configs/accelerate/fsdp2.yaml"
                )
            trainer.optimizer = _muon(trainer, self.matrix_lr)
        optimizer = stock()
        if self.vision_lr_scale != 1:
            tower = {id(p) for name, p in trainer.model.named_parameters() if ".visual." in name}
            optimizer.param_groups = [
                {**group, "lr": group["lr"] * scale, "params": chosen}
                for group in optimizer.param_groups
                for inside, scale in ((True, self.vision_lr_scale), (False, 1.0))
                if (chosen := [p for p in group["params"] if (id(p) in tower) == inside])
            ]
        return optimizer


def _muon(trainer: AnswerTrainer, rate: float) -> MuonAdamW:
    config = trainer.args
    groups = divide_parameters(
        trainer.model.named_parameters(), lr=rate, adam_lr=config.learning_rate, adam_names=TABLES
    )
    betas = (config.adam_beta1, config.adam_beta2)
    return MuonAdamW(groups, betas=betas, eps=config.adam_epsilon, weight_decay=config.weight_decay)
