"""Settings of a Flow-GRPO run, checked when they are made: a bad value never reaches the accelerator.

The text below a field says what it does and, where it matters, whether its value is the paper's or a choice of this
project. Settings marked ``free`` may differ when a run is continued; all others make another run.
"""

# ruff: noqa: RUF009 -- every default is a call of _setting, which makes a dataclass field.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cac_align.flow_grpo.config_checks import check_all, read_batch
from cac_align.flow_grpo.maths.advantages import Baseline, StdEstimator
from cac_align.flow_grpo.maths.kernels import Kernel
from cac_align.flow_grpo.maths.objectives import PolicyObjective
from cac_align.flow_grpo.maths.sampling import SDEWindow, WindowMode
from cac_align.flow_grpo.maths.schedule import StepWeighting
from cac_align.flow_grpo.setting_names import renamed
from reward_model.setting_keys import hidden_keys, without_keys
from reward_model.terminal.described import described, settings_of

Objective = PolicyObjective | Literal["nft"]


def _setting(default: Any, *, free: bool = False) -> Any:
    """A field; a list is copied for each config. ``free``: it may differ when a run is continued."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"free": free})
    return field(default=default, metadata={"free": free})


@described
@dataclass(frozen=True)
class FlowGRPOConfig:
    """Everything a run can be told. ``recipes/configs/flow_grpo`` holds presets.

    Raises:
        ValueError: a value breaks a rule; the message names value, rule and remedy.

    Example:
        >>> config = FlowGRPOConfig(batch="4x8", kernel="cps", noise_level=0.7)
        >>> config.groups_per_step, config.num_generations, config.samples_per_step
        (4, 8, 32)
    """

    output_dir: str = _setting("outputs/flow-grpo", free=True)
    """Folder of checkpoints, logs, videos and the LoRA."""
    seed: int = _setting(0)
    """Of prompt order, noise and LoRA. A run is a function of it on one device."""

    # --- model --------------------------------------------------------------------------------------------------------
    model: str = _setting("assets/wan-mini")
    """Folder or hub id of a Wan 2.1 text-to-video or image-to-video pipeline."""
    revision: str | None = _setting(None)
    """Revision of a hub id."""
    mixed_precision: Literal["no", "bf16", "fp16"] = _setting("no")
    """no, bf16 or fp16: frozen weights in it and autocast, in sampling and training alike. LoRA stays fp32."""
    attention_backend: str | None = _setting(None)
    """diffusers' attention backend (native, flash, xformers, ...) for sampling and training; null: default."""
    gradient_checkpointing: bool = _setting(False, free=True)
    """Recompute activations in the backward pass."""
    vae_tiling: bool = _setting(False)
    """Decode in tiles: less memory, slightly other pixels."""
    flow_shift: float | None = _setting(None)
    """Shift of the sigma schedule; null: as the checkpoint has it."""

    # --- prompts ------------------------------------------------------------------------------------------------------
    prompts: str | None = _setting("assets/prompts/train.jsonl")
    """Training prompts, .txt or .jsonl; for image-to-video with an image each. Paper: 240."""
    eval_prompts: str | None = _setting(None, free=True)
    """Evaluation prompts; null: no evaluation."""
    negative_prompt: str = _setting("")
    """Of guidance, in sampling and training."""
    max_sequence_length: int = _setting(512)
    """Text tokens; the rest of a prompt is cut by the pipeline."""
    text_cache: str | None = _setting(None, free=True)
    """Folder of text embeddings; null: output_dir/text."""

    # --- size of the videos -------------------------------------------------------------------------------------------
    height: int = _setting(480)
    """Pixels, a multiple of 16."""
    width: int = _setting(832)
    """Pixels, a multiple of 16."""
    num_frames: int = _setting(81)
    """Frames, 1 + a multiple of 4. Paper: 81."""
    fps: float = _setting(16.0)
    """Frames per second the reward is told. Wan: 16."""

    # --- sampling -----------------------------------------------------------------------------------------------------
    num_inference_steps: int = _setting(20)
    """Steps of a rollout. Paper: 50."""
    guidance_scale: float = _setting(4.5)
    """Of classifier-free guidance; 1 turns it off. Public Flow-GRPO: 4.5."""
    batched_guidance: bool = _setting(True)
    """Run both halves of guidance as one batch, in sampling and training; false: two calls, as diffusers."""
    kernel: Kernel = _setting("flow")
    """How noise enters a step: wan_linear, flow, dance, cps or precise; ode (none) for objective nft."""
    noise_level: float | None = _setting(0.3)
    """Eta of flow, dance, cps, precise; null for the others. Paper: 0.3."""
    last_step_noise: bool = _setting(False)
    """Keep the noise of the last step, as the public Wan code does."""
    integer_timesteps: bool = _setting(False)
    """int64 timesteps, as the public Wan code has them."""
    ode_solver: Literal["euler", "base"] = _setting("euler")
    """Outside the window: euler, or base (the checkpoint's own solver)."""
    window_mode: WindowMode = _setting("random")
    """all, fixed, random or progressive; one window for a whole group."""
    window_size: int = _setting(2)
    """Stochastic, trained steps of a video; not read by mode all."""
    window_start: int = _setting(0)
    """First candidate step."""
    window_stop: int | None = _setting(None)
    """End of the candidate steps (excluded); null: all that have noise."""
    window_shift_every: int = _setting(25)
    """Steps between two places of a progressive window."""
    window_stride: int = _setting(1)
    """How far a progressive window moves."""
    timestep_fraction: float = _setting(1.0)
    """Share of a window's steps that is trained, the first ones. Public Wan code: 0.99, all but the last."""
    same_initial_noise: bool = _setting(False)
    """Start all videos of a group from the same latents."""

    # --- how much -----------------------------------------------------------------------------------------------------
    max_steps: int = _setting(120, free=True)
    """Rounds of sampling and updating. Paper: 120."""
    batch: str = _setting("2x16")
    """Prompts x videos of each in one step, over all processes. Paper: groups of 16."""
    sample_batch_size: int = _setting(1)
    """Videos of one pipeline call."""
    train_batch_size: int | None = _setting(None)
    """Videos of one training forward; divides sample_batch_size. null: the same, which makes ratios exactly 1."""
    num_minibatches: int = _setting(1)
    """Optimiser updates the samples of a step are split into."""
    num_iterations: int = _setting(1)
    """Passes over the samples of a step."""

    # --- objective ----------------------------------------------------------------------------------------------------
    objective: Objective = _setting("grpo")
    """grpo, guard, dppo or nft."""
    clip_range: float = _setting(1e-3)
    """Of grpo and guard. Log-probs are means over elements: 1e-3 is wide."""
    max_divergence: float = _setting(1e-5)
    """Largest divergence of a step that still teaches, objective dppo only."""
    step_weighting: StepWeighting = _setting("none")
    """none, inv_c (Flash-GRPO) or tempflow."""
    beta: float = _setting(0.0)
    """Weight of the KL to the model without LoRA; 0 skips its forward pass."""
    kl_space: Literal["velocity", "mean"] = _setting("velocity")
    """velocity (same scale at every step) or mean (KL of the step's Gaussians)."""
    nft_beta: float = _setting(1.0)
    """Share of the trained policy in the mixtures of nft."""
    nft_num_sigmas: int = _setting(2)
    """Noise levels each video is trained at, nft only; of the schedule, no level twice."""
    nft_sigmas: Literal["schedule", "uniform"] = _setting("schedule")
    """Where those levels come from: the sampling schedule, as in DiffusionNFT, or uniform in (0, 1)."""
    nft_decay: Literal[0, 1, 2] = _setting(1)
    """How slowly the sampling policy of nft follows, by updates done: 0 at once, 1 up to half, 2 nearly not at all."""

    # --- advantages ---------------------------------------------------------------------------------------------------
    advantage_baseline: Baseline = _setting("group")
    """Mean that is subtracted: group or global."""
    advantage_std: StdEstimator = _setting("group")
    """Std that is divided by: group, global or none."""
    advantage_ddof: Literal[0, 1] = _setting(0)
    """0 or 1. Public Flow-GRPO: 0."""
    advantage_eps: float = _setting(1e-4)
    """Added to the std."""
    advantage_clip: float | None = _setting(5.0)
    """Bound of advantages; null: none."""

    # --- rewards ------------------------------------------------------------------------------------------------------
    rewards: list[Any] = _setting(["cac"])
    """cac, unified, module:callable, or mappings of reward, weight, name, options. Paper: mean of both."""
    reward_combination: Literal["scores", "advantages"] = _setting("scores")
    """scores: mean of scores (paper); advantages: each reward normalised in its group, then summed."""
    reward_on_failure: Literal["none", "drop", "raise"] = _setting("none")
    """A member could not judge: none (no score), drop (others' mean), raise."""
    reward_mode: Literal["sync", "thread", "process"] = _setting("thread", free=True)
    """sync, thread or process: whether judging overlaps sampling, and where."""
    reward_workers: int = _setting(1, free=True)
    """Threads or processes that judge."""
    reward_deadline_s: float = _setting(600.0, free=True)
    """Seconds one try may take; then there is no score."""
    reward_retries: int = _setting(1, free=True)
    """More tries after an exception."""
    reward_queue: int = _setting(8, free=True)
    """Pipeline calls whose videos may wait for a judge."""

    # --- localised credit ---------------------------------------------------------------------------------------------
    localised_credit: bool = _setting(False)
    """Weigh latent cells by the judge's window and boxes (ours)."""
    credit_floor: float = _setting(0.2)
    """Weight of a cell without anomaly before weights are brought to mean 1."""

    # --- LoRA and optimiser -------------------------------------------------------------------------------------------
    lora_r: int = _setting(32)
    """Rank. Paper: 32."""
    lora_alpha: int = _setting(64)
    """Scale numerator. Paper: not given; 64 as public Flow-GRPO."""
    lora_targets: list[str] = _setting(["to_q", "to_k", "to_v", "to_out.0"])
    """Names of the modules that get an adapter."""
    learning_rate: float = _setting(1e-4)
    """Of AdamW. Paper: not given; 1e-4 as public Flow-GRPO."""
    lr_scheduler_type: str = _setting("constant_with_warmup")
    """A diffusers schedule, counted in updates."""
    warmup_steps: int = _setting(0)
    """Updates of linear warm-up."""
    adam_beta1: float = _setting(0.9)
    """AdamW: decay of the mean of gradients."""
    adam_beta2: float = _setting(0.999)
    """AdamW: decay of the mean of squared gradients."""
    adam_eps: float = _setting(1e-8)
    """AdamW: added to the root of the squared gradients."""
    weight_decay: float = _setting(1e-4)
    """AdamW: of the adapter, times the learning rate."""
    max_grad_norm: float = _setting(1.0)
    """Gradient clipping; 0 turns it off."""
    ema_decay: float = _setting(0.9)
    """Of the averaged LoRA that is evaluated and exported; 0 turns it off."""
    ema_every: int = _setting(8)
    """Updates between two averagings."""

    # --- watching and keeping -----------------------------------------------------------------------------------------
    noise_floor: Literal["off", "warn", "refuse"] = _setting("warn", free=True)
    """Replay noise rivals the clip: warn or refuse; off."""
    eval_every: int = _setting(20, free=True)
    """Steps between evaluations; the first comes before step 1."""
    eval_num_prompts: int = _setting(16)
    """Evaluation prompts, the first of the list."""
    eval_num_inference_steps: int | None = _setting(None)
    """Steps of an evaluation; null: as in rollouts."""
    eval_seed: int = _setting(1234)
    """Of the evaluation's latents."""
    early_stop: bool = _setting(True, free=True)
    """Stop when the reward rises while a canary collapses."""
    canary_min_ratio: float = _setting(0.5, free=True)
    """A canary below this share of the base model's has collapsed."""
    canary_max_failure_rate: float = _setting(0.2, free=True)
    """So has judging above this share of failures."""
    canary_patience: int = _setting(2, free=True)
    """Evaluations in a row."""
    save_every: int = _setting(10, free=True)
    """Steps between checkpoints."""
    keep_checkpoints: int = _setting(2, free=True)
    """Checkpoints kept."""
    log_videos_every: int = _setting(10, free=True)
    """Steps between videos in the log; 0 logs none."""
    num_logged_groups: int = _setting(2, free=True)
    """Groups whose best and worst video are logged."""
    report_to: list[str] = _setting(["tensorboard"], free=True)
    """Where numbers and videos go beside metrics.jsonl: tensorboard, wandb, or none."""
    wandb_project: str | None = _setting(None, free=True)
    """Project of Weights & Biases; naming one adds wandb to report_to."""

    def __post_init__(self) -> None:
        if isinstance(self.report_to, str):
            object.__setattr__(self, "report_to", [self.report_to])
        object.__setattr__(self, "rewards", hidden_keys(self.rewards))
        check_all(self)

    # --- derived ------------------------------------------------------------------------------------------------------

    @property
    def groups_per_step(self) -> int:
        """Prompts of one step, over all processes."""
        return read_batch(self.batch)[0]

    @property
    def num_generations(self) -> int:
        """Videos of each prompt."""
        return read_batch(self.batch)[1]

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
            mode=self.window_mode,
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
        """What must be equal for a checkpoint to be continued: all settings that are not marked free, but no keys."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if not f.metadata["free"]}
        return without_keys(found, keep_names=False)

    # --- reading ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All settings, for files; without keys."""
        return without_keys(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlowGRPOConfig:
        """Settings from a mapping; whole numbers and texts such as ``1e-4`` serve for decimals. Names that TRL has for
        the same thing are understood (``num_generations``, ``save_steps``, ...).

        Raises:
            ValueError: an unknown setting (the nearest known one is named), or a value the rules refuse.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"settings must be a mapping of names to values, got {type(data).__name__}")
        known = {f.name: f for f in fields(cls)}
        found = renamed(data, known)
        return cls(**{k: _number(known[k].type, v) for k, v in found.items()})

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> FlowGRPOConfig:
        """Settings from a YAML file, with changes put over them."""
        from reward_model.engine.settings import read_yaml

        return cls.from_dict({**read_yaml(path), **changes})

    @classmethod
    def help_text(cls) -> str:
        """Name, default and meaning of each setting."""
        return "\n".join(f"{s.name} = {s.default!r}   ({s.kind})\n    {s.text}" for s in settings_of(cls))


def _number(kind: Any, value: Any) -> Any:
    """A decimal where the field wants one: YAML reads 1e-4 as text and 1 as a whole number."""
    if "float" not in str(kind) or isinstance(value, bool) or not isinstance(value, str | int):
        return value
    try:
        return float(value)
    except ValueError:
        return value
