"""Rules of the settings of a Flow-GRPO run; each message names value, rule and remedy."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cac_align.flow_grpo.maths.kernels import WITH_NOISE_LEVEL, check_kernel
from reward_model.terminal.described import choices_of

if TYPE_CHECKING:
    from cac_align.flow_grpo.config import FlowGRPOConfig

REPORTERS = ("tensorboard", "wandb", "none")


def check_all(config: FlowGRPOConfig) -> None:
    """Raises ValueError for the first rule that the settings break."""
    _check_choices(config)
    _check_numbers(config)
    _check_sampling(config)
    _check_batch(config)
    _check_rewards(config)
    _check_reports(config)


def read_batch(text: Any) -> tuple[int, int]:
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


def _check_choices(config: FlowGRPOConfig) -> None:
    for name, values in choices_of(type(config)).items():
        if name == "kernel":
            continue  # check_kernel knows what each of them needs
        value = getattr(config, name)
        if value not in values or isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, values))}")
    for name, kind in ((f.name, f.type) for f in fields(config)):
        value = getattr(config, name)
        if kind == "bool" and not isinstance(value, bool):
            raise ValueError(f"{name}={value!r} must be true or false")
        if kind == "float" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name}={value!r} must be a number")


def _check_numbers(config: FlowGRPOConfig) -> None:
    least = {
        **dict.fromkeys(("max_steps", "sample_batch_size", "num_minibatches", "num_iterations", "lora_r"), 1),
        **dict.fromkeys(("lora_alpha", "ema_every", "eval_every", "eval_num_prompts", "canary_patience"), 1),
        **dict.fromkeys(("save_every", "keep_checkpoints", "reward_workers", "reward_queue", "nft_num_sigmas"), 1),
        **dict.fromkeys(("num_frames", "height", "width", "max_sequence_length"), 1),
        **dict.fromkeys(("log_videos_every", "num_logged_groups", "reward_retries", "warmup_steps", "seed"), 0),
        "num_inference_steps": 2,
    }
    for name, low in least.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {low}")
    for name in ("learning_rate", "fps", "reward_deadline_s", "max_divergence", "nft_beta", "adam_eps"):
        if not getattr(config, name) > 0 or not math.isfinite(getattr(config, name)):
            raise ValueError(f"{name}={getattr(config, name)!r} must be a finite number above 0")
    for name in ("beta", "weight_decay", "max_grad_norm", "advantage_eps"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name}={getattr(config, name)!r} must not be negative; 0 turns it off")
    _check_shares(config)


def _check_shares(config: FlowGRPOConfig) -> None:
    for name in ("clip_range", "canary_min_ratio"):
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)!r} must lie between 0 and 1")
    for name in ("credit_floor", "canary_max_failure_rate"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)!r} must lie in [0, 1]")
    if not 0 < config.timestep_fraction <= 1:
        raise ValueError(f"timestep_fraction={config.timestep_fraction!r} must lie in (0, 1]; 1 trains every step")
    if not 0 <= config.ema_decay < 1:
        raise ValueError(f"ema_decay={config.ema_decay!r} must lie in [0, 1); 0 keeps no average")
    if not config.guidance_scale >= 1:
        raise ValueError(f"guidance_scale={config.guidance_scale!r} must be at least 1, which turns guidance off")
    if config.advantage_clip is not None and not config.advantage_clip > 0:
        raise ValueError(f"advantage_clip={config.advantage_clip!r} must be above 0, or null for no bound")


def _check_sampling(config: FlowGRPOConfig) -> None:
    check_kernel(config.kernel, config.noise_level)
    if config.kernel not in WITH_NOISE_LEVEL and config.noise_level is not None:
        raise ValueError(
            f"noise_level={config.noise_level} has no effect on kernel {config.kernel!r}; set it to null, or choose "
            f"one of {', '.join(WITH_NOISE_LEVEL)}"
        )
    if (config.objective == "nft") != (config.kernel == "ode"):
        raise ValueError(
            f"objective={config.objective!r} and kernel={config.kernel!r} do not fit: nft trains on finished videos of "
            "the kernel 'ode' (noise_level null), the other objectives on stochastic steps"
        )
    if config.noise_level == 0:
        raise ValueError("noise_level=0.0 leaves no stochastic step to train; raise it, or use objective nft")
    if config.objective == "nft" and config.advantage_clip is None:
        raise ValueError("advantage_clip=null does not fit objective 'nft', which scales by it; 5 is usual")
    if config.objective == "nft" and config.same_initial_noise:
        raise ValueError(
            "same_initial_noise=True does not fit objective 'nft': without noise on the way, all videos of a group "
            "would be the same one; set it to false"
        )
    if (config.num_frames - 1) % 4 or config.height % 16 or config.width % 16:
        raise ValueError(
            f"{config.num_frames} frames of {config.height}x{config.width} do not fit Wan: num_frames must be 1 + a "
            "multiple of 4, height and width multiples of 16"
        )
    if config.objective != "nft":
        steps = config.num_inference_steps if config.last_step_noise else config.num_inference_steps - 1
        config.window.check(steps)


def _check_batch(config: FlowGRPOConfig) -> None:
    read_batch(config.batch)
    rows = config.rows_per_forward
    if rows < 1 or config.sample_batch_size % rows:
        raise ValueError(
            f"train_batch_size={config.train_batch_size!r} must divide sample_batch_size={config.sample_batch_size}"
        )
    if config.samples_per_step % config.num_minibatches:
        raise ValueError(
            f"num_minibatches={config.num_minibatches} must divide the {config.samples_per_step} samples of a step"
        )


def _check_rewards(config: FlowGRPOConfig) -> None:
    from cac_align.flow_grpo.judging.reward_specs import read_specs

    specs = read_specs(config.rewards)
    if config.reward_combination == "advantages" and config.reward_on_failure == "drop":
        raise ValueError(
            "reward_on_failure='drop' does not fit reward_combination='advantages', which needs every part; use 'none'"
        )
    if not any(spec.weight > 0 for spec in specs):
        raise ValueError(f"rewards={config.rewards!r} have no weight above 0")
    if not config.lora_targets or any(not isinstance(t, str) or not t for t in config.lora_targets):
        raise ValueError(f"lora_targets={config.lora_targets!r} must name at least one module, such as to_q")


def _check_reports(config: FlowGRPOConfig) -> None:
    if not isinstance(config.report_to, list) or not config.report_to or set(config.report_to) - set(REPORTERS):
        raise ValueError(f"report_to={config.report_to!r} must be one or a list of {', '.join(REPORTERS)}")
    if "none" in config.report_to and len(config.report_to) > 1:
        raise ValueError(f"report_to={config.report_to!r}: 'none' stands alone")
