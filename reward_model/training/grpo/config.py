"""Settings of stage 3, in the vocabulary of TRL's ``GRPOConfig`` where TRL has a word for it.

The text below a field says where its value comes from: the paper, or a choice of this project because the paper gives
none (C.2 leaves out epsilon, beta, temperature and lengths).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from reward_model.config import JudgeConfig
from reward_model.engine.settings import check_known
from reward_model.engine.trackers import Reporter, as_list, check_names
from reward_model.evidence.score import SerConfig
from reward_model.rewards import RewardConfig, RewardWeights
from reward_model.terminal.described import as_declared, check_settings, described, setting, settings_text

#: What a settings file may hold beside the settings of :class:`GrpoConfig`.
OWN = ("model", "data", "judge", "referee", "dtype", "attn_implementation", "fast_vision", "plan", "domain_videos")
#: Settings that had one value only; files and checkpoints that carry it still open.
FORMER = {"loss_type": "grpo"}


@described
@dataclass(frozen=True)
class GrpoConfig:
    """Everything stage 3 can be told. :meth:`help_text` lists it."""

    output_dir: str = setting("outputs/stage3")
    """Folder of checkpoints, logs and samples."""
    seed: int = setting(0, least=0)
    """Seed of data order and sampling; fixes the whole run on one device."""

    # --- amount -------------------------------------------------------------------------------------------------------
    max_steps: int = setting(250, least=1)
    """Rollout-and-update rounds. Paper: 250."""
    prompts_per_step: int = setting(64, least=1)
    """Prompts of one step over all processes. Paper: batch 64."""
    num_generations: int = setting(8, least=2, hint="a group of one has no std")
    """Rollouts of each prompt, G. Paper: 8."""
    num_iterations: int = setting(1, least=1)
    """Optimiser updates on the same rollouts, mu. Paper: not given; 1 is our choice."""
    per_device_train_batch_size: int = setting(1, least=1)
    """Rows (turns) of one forward and backward pass. Changes memory only."""
    share_prompts: bool = setting(False)
    """Read a prompt once for all its rows of a pass, as branches of one sequence under a mask. Changes speed only: less
    work where prompts are longer than answers and a pass holds several rows; a tenth for the mini."""
    generation_batch_size: int = setting(64, least=1)
    """Answers a process draws at once. Changes memory and speed only."""

    # --- optimiser ----------------------------------------------------------------------------------------------------
    learning_rate: float = setting(1e-6, above=0)
    """Learning rate of AdamW. Paper: 1e-6."""
    lr_scheduler_type: str = setting("constant_with_warmup")
    """Learning-rate schedule of transformers. Our choice."""
    warmup_steps: int = setting(5, least=0)
    """Updates of linear warm-up. Our choice."""
    weight_decay: float = setting(0.0, least=0)
    """AdamW: decay of the weights, times the learning rate. Our choice."""
    adam_beta1: float = setting(0.9)
    """AdamW: decay of the mean of gradients."""
    adam_beta2: float = setting(0.999)
    """AdamW: decay of the mean of squared gradients."""
    max_grad_norm: float = setting(1.0, least=0, hint="0 turns it off")
    """Gradient clipping; 0 is none. Our choice."""
    gradient_checkpointing: bool = setting(False)
    """Recompute activations in the backward pass."""
    freeze_vision: bool = setting(False)
    """Train the language model only. Paper: all parts are trained."""
    use_lora: bool = setting(False)
    """Train LoRA adapters. Paper: full parameters in stage 3."""
    lora_r: int = setting(32, least=1)
    """LoRA rank."""
    lora_alpha: int = setting(64, least=1)
    """LoRA scale numerator."""

    # --- objective ----------------------------------------------------------------------------------------------------
    epsilon: float = setting(0.2, above=0, below=1, hint="the ratio is clipped to 1 - epsilon")
    """Clip range of the ratio. Paper: not given; our choice, as TRL."""
    epsilon_high: float | None = setting(None, above=0)
    """Upper clip range if it differs."""
    beta: float = setting(0.04, least=0, hint="0 turns it off")
    """Weight of the KL term; 0 loads no reference. Paper: not given; our choice."""
    use_bias_correction_kl: bool = setting(False)
    """Multiply the KL estimate by the ratio, as TRL does by default; Equation 11 as printed does not."""
    scale_rewards: Literal["group", "batch", "none"] = setting("group")
    """Divisor of Equation 8: the std of the group, of the whole batch, or none."""
    advantage_eps: float = setting(1e-4, above=0)
    """Added to the std in Equation 8. Our choice, as TRL."""
    saliency_repair: Literal["none", "scale_advantage", "mean_only"] = setting("none")
    """Equation 8 cancels the saliency discount; the two repairs bring it back. none is the paper."""

    # --- rollouts -----------------------------------------------------------------------------------------------------
    temperature: float = setting(1.0, above=0)
    """Temperature of sampling and of the log-probabilities. Paper: not given; our choice."""
    max_scan_tokens: int | None = setting(None, least=1, hint="null: the judge's own limit")
    """Most new tokens of turn one; None: as the checkpoint's judge.json says. Not fewer: a cut answer is invalid."""
    max_zoom_tokens: int | None = setting(None, least=1, hint="null: the judge's own limit")
    """Most new tokens of turn two; None: likewise."""
    context: Literal["fresh", "chat", "clip_only"] | None = setting(None)
    """Input of turn two: clip and reasoning of turn one (fresh), the whole chat, or the clip alone (clip_only). None:
    as judge.json says, fresh where it says nothing. The trained judge.json holds it."""
    crop: Literal["hull", "per_window"] | None = setting(None)
    """Clip of several windows: their hull, or one each. None: as judge.json says, else the hull."""
    num_turns: Literal[1, 2] | None = setting(None)
    """Number of turns; 1 is the control without turn two. None: as judge.json says."""

    # --- vLLM ---------------------------------------------------------------------------------------------------------
    use_vllm: bool = setting(False)
    """Draw answers with vLLM, an engine in each training process that takes over the weights of every step."""
    vllm_gpu_memory_utilization: float = setting(0.3, above=0, below=1, hint="the training needs the rest")
    """Share of the GPU's memory vLLM may hold for its copy of the weights and its cache."""
    vllm_max_model_length: int | None = setting(None, least=1, hint="null: what the model can read")
    """Longest prompt with its answer; None: what the model can read, at most 32768."""
    vllm_importance_sampling_correction: bool = setting(True)
    """Weigh each token by the ratio of the policy's probability to vLLM's, whose arithmetic differs."""
    vllm_importance_sampling_clip_max: float = setting(3.0, above=0)
    """Largest such ratio of a token (TRL: token_truncate)."""

    # --- reward -------------------------------------------------------------------------------------------------------
    weight_format: float = setting(1.0)
    """Weight w1 of Equation 6. Paper: 1."""
    weight_status: float = setting(2.0)
    """Weight w2. Paper: 2."""
    weight_type: float = setting(2.0)
    """Weight w3. Paper: 2; 0 is its ablation."""
    weight_temporal: float = setting(2.0)
    """Weight w4. Paper: 2; 0 is its ablation."""
    weight_spatial: float = setting(5.0)
    """Weight w5. Paper: 5; 0 is its ablation."""
    gate: Literal["both", "turnwise"] = setting("both")
    """Statuses that overlaps need: both right (both, paper), or that of their own turn (turnwise)."""
    gate_outside: bool = setting(False)
    """Drop the whole anomalous term if the gate fails, not only its overlaps."""
    rescued_normal: float = setting(0.0)
    """Status reward of a normal video that turn two cleared, -1 to 0. Paper: not given. Below 0, the group's deviation
    (``scale_rewards``) cancels what flagging earns (docs/second_look.md)."""
    spatial_norm: Literal["pred", "named", "gt"] = setting("pred")
    """True boxes Equation 5 averages over: those in turn one's window (pred, paper), on the frames that turn two names
    (named), or all (gt)."""
    localisation: Literal["paper", "tv_verifier"] = setting("paper")
    """Temporal and spatial terms: Equations 4 and 5 (paper), or t_IoU and mv_IoU of turn two's tube in their places
    (tv_verifier), weighted by weight_temporal and weight_spatial."""
    mv_norm: Literal["inter", "union", "gt"] = setting("union")
    """Frames mv_IoU averages over: those of either tube (union), of the truth (gt), or of both (inter, which pays for
    naming few frames). Our choice."""
    clip_restricted: bool = setting(False)
    """Compare turn two's types with those its clip shows, not with the whole video's as Equation 3 does."""
    weight_ser: float = setting(0.0)
    """Weight of evidence that a referee scores (SER), which needs no true box; 0 asks no referee. Not in the paper."""
    ser_gate: Literal["answer", "none"] = setting("answer")
    """Evidence counts where both statuses are right (answer), or always (none)."""
    ser_temporal_penalty: float = setting(0.5, least=0, most=1)
    """SER: share that a claim loses at a wrong moment, lambda_t. Our choice."""
    ser_looseness_penalty: float = setting(0.25, least=0)
    """SER: weight of the share of the video that turn one's window has too much, lambda_l. Our choice."""
    ser_excess_penalty: float = setting(0.25, least=0)
    """SER: weight of the share of claims beyond ser_max_claims, lambda_x. Our choice."""
    ser_max_claims: int = setting(8, least=1)
    """SER: claims of an answer that the referee checks. Our choice."""

    # --- keeping and showing ------------------------------------------------------------------------------------------
    save_steps: int = setting(25, least=1)
    """Steps between checkpoints."""
    save_total_limit: int = setting(2, least=1)
    """Checkpoints kept."""
    logging_steps: int = setting(1, least=1)
    """Steps between lines of the log."""
    log_samples_every: int = setting(10, least=0, hint="0 turns it off")
    """Steps between sample tables; 0 is none."""
    num_logged_samples: int = setting(4, least=0)
    """Rollouts in a sample table."""
    report_to: list[Reporter] = setting(["tensorboard"])
    """Trackers of numbers, tables and clips besides the log's files: tensorboard, wandb, trackio, or none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "report_to", as_list(self.report_to))
        check_settings(self)
        check_names(self.report_to)
        self.reward_config()

    @property
    def sampling_clip_max(self) -> float | None:
        """Largest correction of a token that vLLM drew; None corrects nothing."""
        return self.vllm_importance_sampling_clip_max if self.vllm_importance_sampling_correction else None

    def asked(self, judge: JudgeConfig) -> JudgeConfig:
        """Judge settings of this training: those of its checkpoint, except for what is set here."""
        names = ("max_scan_tokens", "max_zoom_tokens", "context", "crop", "num_turns")
        return judge.override(**{n: getattr(self, n) for n in names})

    def reward_config(self, judge: JudgeConfig | None = None) -> RewardConfig:
        """The reward these settings describe, for a judge that is asked like this."""
        weights = RewardWeights(**{f.name: getattr(self, f"weight_{f.name}") for f in fields(RewardWeights)})
        names = ("gate", "gate_outside", "rescued_normal", "spatial_norm", "clip_restricted", "ser_gate")
        turns = self.asked(judge or JudgeConfig()).num_turns
        given: dict[str, Any] = {n: getattr(self, n) for n in names}
        return RewardConfig(weights, num_turns=turns, localisation=self.localisation, mv_norm=self.mv_norm, **given)

    def ser_config(self) -> SerConfig:
        """Settings of the score of evidence, where ``weight_ser`` counts."""
        names = ("temporal_penalty", "looseness_penalty", "excess_penalty", "max_claims")
        return SerConfig(**{n: getattr(self, f"ser_{n}") for n in names})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GrpoConfig:
        """Settings from a mapping.

        Raises:
            ValueError: an unknown setting, or a value the rules refuse.
        """
        named = dict(data)
        for name, only in FORMER.items():
            if named.pop(name, only) != only:
                raise ValueError(f"{name}={data[name]!r} must be {only!r}, the only value there is; leave it out")
        check_known(named, {f.name for f in fields(cls)}, where="stage 3")
        return cls(**as_declared(cls, named))

    @classmethod
    def help_text(cls) -> str:
        """Name, default and meaning of each setting."""
        return settings_text(cls)
