"""Settings of stage 3, in the vocabulary of TRL's ``GRPOConfig`` where TRL has a word for it.

Every field says in its help where its value comes from: the paper, or a choice of this project because the paper gives
none (C.2 leaves out epsilon, beta, temperature and lengths).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from reward_model.config import JudgeConfig
from reward_model.rewards import RewardConfig, RewardWeights

#: What a settings file may hold beside the settings of :class:`GrpoConfig`.
OWN = ("model", "data", "judge", "dtype", "attn_implementation", "fast_vision", "plan")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class GrpoConfig:
    """Everything stage 3 can be told. :meth:`help_text` lists it."""

    output_dir: str = _setting("outputs/stage3", "Folder of checkpoints, logs and samples.")
    seed: int = _setting(0, "Of data order and sampling. A run is a function of it on one device.")

    # --- how much -----------------------------------------------------------------------------------------------------
    max_steps: int = _setting(250, "Rollout-and-update rounds. Paper: 250.")
    prompts_per_step: int = _setting(64, "Prompts of one step over all processes. Paper: batch 64.")
    num_generations: int = _setting(8, "Rollouts of each prompt, G. Paper: 8.")
    num_iterations: int = _setting(1, "Optimiser updates on the same rollouts, mu. Paper: not given; 1 is our choice.")
    per_device_train_batch_size: int = _setting(
        1, "Rows (turns) of one forward and backward pass. Changes memory only."
    )
    share_prompts: bool = _setting(
        False,
        "Read a prompt once for all its rows of a pass, as branches of one sequence under a mask. Changes speed only: "
        "less work where prompts are longer than answers and a pass holds several rows; no gain for the mini.",
    )
    generation_batch_size: int = _setting(64, "Answers a process draws at once. Changes memory and speed only.")

    # --- optimiser ----------------------------------------------------------------------------------------------------
    learning_rate: float = _setting(1e-6, "Paper: 1e-6.")
    lr_scheduler_type: str = _setting("constant_with_warmup", "A transformers schedule. Our choice.")
    warmup_steps: int = _setting(5, "Updates of linear warm-up. Our choice.")
    weight_decay: float = _setting(0.0, "AdamW. Our choice.")
    adam_beta1: float = _setting(0.9, "AdamW.")
    adam_beta2: float = _setting(0.999, "AdamW.")
    max_grad_norm: float = _setting(1.0, "Gradient clipping; 0 is none. Our choice.")
    gradient_checkpointing: bool = _setting(False, "Recompute activations in the backward pass.")
    freeze_vision: bool = _setting(False, "Train the language model only. Paper: all parts are trained.")
    use_lora: bool = _setting(False, "Train LoRA adapters. Paper: full parameters in stage 3.")
    lora_r: int = _setting(32, "LoRA rank.")
    lora_alpha: int = _setting(64, "LoRA scale numerator.")

    # --- objective ----------------------------------------------------------------------------------------------------
    loss_type: Literal["grpo"] = _setting("grpo", "Equation 9: mean over tokens of both turns, then over rollouts.")
    epsilon: float = _setting(0.2, "Clip range of the ratio. Paper: not given; our choice, as TRL.")
    epsilon_high: float | None = _setting(None, "Upper clip range if it differs.")
    beta: float = _setting(0.04, "Weight of the KL term; 0 loads no reference. Paper: not given; our choice.")
    use_bias_correction_kl: bool = _setting(
        False, "Multiply the KL estimate by the ratio, as TRL does by default; Equation 11 as printed does not."
    )
    scale_rewards: Literal["group", "batch", "none"] = _setting("group", "What Equation 8 divides by.")
    advantage_eps: float = _setting(1e-4, "Added to the std in Equation 8. Our choice, as TRL.")
    saliency_repair: Literal["none", "scale_advantage", "mean_only"] = _setting(
        "none", "Equation 8 cancels the saliency discount; the two repairs bring it back. none is the paper."
    )

    # --- rollouts -----------------------------------------------------------------------------------------------------
    temperature: float = _setting(1.0, "Of sampling, and of the log-probabilities. Paper: not given; our choice.")
    max_scan_tokens: int | None = _setting(
        None, "New tokens of turn one; None: as the checkpoint's judge.json says. Never less: a cut answer is invalid."
    )
    max_zoom_tokens: int | None = _setting(None, "New tokens of turn two, the same.")
    context: Literal["fresh", "chat", "clip_only"] | None = _setting(
        None,
        "What turn two sees: clip and reasoning of turn one (fresh), the whole chat, or the clip alone (clip_only). "
        "None: as judge.json says, fresh where it says nothing. The trained judge.json holds it.",
    )
    crop: Literal["hull", "per_window"] | None = _setting(
        None, "Clip of several windows: their hull, or one each. None: as judge.json says, else the hull."
    )
    num_turns: Literal[1, 2] | None = _setting(None, "1 is the control without turn two. None: as judge.json says.")

    # --- vLLM ---------------------------------------------------------------------------------------------------------
    use_vllm: bool = _setting(
        False, "Draw answers with vLLM, an engine in each training process that takes over the weights of every step."
    )
    vllm_gpu_memory_utilization: float = _setting(
        0.3, "Share of the GPU's memory vLLM may hold for its copy of the weights and its cache."
    )
    vllm_max_model_length: int | None = _setting(
        None, "Longest prompt with its answer; None: what the model can read, at most 32768."
    )
    vllm_importance_sampling_correction: bool = _setting(
        True, "Weigh each token by the ratio of the policy's probability to vLLM's, whose arithmetic differs."
    )
    vllm_importance_sampling_clip_max: float = _setting(3.0, "Largest such ratio of a token (TRL: token_truncate).")

    # --- reward -------------------------------------------------------------------------------------------------------
    weight_format: float = _setting(1.0, "w1 of Equation 6. Paper: 1.")
    weight_status: float = _setting(2.0, "w2. Paper: 2.")
    weight_type: float = _setting(2.0, "w3. Paper: 2; 0 is its ablation.")
    weight_temporal: float = _setting(2.0, "w4. Paper: 2; 0 is its ablation.")
    weight_spatial: float = _setting(5.0, "w5. Paper: 5; 0 is its ablation.")
    gate: Literal["both", "turnwise"] = _setting("both", "Overlaps need both statuses right (paper), or turn by turn.")
    gate_outside: bool = _setting(False, "A failed gate takes the whole anomalous term.")
    rescued_normal: float = _setting(-0.5, "Status reward of a normal video that turn two cleared, -1 to 0.")
    spatial_norm: Literal["pred", "named", "gt"] = _setting(
        "pred",
        "True boxes Equation 5 averages over: those in turn one's window (pred, paper), on the frames that turn two "
        "names (named), or all (gt).",
    )
    clip_restricted: bool = _setting(
        False,
        "Compare turn two's types with those its clip shows, not with the whole video's as Equation 3 does.",
    )

    # --- keeping and showing ------------------------------------------------------------------------------------------
    save_steps: int = _setting(25, "Steps between checkpoints.")
    save_total_limit: int = _setting(2, "Checkpoints kept.")
    logging_steps: int = _setting(1, "Steps between lines of the log.")
    log_samples_every: int = _setting(10, "Steps between sample tables; 0 is none.")
    num_logged_samples: int = _setting(4, "Rollouts in a sample table.")

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self.reward_config()

    def _check_choices(self) -> None:
        allowed = {
            "loss_type": ("grpo",),
            "scale_rewards": ("group", "batch", "none"),
            "saliency_repair": ("none", "scale_advantage", "mean_only"),
            "context": (None, "fresh", "chat", "clip_only"),
            "crop": (None, "hull", "per_window"),
            "num_turns": (None, 1, 2),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                named = ", ".join(repr(v) for v in values if v is not None)
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {named}")

    def _check_numbers(self) -> None:
        counts = ("max_steps", "prompts_per_step", "num_iterations", "per_device_train_batch_size", "save_steps")
        for name in (*counts, "generation_batch_size", "save_total_limit", "logging_steps", "lora_r", "lora_alpha"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number of at least 1")
        for name in ("max_scan_tokens", "max_zoom_tokens", "vllm_max_model_length"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be at least 1, or null for the judge's own limit"
                )
        if not 0 < self.vllm_gpu_memory_utilization < 1:
            raise ValueError(
                f"vllm_gpu_memory_utilization={self.vllm_gpu_memory_utilization!r} must lie between 0 and 1: the "
                "training needs the rest"
            )
        if self.num_generations < 2:
            raise ValueError(f"num_generations={self.num_generations} must be at least 2: a group of one has no std")
        positive = ("learning_rate", "temperature", "epsilon", "advantage_eps", "vllm_importance_sampling_clip_max")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above zero")
        zero_or_more = ("beta", "weight_decay", "max_grad_norm", "warmup_steps", "log_samples_every")
        for name in (*zero_or_more, "num_logged_samples", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative")
        if not self.epsilon < 1:
            raise ValueError(f"epsilon={self.epsilon!r} must be below 1: the ratio is clipped to 1 - epsilon")
        if self.epsilon_high is not None and not self.epsilon_high > 0:
            raise ValueError(f"epsilon_high={self.epsilon_high!r} must be above zero, or null")

    @property
    def sampling_clip_max(self) -> float | None:
        """Largest correction of a token that vLLM drew; None corrects nothing."""
        return self.vllm_importance_sampling_clip_max if self.vllm_importance_sampling_correction else None

    def asked(self, judge: JudgeConfig) -> JudgeConfig:
        """How the judge is asked in this training: as its checkpoint says, but for what is set here."""
        names = ("max_scan_tokens", "max_zoom_tokens", "context", "crop", "num_turns")
        return judge.override(**{n: getattr(self, n) for n in names})

    def reward_config(self, judge: JudgeConfig | None = None) -> RewardConfig:
        """The reward these settings describe, for a judge that is asked like this."""
        weights = RewardWeights(**{f.name: getattr(self, f"weight_{f.name}") for f in fields(RewardWeights)})
        names = ("gate", "gate_outside", "rescued_normal", "spatial_norm", "clip_restricted")
        turns: Literal[1, 2] = 1 if self.asked(judge or JudgeConfig()).num_turns == 1 else 2
        return RewardConfig(weights, num_turns=turns, **{n: getattr(self, n) for n in names})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GrpoConfig:
        """Settings from a mapping.

        Raises:
            ValueError: an unknown setting, or a value the rules refuse.
        """
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ValueError(f"unknown stage 3 setting(s) {', '.join(unknown)}; known: {', '.join(known)}")
        floats = {name for name, f in known.items() if isinstance(f.default, float)}
        values: dict[str, Any] = {
            k: float(v) if k in floats and isinstance(v, str | int) else v for k, v in data.items()
        }
        return cls(**values)

    @classmethod
    def help_text(cls) -> str:
        """One line for each setting: name, default, meaning."""
        return "\n".join(f"{f.name} = {f.default!r}\n    {f.metadata['help']}" for f in fields(cls))
