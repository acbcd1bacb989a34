"""Settings that all trainings of a generator share: model, videos, adapter, optimiser, checkpoints and log.

What reads them is the same for Flow-GRPO (:class:`~cac_align.flow_grpo.config.FlowGRPOConfig`) and for training on
preference pairs (:class:`~cac_align.preference.config.PreferenceConfig`): loading, adapter, checkpoints, export, card.
Settings marked ``free`` may differ when a run is continued; all others make another run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, Literal, Self

from cac_align.flow_grpo.expert_settings import ExpertSettings
from cac_align.flow_grpo.memory_settings import MemorySettings
from reward_model.engine.trackers import Reporter, as_list, check_names
from reward_model.setting_keys import without_keys
from reward_model.terminal.described import as_declared, check_settings, setting, settings_of, settings_text


@dataclass(frozen=True)
class TrainingSettings(ExpertSettings, MemorySettings, ABC):
    """Base of the settings of a training; each adds its own, calls :meth:`check_shared` in ``__post_init__``, and says
    with :attr:`num_updates` how long its learning-rate schedule is and with :meth:`in_own_names` what its settings are
    called elsewhere.
    """

    output_dir: str = setting("outputs/training", free=True)
    """Folder of checkpoints, logs, videos and the LoRA."""
    seed: int = setting(0, least=0)
    """Seed of order, noise and LoRA; fixes the whole run on one device."""

    # --- model --------------------------------------------------------------------------------------------------------
    model: str = setting("assets/wan-mini")
    """Folder or hub id of a Wan 2.1 or 2.2 text-to-video or image-to-video pipeline."""
    revision: str | None = setting(None)
    """Revision of a hub id."""
    mixed_precision: Literal["no", "bf16", "fp16"] = setting("no", experimental=["fp16"])
    """Precision of frozen weights and autocast, in sampling and training: no, bf16 or fp16. The LoRA stays fp32."""
    attention_backend: str | None = setting(None)
    """diffusers' attention backend (native, flash, xformers, ...) for sampling and training; null: default."""
    gradient_checkpointing: bool = setting(False, free=True)
    """Recompute activations in the backward pass."""
    vae_tiling: bool = setting(False)
    """Decode in tiles: less memory, slightly different pixels."""
    flow_shift: float | None = setting(None)
    """Shift of the sigma schedule; null: that of the checkpoint."""

    # --- prompts ------------------------------------------------------------------------------------------------------
    negative_prompt: str = setting("")
    """Negative prompt of guidance, in sampling and training."""
    max_sequence_length: int = setting(512, least=1)
    """Most text tokens of a prompt; the pipeline cuts the rest."""
    text_cache: str | None = setting(None, free=True)
    """Folder of text embeddings; null: output_dir/text."""

    # --- videos -------------------------------------------------------------------------------------------------------
    height: int = setting(480, least=1)
    """Height in pixels, a multiple of 16 (Wan 2.2 TI2V-5B: of 32)."""
    width: int = setting(832, least=1)
    """Width in pixels, a multiple of 16 (Wan 2.2 TI2V-5B: of 32)."""
    num_frames: int = setting(81, least=1)
    """Frames of a video, 1 + a multiple of 4. Paper: 81."""
    fps: float = setting(16.0, above=0, below=inf)
    """Frame rate of the videos. Wan: 16."""
    data_cache: str | None = setting(None, free=True)
    """Folder of encoded latents of the videos that are trained on; null: output_dir/data."""

    # --- sampling -----------------------------------------------------------------------------------------------------
    num_inference_steps: int = setting(20, least=2)
    """Steps of a drawn video. Paper: 50."""
    guidance_scale: float = setting(4.5, least=1, hint="1 turns guidance off")
    """Scale of classifier-free guidance; 1 turns it off. Public Flow-GRPO: 4.5."""
    batched_guidance: bool = setting(True)
    """Run both halves of guidance as one batch, in sampling and training; false: two calls, as diffusers."""

    # --- few steps ----------------------------------------------------------------------------------------------------
    frozen_adapter: str | None = setting(None)
    """LoRA (file or folder) under the trained one, a part of the base model: of a few-step distillation, say."""
    frozen_adapter_2: str | None = setting(None)
    """The same for Wan 2.2 A14B's second expert, for low noise; frozen_adapter is that for high noise then."""
    frozen_adapter_weight: float = setting(1.0, above=0, below=inf)
    """Strength of the frozen adapter, or of both."""

    # --- amount -------------------------------------------------------------------------------------------------------
    max_steps: int = setting(100, least=1, free=True)
    """Steps of the training."""

    # --- LoRA and optimiser -------------------------------------------------------------------------------------------
    lora_r: int = setting(32, least=1)
    """Rank of the LoRA. Paper: 32."""
    lora_alpha: int = setting(64, least=1)
    """Numerator of the LoRA's scale. Paper: not given; 64 as public Flow-GRPO."""
    lora_targets: list[str] = setting(["to_q", "to_k", "to_v", "to_out.0"])
    """Names of the modules that get an adapter."""
    learning_rate: float = setting(1e-4, above=0, below=inf)
    """Learning rate of AdamW. Paper: not given; 1e-4 as public Flow-GRPO."""
    lr_scheduler_type: str = setting("constant_with_warmup")
    """Learning-rate schedule of diffusers, counted in updates."""
    warmup_steps: int = setting(0, least=0)
    """Updates of linear warm-up."""
    adam_beta1: float = setting(0.9)
    """AdamW: decay of the mean of gradients."""
    adam_beta2: float = setting(0.999)
    """AdamW: decay of the mean of squared gradients."""
    adam_eps: float = setting(1e-8, above=0, below=inf)
    """AdamW: added to the root of the squared gradients."""
    weight_decay: float = setting(1e-4, least=0, hint="0 turns it off")
    """AdamW: decay of the adapter's weights, times the learning rate."""
    max_grad_norm: float = setting(1.0, least=0, hint="0 turns it off")
    """Gradient clipping; 0 turns it off."""
    ema_decay: float = setting(0.9, least=0, below=1, hint="0 keeps no average")
    """EMA decay of the LoRA that is evaluated and exported; 0 turns averaging off."""
    ema_every: int = setting(8, least=1)
    """Updates between two averagings."""

    # --- checkpoints and log ------------------------------------------------------------------------------------------
    save_every: int = setting(10, least=1, free=True)
    """Steps between checkpoints."""
    keep_checkpoints: int = setting(2, least=1, free=True)
    """Checkpoints kept."""
    log_videos_every: int = setting(10, least=0, free=True)
    """Steps between videos in the log; 0 logs none."""
    report_to: list[Reporter] = setting(["tensorboard"], free=True)
    """Trackers of numbers and videos besides metrics.jsonl: tensorboard, wandb, trackio, or none."""
    wandb_project: str | None = setting(None, free=True)
    """Project of wandb or trackio; naming one adds wandb to a report_to that has neither."""

    # --- rules --------------------------------------------------------------------------------------------------------

    def check_shared(self) -> None:
        """Raises ValueError if a value, of any field of the class, breaks a rule of its own or one that all trainings
        share.
        """
        object.__setattr__(self, "report_to", as_list(self.report_to))
        check_settings(self)
        self.check_expert_guidance(self.guidance_scale)
        self.check_memory(self.mixed_precision, self.gradient_checkpointing)
        if (self.num_frames - 1) % 4 or self.height % 16 or self.width % 16:
            raise ValueError(
                f"{self.num_frames} frames of {self.height}x{self.width} do not fit Wan: num_frames must be 1 + a "
                "multiple of 4, height and width multiples of 16"
            )
        if not self.lora_targets or not all(self.lora_targets):
            raise ValueError(f"lora_targets={self.lora_targets!r} must name at least one module, such as to_q")
        check_names(self.report_to)
        if self.frozen_adapter is None and self.frozen_adapter_2 is not None:
            raise ValueError(
                f"frozen_adapter_2={self.frozen_adapter_2!r} is the second of two; name frozen_adapter, that of the "
                "expert for high noise, as well"
            )

    # --- derived ------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def num_updates(self) -> int:
        """Optimiser updates of the whole run."""

    @cached_property
    def guided(self) -> bool:
        """True if the pipeline runs classifier-free guidance."""
        return self.guidance_scale > 1

    @property
    def frozen_adapters(self) -> dict[str, str]:
        """Files of the frozen adapters by the names of their settings, in the order of the transformers."""
        named = {"frozen_adapter": self.frozen_adapter, "frozen_adapter_2": self.frozen_adapter_2}
        return {name: source for name, source in named.items() if source is not None}

    def identity(self) -> dict[str, Any]:
        """Settings that must be equal for a checkpoint to be continued: all that are not marked free, but no keys."""
        decisive = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata["free"]}
        return without_keys(decisive, keep_names=False)

    # --- reading ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All settings, for files; without keys."""
        return without_keys(asdict(self))

    @classmethod
    @abstractmethod
    def in_own_names(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under the names of this class, of which others may be understood.

        Raises:
            ValueError: an unknown setting; the nearest known one is named.
        """

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Settings from a mapping; whole numbers and texts such as ``1e-4`` serve for decimals. Names that TRL has for
        the same thing are understood (``num_generations``, ``model_name_or_path``, ``save_steps``, ...).

        Raises:
            ValueError: an unknown setting (the nearest known one is named), or a value the rules refuse.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"settings must be a mapping of names to values, got {type(data).__name__}")
        return cls(**as_declared(cls, cls.in_own_names(data)))

    @classmethod
    def completed(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that an older run wrote down, with the defaults of those that came later."""
        return {**{s.name: s.default for s in settings_of(cls)}, **data}

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> Self:
        """Settings from a YAML file, with changes put over them."""
        from reward_model.engine.settings import read_yaml

        return cls.from_dict({**read_yaml(path), **changes})

    @classmethod
    def help_text(cls) -> str:
        """Name, default and meaning of each setting."""
        return settings_text(cls)
