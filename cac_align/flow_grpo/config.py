"""Settings of a Flow-GRPO run, checked when they are made: a bad value never reaches the accelerator.

The text below a field says what it does and, where it matters, whether its value is the paper's or a choice of this
project. Settings marked ``free`` may differ when a run is continued; all others make another run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from math import inf
from typing import Any, Literal

from cac_align.flow_grpo.anchors import AnchorSettings
from cac_align.flow_grpo.maths.advantages import Baseline, StdEstimator
from cac_align.flow_grpo.maths.kernels import WITH_NOISE_LEVEL, Kernel, check_kernel
from cac_align.flow_grpo.maths.sampling import PrefixSharing, SDEWindow, WindowMode
from cac_align.flow_grpo.objective_settings import ON_STEPS, ObjectiveSettings
from cac_align.flow_grpo.setting_names import renamed
from cac_align.flow_grpo.training_settings import TrainingSettings
from reward_model.setting_keys import hidden_keys
from reward_model.terminal.described import described, setting


@described
@dataclass(frozen=True)
class FlowGRPOConfig(AnchorSettings, ObjectiveSettings, TrainingSettings):
    """Everything a run can be told. ``recipes/configs/flow_grpo`` holds presets.

    Raises:
        ValueError: if a value breaks a rule; the message names value, rule and remedy.

    Example:
        >>> config = FlowGRPOConfig(batch="4x8", kernel="cps", noise_level=0.7)
        >>> config.groups_per_step, config.num_generations, config.samples_per_step
        (4, 8, 32)
    """

    output_dir: str = setting("outputs/flow-grpo", free=True)
    """Folder of checkpoints, logs, videos and the LoRA."""

    # --- prompts ------------------------------------------------------------------------------------------------------
    prompts: str | None = setting("assets/prompts/train.jsonl")
    """Training prompts, .txt or .jsonl; for image-to-video with an image each. Paper: 240."""
    eval_prompts: str | None = setting(None, free=True)
    """Evaluation prompts; null: no evaluation."""

    # --- rollouts -----------------------------------------------------------------------------------------------------
    kernel: Kernel = setting("flow")
    """Rule by which noise enters a step: wan_linear, flow, dance, cps or precise; ode (none) for nft and rvm."""
    noise_level: float | None = setting(0.3)
    """Eta of flow, dance, cps, precise; null for the others. Paper: 0.3."""
    last_step_noise: bool = setting(False, when=ON_STEPS)
    """Keep the noise of the last step, as the public Wan code does."""
    integer_timesteps: bool = setting(False)
    """Use int64 timesteps, as the public Wan code does."""
    ode_solver: Literal["euler", "base"] = setting("euler")
    """Solver of the steps outside the window: euler, or base (the checkpoint's own)."""
    window_mode: WindowMode = setting("random", when=ON_STEPS)
    """Place of the window: all, fixed, random or progressive; one for a whole group."""
    window_size: int = setting(2, least=1, when=ON_STEPS)
    """Stochastic, trained steps of a video; mode all ignores it."""
    window_start: int = setting(0, least=0, when=ON_STEPS)
    """First candidate step."""
    window_stop: int | None = setting(None, when=ON_STEPS)
    """End of the candidate steps (excluded); null: all that have noise."""
    window_shift_every: int = setting(25, least=1, when=ON_STEPS)
    """Training steps between two moves of a progressive window."""
    window_stride: int = setting(1, least=1, when=ON_STEPS)
    """Steps that a progressive window moves at a time."""
    timestep_fraction: float = setting(1.0, above=0, most=1, hint="1 trains every step", when=ON_STEPS)
    """Share of a window's steps that is trained, the first ones. Public Wan code: 0.99, all but the last."""
    same_initial_noise: bool = setting(False)
    """Start all videos of a group from the same latents."""
    shared_prefix: PrefixSharing = setting("exact", experimental=["single"])
    """Draw what such videos share before their window once: exact (bit for bit, by calls of a size), single, or off."""

    # --- amount -------------------------------------------------------------------------------------------------------
    max_steps: int = setting(120, least=1, free=True)
    """Rounds of sampling and updating. Paper: 120."""
    batch: str = setting("2x16")
    """Prompts x videos of each in one step, over all processes. Paper: groups of 16."""
    sample_batch_size: int = setting(1, least=1)
    """Videos of one pipeline call."""
    train_batch_size: int | None = setting(None)
    """Videos of one training forward; divides sample_batch_size. null: the same, which makes ratios exactly 1."""
    num_minibatches: int = setting(1, least=1)
    """Optimiser updates the samples of a step are split into."""
    num_iterations: int = setting(1, least=1)
    """Passes over the samples of a step."""

    # --- advantages ---------------------------------------------------------------------------------------------------
    advantage_baseline: Baseline = setting("group", experimental=["global"])
    """Mean that is subtracted: group or global."""
    advantage_std: StdEstimator = setting("group", experimental=["none"])
    """Std to divide by: group, global or none."""
    advantage_ddof: Literal[0, 1] = setting(0, experimental=[1])
    """Degrees of freedom of the std, 0 or 1. Public Flow-GRPO: 0."""
    advantage_eps: float = setting(1e-4, least=0, hint="0 turns it off")
    """Constant added to the std."""
    advantage_clip: float | None = setting(5.0, above=0, hint="null sets no bound")
    """Bound of advantages; null: none."""

    # --- rewards ------------------------------------------------------------------------------------------------------
    rewards: list[Any] = setting(["cac"])
    """Rewards: cac, unified, module:callable, or mappings of reward, weight, name, options. Paper: mean of both."""
    reward_combination: Literal["scores", "advantages"] = setting("scores")
    """Mean of scores (scores, paper), or sum of rewards that are normalised in their group (advantages)."""
    calibration: str | None = setting(None)
    """File of the scale on which scores are averaged, by `cac-align calibrate`; null: scores as they are."""
    reward_on_failure: Literal["none", "drop", "raise"] = setting("none")
    """Score of a video that a reward could not judge: none, drop (the mean of the others), or raise an error."""
    reward_mode: Literal["sync", "thread", "process"] = setting("thread", free=True)
    """Overlap of judging and sampling: none (sync), in threads (thread) or in processes (process)."""
    reward_workers: int = setting(1, least=1, free=True)
    """Number of threads or processes that judge."""
    reward_deadline_s: float = setting(600.0, above=0, below=inf, free=True)
    """Time limit of a try in seconds; a video that exceeds it has no score."""
    reward_retries: int = setting(1, least=0, free=True)
    """Further tries after an exception."""
    reward_queue: int = setting(8, least=1, free=True)
    """Pipeline calls whose videos may wait for a judge."""

    # --- localised credit ---------------------------------------------------------------------------------------------
    localised_credit: bool = setting(False)
    """Weigh latent cells by the judge's window and boxes (ours)."""
    credit_floor: float = setting(0.2, least=0, most=1)
    """Weight of a cell without anomaly before weights are brought to mean 1."""

    # --- evaluation ---------------------------------------------------------------------------------------------------
    eval_every: int = setting(20, least=1, free=True)
    """Steps between evaluations; the first comes before step 1."""
    eval_num_prompts: int = setting(16, least=1)
    """Evaluation prompts, the first of the list."""
    eval_num_inference_steps: int | None = setting(None, least=0)
    """Steps of an evaluation; null: as in rollouts."""
    eval_seed: int = setting(1234, least=0)
    """Seed of the evaluation's latents."""
    early_stop: bool = setting(True, free=True)
    """Stop when the reward rises while a canary collapses."""
    canary_min_ratio: float = setting(0.5, above=0, below=1, free=True)
    """Share of the base model's value below which a canary has collapsed."""
    canary_max_failure_rate: float = setting(0.2, least=0, most=1, free=True)
    """Share of failed judgements above which judging has collapsed."""
    canary_patience: int = setting(2, least=1, free=True)
    """Consecutive evaluations at which a canary must have collapsed."""

    # --- checkpoints and log ------------------------------------------------------------------------------------------
    noise_floor: Literal["off", "warn", "refuse"] = setting("warn", free=True, when=ON_STEPS)
    """Reaction to replay noise that approaches the clip range: off, warn or refuse."""
    num_logged_groups: int = setting(2, least=0, free=True)
    """Groups whose best and worst video are logged."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewards", hidden_keys(self.rewards))
        self._check_rewards()  # first: its messages hide keys, whatever stands in the place of a list
        self.check_shared()
        self._check_objective()
        self.check_anchors(self.beta, self.rewards)
        self._check_batch()

    # --- rules between settings ---------------------------------------------------------------------------------------

    def _check_objective(self) -> None:
        """Kernel, noise and window give the objective something to train on."""
        check_kernel(self.kernel, self.noise_level)
        if self.kernel not in WITH_NOISE_LEVEL and self.noise_level is not None:
            raise ValueError(
                f"noise_level={self.noise_level} has no effect on kernel {self.kernel!r}; set it to null, or choose "
                f"one of {', '.join(WITH_NOISE_LEVEL)}"
            )
        if self.on_finished_videos != (self.kernel == "ode"):
            raise ValueError(
                f"objective={self.objective!r} and kernel={self.kernel!r} do not fit: nft and rvm train on finished "
                "videos of the kernel 'ode' (noise_level null), the other objectives on stochastic steps"
            )
        if self.noise_level == 0:
            raise ValueError(
                "noise_level=0.0 leaves no stochastic step to train; raise it, or use objective nft or rvm"
            )
        if self.objective == "nft" and self.advantage_clip is None:
            raise ValueError("advantage_clip=null does not fit objective 'nft', which scales by it; 5 is usual")
        if self.on_finished_videos and self.same_initial_noise:
            raise ValueError(
                f"same_initial_noise=True does not fit objective {self.objective!r}: without noise on the way, all "
                "videos of a group would be the same one; set it to false"
            )
        if not self.on_finished_videos:
            self.window.check(self.num_inference_steps if self.last_step_noise else self.num_inference_steps - 1)

    def _check_batch(self) -> None:
        _read_batch(self.batch)
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
        from cac_align.flow_grpo.judging.reward_specs import read_specs

        specs = read_specs(self.rewards)
        if self.reward_combination == "advantages" and self.reward_on_failure == "drop":
            raise ValueError(
                "reward_on_failure='drop' does not fit reward_combination='advantages', which needs every part; use "
                "'none'"
            )
        if not any(spec.weight > 0 for spec in specs):
            raise ValueError(f"rewards={self.rewards!r} have no weight above 0")
        if self.calibration is not None and self.reward_combination == "advantages":
            raise ValueError(
                f"calibration={self.calibration!r} does not fit reward_combination='advantages', which standardises "
                "each reward in its group and leaves nothing to it; use 'scores'"
            )

    # --- derived; what every step asks for is worked out once ---------------------------------------------------------

    @property
    def groups_per_step(self) -> int:
        """Prompts of one step, over all processes."""
        return _read_batch(self.batch)[0]

    @property
    def num_generations(self) -> int:
        """Videos of each prompt."""
        return _read_batch(self.batch)[1]

    @property
    def samples_per_step(self) -> int:
        return self.groups_per_step * self.num_generations

    @cached_property
    def rows_per_forward(self) -> int:
        """Videos of one training forward."""
        return self.train_batch_size or self.sample_batch_size

    @property
    def num_updates(self) -> int:
        """Optimiser updates of the whole run."""
        return self.max_steps * self.num_iterations * self.num_minibatches

    @property
    def shares_prefix(self) -> bool:
        """True if videos of a group have steps in common that are drawn once."""
        return self.same_initial_noise and self.shared_prefix != "off" and not self.on_finished_videos

    @cached_property
    def num_trained_steps(self) -> int:
        """Training passes of one video: steps of its window, or noise levels of nft and rvm."""
        if self.on_finished_videos:
            return self.nft_num_sigmas if self.objective == "nft" else self.rvm_num_sigmas
        steps = self.window_size
        if self.window_mode == "all":
            steps = len(self.window.check(self.num_inference_steps - (0 if self.last_step_noise else 1)))
        return max(1, int(steps * self.timestep_fraction))

    @cached_property
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

    # --- reading ------------------------------------------------------------------------------------------------------

    @classmethod
    def in_own_names(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        return renamed(data, [f.name for f in fields(cls)])


def _read_batch(text: str) -> tuple[int, int]:
    """``"4x8"`` as (4, 8)."""
    parts = text.lower().replace(" ", "").split("x")
    if len(parts) != 2 or not all(p.isdigit() for p in parts):
        raise ValueError(f"batch={text!r} must be PROMPTSxVIDEOS, for instance 2x16: 2 prompts, 16 videos of each")
    groups, generations = int(parts[0]), int(parts[1])
    if groups < 1 or generations < 2:
        raise ValueError(
            f"batch={text!r} must have at least 1 prompt and 2 videos of each: a group of one has no advantage"
        )
    return groups, generations
