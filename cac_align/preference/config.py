"""Settings of a training on preference pairs, beside those that all trainings of a generator share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Literal

from cac_align.flow_grpo.training_settings import TrainingSettings
from reward_model.engine.settings import check_known
from reward_model.engine.trl_names import PREFERENCE, in_our_names
from reward_model.terminal.described import described, setting

#: Objectives that compare two videos.
_DPO: dict[str, tuple[str, ...]] = {"objective": ("dpo",)}


@described
@dataclass(frozen=True)
class PreferenceConfig(TrainingSettings):
    """Everything a training on preference pairs can be told. ``recipes/configs/preference`` holds presets.

    Raises:
        ValueError: if a value breaks a rule; the message names value, rule and remedy.

    Example:
        >>> config = PreferenceConfig(pairs="pairs.jsonl", objective="dpo", batch_size=8)
        >>> config.videos_per_forward, config.num_updates
        (2, 100)
    """

    output_dir: str = setting("outputs/preference", free=True)
    """Folder of checkpoints, logs, videos and the LoRA."""

    # --- pairs --------------------------------------------------------------------------------------------------------
    pairs: str = setting("outputs/pairs.jsonl")
    """Pairs of `cac-align pairs` (format preference: .jsonl, .parquet, .csv); objective sft takes its winners, too."""
    eval_pairs: str | None = setting(None, free=True)
    """Pairs that are measured and not trained on, in the format preference; null: none are measured."""
    eval_every: int = setting(20, least=1, free=True)
    """Steps between two measurements of eval_pairs."""

    # --- objective ----------------------------------------------------------------------------------------------------
    objective: Literal["dpo", "sft"] = setting("dpo")
    """dpo: preference optimisation on chosen and rejected videos; sft: fine-tuning on the chosen ones alone."""
    beta: float = setting(2000.0, above=0, below=inf, when=_DPO)
    """Strength with which dpo holds the model to that without LoRA. Diffusion-DPO: 2000 to 5000, for images."""
    localised: bool = setting(False, when=_DPO)
    """Weigh latent cells by how much the judge's findings on both videos differ there (ours)."""
    localised_floor: float = setting(0.2, least=0, most=1, when={"localised": (True,)})
    """Weight of a cell without such a difference before weights are brought to mean 1."""

    # --- sampling -----------------------------------------------------------------------------------------------------
    num_inference_steps: int = setting(20, least=2, free=True)
    """Steps of a sample video."""
    guidance_scale: float = setting(4.5, least=1, hint="1 turns guidance off", free=True)
    """Scale of classifier-free guidance of sample videos; 1 turns it off. Training does without."""
    guidance_scale_2: float | None = setting(None, least=1, free=True)
    """Guidance scale of Wan 2.2 A14B's second expert, for low noise; null: guidance_scale."""
    batched_guidance: bool = setting(True, free=True)
    """Run both halves of guidance as one batch; false: two calls, as diffusers."""
    negative_prompt: str = setting("", free=True)
    """Negative prompt of sample videos."""
    sample_prompts: str | None = setting(None, free=True)
    """Prompts of sample videos, .txt or .jsonl; null: those of the first pairs."""
    num_samples: int = setting(2, least=0, free=True)
    """Sample videos, drawn with the base model before step 1 and with the trained one every log_videos_every steps."""
    sample_seed: int = setting(1234, least=0, free=True)
    """Seed of their first latents."""

    # --- amount -------------------------------------------------------------------------------------------------------
    max_steps: int = setting(100, least=1, free=True)
    """Steps, an update of the adapter each."""
    batch_size: int = setting(4, least=1)
    """Pairs of a step (videos of sft), over all processes."""
    train_batch_size: int = setting(1, least=1)
    """Pairs of one training forward, which holds both videos of each (videos of sft)."""

    def __post_init__(self) -> None:
        self.check_shared()

    @property
    def num_updates(self) -> int:
        """Optimiser updates of the whole run."""
        return self.max_steps

    @property
    def videos_per_forward(self) -> int:
        """Videos of one training forward."""
        return self.train_batch_size * (2 if self.objective == "dpo" else 1)

    @classmethod
    def in_own_names(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        known = [f.name for f in fields(cls)]
        ours = in_our_names(data, known, PREFERENCE)
        check_known(ours, known)
        return ours
