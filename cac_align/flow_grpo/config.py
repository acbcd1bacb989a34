"""Settings of a Flow-GRPO run, checked when they are made: a bad value never reaches the accelerator.

Every field says in its help what it does and, where it matters, whether its value is the paper's or a choice of this
project. Settings marked ``free`` may differ when a run is continued; all others make another run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from cac_align.flow_grpo.advantages import Baseline, StdEstimator
from cac_align.flow_grpo.kernels import WITH_NOISE_LEVEL, check_kernel
from cac_align.flow_grpo.objectives import PolicyObjective
from cac_align.flow_grpo.schedule import StepWeighting
from cac_align.flow_grpo.windows import SDEWindow


def _setting(default: Any, text: str, *, free: bool = False) -> Any:
    return field(default=default, metadata={"help": text, "free": free})


def _list(text: str) -> dict[str, Any]:
    return {"help": text, "free": False}


@dataclass(frozen=True)
class FlowGRPOConfig:
    """Everything a run can be told. :meth:`help_text` lists it; ``recipes/configs/flow_grpo`` holds presets.

    Raises:
        ValueError: a value breaks a rule; the message names value, rule and remedy.

    Example:
        >>> config = FlowGRPOConfig(batch="4x8", kernel="cps", noise_level=0.7)
        >>> config.groups_per_step, config.num_generations, config.samples_per_step
        (4, 8, 32)
    """

    output_dir: str = _setting("outputs/flow-grpo", "Folder of checkpoints, logs, videos and the LoRA.", free=True)
    seed: int = _setting(0, "Of prompt order, noise and LoRA. A run is a function of it on one device.")

    # --- model --------------------------------------------------------------------------------------------------------
    model: str = _setting("assets/wan-mini", "Folder or hub id of a Wan 2.1 text-to-video or image-to-video pipeline.")
    revision: str | None = _setting(None, "Revision of a hub id.")
    mixed_precision: str = _setting(
        "no", "no, bf16 or fp16: frozen weights in it and autocast, in sampling and training alike. LoRA stays fp32."
    )
    attention_backend: str | None = _setting(
        None, "diffusers' attention backend (native, flash, xformers, ...) for sampling and training; null: default."
    )
    gradient_checkpointing: bool = _setting(False, "Recompute activations in the backward pass.", free=True)
    vae_tiling: bool = _setting(False, "Decode in tiles: less memory, slightly other pixels.")
    flow_shift: float | None = _setting(None, "Shift of the sigma schedule; null: as the checkpoint has it.")

    # --- prompts ------------------------------------------------------------------------------------------------------
    prompts: str | None = _setting(
        "assets/prompts/train.jsonl",
        "Training prompts, .txt or .jsonl; for image-to-video with an image each. Paper: 240.",
    )
    eval_prompts: str | None = _setting(None, "Evaluation prompts; null: no evaluation.", free=True)
    negative_prompt: str = _setting("", "Of guidance, in sampling and training.")
    max_sequence_length: int = _setting(512, "Text tokens; the rest of a prompt is cut by the pipeline.")
    text_cache: str | None = _setting(None, "Folder of text embeddings; null: output_dir/text.", free=True)

    # --- size of the videos -------------------------------------------------------------------------------------------
    height: int = _setting(480, "Pixels.")
    width: int = _setting(832, "Pixels.")
    num_frames: int = _setting(81, "Frames, 1 + a multiple of 4. Paper: 81.")
    fps: float = _setting(16.0, "Frames per second the reward is told. Wan: 16.")

    # --- sampling -----------------------------------------------------------------------------------------------------
    num_inference_steps: int = _setting(20, "Steps of a rollout. Paper: 50.")
    guidance_scale: float = _setting(4.5, "Of classifier-free guidance; 1 turns it off. Public Flow-GRPO: 4.5.")
    batched_guidance: bool = _setting(
        True, "Run both halves of guidance as one batch, in sampling and training; false: two calls, as diffusers."
    )
    kernel: str = _setting("flow", "wan_linear, flow, dance, cps or precise; ode for objective nft.")
    noise_level: float | None = _setting(0.3, "Eta of flow, dance, cps, precise; null for the others. Paper: 0.3.")
    last_step_noise: bool = _setting(False, "Keep the noise of the last step, as the public Wan code does.")
    integer_timesteps: bool = _setting(False, "int64 timesteps, as the public Wan code has them.")
    ode_solver: str = _setting("euler", "Outside the window: euler, or base (the checkpoint's own solver).")
    window_mode: str = _setting("random", "all, fixed, random or progressive; one window for a whole group.")
    window_size: int = _setting(2, "Stochastic, trained steps of a video; not read by mode all.")
    window_start: int = _setting(0, "First candidate step.")
    window_stop: int | None = _setting(None, "End of the candidate steps (excluded); null: all that have noise.")
    window_shift_every: int = _setting(25, "Steps between two places of a progressive window.")
    window_stride: int = _setting(1, "How far a progressive window moves.")
    timestep_fraction: float = _setting(
        1.0, "Share of a window's steps that is trained, the first ones. Public Wan code: 0.99, all but the last."
    )
    same_initial_noise: bool = _setting(False, "Start all videos of a group from the same latents.")

    # --- how much -----------------------------------------------------------------------------------------------------
    max_steps: int = _setting(120, "Rounds of sampling and updating. Paper: 120.", free=True)
    batch: str = _setting("2x16", "Prompts x videos of each in one step, over all processes. Paper: groups of 16.")
    sample_batch_size: int = _setting(1, "Videos of one pipeline call.")
    train_batch_size: int | None = _setting(
        None, "Videos of one training forward; divides sample_batch_size. null: the same, which makes ratios exactly 1."
    )
    num_minibatches: int = _setting(1, "Optimiser updates the samples of a step are split into.")
    num_iterations: int = _setting(1, "Passes over the samples of a step.")

    # --- objective ----------------------------------------------------------------------------------------------------
    objective: str = _setting("grpo", "grpo, guard, dppo or nft.")
    clip_range: float = _setting(1e-3, "Of grpo and guard. Log-probs are means over elements: 1e-3 is wide.")
    max_divergence: float = _setting(1e-5, "Of dppo.")
    step_weighting: str = _setting("none", "none, inv_c (Flash-GRPO) or tempflow.")
    beta: float = _setting(0.0, "Weight of the KL to the model without LoRA; 0 skips its forward pass.")
    kl_space: str = _setting("velocity", "velocity (same scale at every step) or mean (KL of the step's Gaussians).")
    nft_beta: float = _setting(1.0, "Share of the trained policy in the mixtures of nft.")
    nft_num_sigmas: int = _setting(2, "Noise levels each video is trained at, nft only.")
    nft_decay: int = _setting(1, "How slowly the sampling policy of nft follows: 0, 1 or 2.")

    # --- advantages ---------------------------------------------------------------------------------------------------
    advantage_baseline: str = _setting("group", "Mean that is subtracted: group or global.")
    advantage_std: str = _setting("group", "Std that is divided by: group, global or none.")
    advantage_ddof: int = _setting(0, "0 or 1. Public Flow-GRPO: 0.")
    advantage_eps: float = _setting(1e-4, "Added to the std.")
    advantage_clip: float | None = _setting(5.0, "Bound of advantages; null: none.")

    # --- rewards ------------------------------------------------------------------------------------------------------
    rewards: list[Any] = field(
        default_factory=lambda: ["cac"],
        metadata=_list(
            "cac, unified, module:callable, or mappings of reward, weight, name, options. Paper: mean of both."
        ),
    )
    reward_combination: str = _setting(
        "scores", "scores: mean of scores (paper); advantages: each reward normalised in its group, then summed."
    )
    reward_on_failure: str = _setting("none", "A member could not judge: none (no score), drop (others' mean), raise.")
    reward_mode: str = _setting(
        "thread", "sync, thread or process: whether judging overlaps sampling, and where.", free=True
    )
    reward_workers: int = _setting(1, "Threads or processes that judge.", free=True)
    reward_deadline_s: float = _setting(600.0, "Seconds one try may take; then there is no score.", free=True)
    reward_retries: int = _setting(1, "More tries after an exception.", free=True)
    reward_queue: int = _setting(8, "Pipeline calls whose videos may wait for a judge.", free=True)

    # --- localised credit ---------------------------------------------------------------------------------------------
    localised_credit: bool = _setting(False, "Weigh latent cells by the judge's window and boxes (ours).")
    credit_floor: float = _setting(0.2, "Weight of a cell without anomaly before weights are brought to mean 1.")

    # --- LoRA and optimiser -------------------------------------------------------------------------------------------
    lora_r: int = _setting(32, "Rank. Paper: 32.")
    lora_alpha: int = _setting(64, "Scale numerator. Paper: not given; 64 as public Flow-GRPO.")
    lora_targets: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"],
        metadata=_list("Names of the modules that get an adapter."),
    )
    learning_rate: float = _setting(1e-4, "AdamW. Paper: not given; 1e-4 as public Flow-GRPO.")
    lr_scheduler_type: str = _setting("constant_with_warmup", "A diffusers schedule, counted in updates.")
    warmup_steps: int = _setting(0, "Updates of linear warm-up.")
    adam_beta1: float = _setting(0.9, "AdamW.")
    adam_beta2: float = _setting(0.999, "AdamW.")
    adam_eps: float = _setting(1e-8, "AdamW.")
    weight_decay: float = _setting(1e-4, "AdamW.")
    max_grad_norm: float = _setting(1.0, "Gradient clipping; 0 is none.")
    ema_decay: float = _setting(0.9, "Of the averaged LoRA that is evaluated and exported; 0 is no average.")
    ema_every: int = _setting(8, "Updates between two averagings.")

    # --- watching and keeping -----------------------------------------------------------------------------------------
    noise_floor: str = _setting("warn", "Replay noise rivals the clip: warn or refuse; off.", free=True)
    eval_every: int = _setting(20, "Steps between evaluations; the first comes before step 1.", free=True)
    eval_num_prompts: int = _setting(16, "Evaluation prompts, the first of the list.")
    eval_num_inference_steps: int | None = _setting(None, "Steps of an evaluation; null: as in rollouts.")
    eval_seed: int = _setting(1234, "Of the evaluation's latents.")
    early_stop: bool = _setting(True, "Stop when the reward rises while a canary collapses.", free=True)
    canary_min_ratio: float = _setting(0.5, "A canary below this share of the base model's has collapsed.", free=True)
    canary_max_failure_rate: float = _setting(0.2, "So has judging above this share of failures.", free=True)
    canary_patience: int = _setting(2, "Evaluations in a row.", free=True)
    save_every: int = _setting(10, "Steps between checkpoints.", free=True)
    keep_checkpoints: int = _setting(2, "Checkpoints kept.", free=True)
    log_videos_every: int = _setting(10, "Steps between videos in the log; 0 is none.", free=True)
    num_logged_groups: int = _setting(2, "Groups whose best and worst video are logged.", free=True)
    wandb_project: str | None = _setting(None, "Log to Weights & Biases as well.", free=True)

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_sampling()
        self._check_batch()
        self._check_rewards()

    # --- derived ------------------------------------------------------------------------------------------------------

    @property
    def groups_per_step(self) -> int:
        """Prompts of one step, over all processes."""
        return _batch(self.batch)[0]

    @property
    def num_generations(self) -> int:
        """Videos of each prompt."""
        return _batch(self.batch)[1]

    @property
    def samples_per_step(self) -> int:
        return self.groups_per_step * self.num_generations

    @property
    def rows_per_forward(self) -> int:
        """Videos of one training forward."""
        return self.train_batch_size or self.sample_batch_size

    @property
    def guided(self) -> bool:
        """Whether the pipeline runs classifier-free guidance."""
        return self.guidance_scale > 1

    @property
    def num_trained_steps(self) -> int:
        """Training passes of one video: steps of its window, or noise levels of nft."""
        if self.objective == "nft":
            return self.nft_num_sigmas
        steps = self.window_size
        if self.window_mode == "all":
            steps = len(self.window.check(self.num_inference_steps - (0 if self.last_step_noise else 1)))
        return max(1, int(steps * self.timestep_fraction))

    @property
    def window(self) -> SDEWindow:
        return SDEWindow(
            mode=self.window_mode,  # type: ignore[arg-type]
            size=self.window_size,
            start=self.window_start,
            stop=self.window_stop,
            shift_every=self.window_shift_every,
            stride=self.window_stride,
        )

    @property
    def noise(self) -> dict[str, Any]:
        """The kernel and its options, as :mod:`schedule` takes them."""
        return {"kernel": self.kernel, "noise_level": self.noise_level, "last_step_noise": self.last_step_noise}

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued: all settings that are not marked free."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata["free"]}

    # --- reading ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlowGRPOConfig:
        """Settings from a mapping; whole numbers and texts such as ``1e-4`` serve for decimals.

        Raises:
            ValueError: an unknown setting (the nearest known one is named), or a value the rules refuse.
        """
        known = {f.name: f for f in fields(cls)}
        for name in data:
            if name not in known:
                import difflib

                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]}?" if near else "see FlowGRPOConfig.help_text()"
                raise ValueError(f"unknown setting {name!r}; {hint}")
        return cls(**{k: _number(known[k].type, v) for k, v in data.items()})

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> FlowGRPOConfig:
        """Settings from a YAML file, with changes put over them."""
        from reward_model.training.settings_file import read_yaml

        return cls.from_dict({**read_yaml(path), **changes})

    @classmethod
    def help_text(cls) -> str:
        """Name, default and meaning of each setting."""
        defaults = cls()
        return "\n".join(f"{f.name} = {getattr(defaults, f.name)!r}\n    {f.metadata['help']}" for f in fields(cls))

    # --- checks -------------------------------------------------------------------------------------------------------

    def _check_choices(self) -> None:
        allowed: dict[str, Sequence[str]] = {
            "mixed_precision": ("no", "bf16", "fp16"),
            "ode_solver": ("euler", "base"),
            "objective": (*get_args(PolicyObjective), "nft"),
            "step_weighting": get_args(StepWeighting),
            "kl_space": ("velocity", "mean"),
            "advantage_baseline": get_args(Baseline),
            "advantage_std": get_args(StdEstimator),
            "reward_combination": ("scores", "advantages"),
            "reward_on_failure": ("none", "drop", "raise"),
            "reward_mode": ("sync", "thread", "process"),
            "noise_floor": ("off", "warn", "refuse"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(map(repr, values))}")
        for name, kind in ((f.name, f.type) for f in fields(self)):
            value = getattr(self, name)
            if kind == "bool" and not isinstance(value, bool):
                raise ValueError(f"{name}={value!r} must be true or false")
            if kind == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{name}={value!r} must be a number")

    def _check_numbers(self) -> None:
        least = {
            **dict.fromkeys(("max_steps", "sample_batch_size", "num_minibatches", "num_iterations", "lora_r"), 1),
            **dict.fromkeys(("lora_alpha", "ema_every", "eval_every", "eval_num_prompts", "canary_patience"), 1),
            **dict.fromkeys(("save_every", "keep_checkpoints", "reward_workers", "reward_queue", "nft_num_sigmas"), 1),
            **dict.fromkeys(("num_frames", "height", "width", "max_sequence_length"), 1),
            **dict.fromkeys(("log_videos_every", "num_logged_groups", "reward_retries", "warmup_steps", "seed"), 0),
            "num_inference_steps": 2,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {low}")
        for name in ("learning_rate", "fps", "reward_deadline_s", "max_divergence", "nft_beta", "adam_eps"):
            if not getattr(self, name) > 0 or not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a finite number above 0")
        for name in ("beta", "weight_decay", "max_grad_norm", "advantage_eps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative; 0 turns it off")
        self._check_shares()

    def _check_shares(self) -> None:
        for name in ("clip_range", "canary_min_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie between 0 and 1")
        for name in ("credit_floor", "canary_max_failure_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in [0, 1]")
        if not 0 < self.timestep_fraction <= 1:
            raise ValueError(f"timestep_fraction={self.timestep_fraction!r} must lie in (0, 1]; 1 trains every step")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay!r} must lie in [0, 1); 0 keeps no average")
        if not self.guidance_scale >= 1:
            raise ValueError(f"guidance_scale={self.guidance_scale!r} must be at least 1, which turns guidance off")
        if self.nft_decay not in (0, 1, 2) or self.advantage_ddof not in (0, 1):
            raise ValueError(
                f"nft_decay={self.nft_decay!r} must be 0, 1 or 2, and advantage_ddof={self.advantage_ddof!r} 0 or 1"
            )
        if self.advantage_clip is not None and not self.advantage_clip > 0:
            raise ValueError(f"advantage_clip={self.advantage_clip!r} must be above 0, or null for no bound")

    def _check_sampling(self) -> None:
        check_kernel(self.kernel, self.noise_level)
        if self.kernel not in WITH_NOISE_LEVEL and self.noise_level is not None:
            raise ValueError(
                f"noise_level={self.noise_level} has no effect on kernel {self.kernel!r}; set it to null, or choose "
                f"one of {', '.join(WITH_NOISE_LEVEL)}"
            )
        if (self.objective == "nft") != (self.kernel == "ode"):
            raise ValueError(
                f"objective={self.objective!r} and kernel={self.kernel!r} do not fit: nft trains on finished videos of "
                "the kernel 'ode' (noise_level null), the other objectives on stochastic steps"
            )
        if self.noise_level == 0:
            raise ValueError("noise_level=0.0 leaves no stochastic step to train; raise it, or use objective nft")
        if self.objective == "nft" and self.advantage_clip is None:
            raise ValueError("advantage_clip=null does not fit objective 'nft', which scales by it; 5 is usual")
        if self.objective == "nft" and self.same_initial_noise:
            raise ValueError(
                "same_initial_noise=True does not fit objective 'nft': without noise on the way, all videos of a group "
                "would be the same one; set it to false"
            )
        if (self.num_frames - 1) % 4 or self.height % 16 or self.width % 16:
            raise ValueError(
                f"{self.num_frames} frames of {self.height}x{self.width} do not fit Wan: num_frames must be 1 + a "
                "multiple of 4, height and width multiples of 16"
            )
        if self.objective != "nft":
            steps = self.num_inference_steps if self.last_step_noise else self.num_inference_steps - 1
            self.window.check(steps)

    def _check_batch(self) -> None:
        _batch(self.batch)
        rows = self.rows_per_forward
        if rows < 1 or self.sample_batch_size % rows:
            raise ValueError(
                f"train_batch_size={self.train_batch_size!r} must divide sample_batch_size={self.sample_batch_size}"
            )
        if self.samples_per_step % self.num_minibatches:
            raise ValueError(
                f"num_minibatches={self.num_minibatches} must divide the {self.samples_per_step} samples of a step"
            )

    def _check_rewards(self) -> None:
        from cac_align.flow_grpo.reward_specs import read_specs

        specs = read_specs(self.rewards)
        if self.reward_combination == "advantages" and self.reward_on_failure == "drop":
            raise ValueError(
                "reward_on_failure='drop' does not fit reward_combination='advantages', which needs every part; use "
                "'none'"
            )
        if not any(spec.weight > 0 for spec in specs):
            raise ValueError(f"rewards={self.rewards!r} have no weight above 0")
        if not self.lora_targets or any(not isinstance(t, str) or not t for t in self.lora_targets):
            raise ValueError(f"lora_targets={self.lora_targets!r} must name at least one module, such as to_q")


def _batch(text: Any) -> tuple[int, int]:
    """``"4x8"`` as (4, 8)."""
    parts = str(text).lower().replace(" ", "").split("x")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise ValueError(f"batch={text!r} must be PROMPTSxVIDEOS, for instance 2x16: 2 prompts, 16 videos of each")
    groups, generations = int(parts[0]), int(parts[1])
    if groups < 1 or generations < 2:
        raise ValueError(
            f"batch={text!r} must have at least 1 prompt and 2 videos of each: a group of one has no advantage"
        )
    return groups, generations


def _number(kind: Any, value: Any) -> Any:
    """A decimal where the field wants one: YAML reads 1e-4 as text and 1 as a whole number."""
    if "float" not in str(kind) or isinstance(value, bool) or not isinstance(value, str | int):
        return value
    try:
        return float(value)
    except ValueError:
        return value
