"""Settings of the training of a judge that looks itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from reward_model.active.utility import UtilityConfig
from reward_model.config import JudgeConfig
from reward_model.engine.settings import check_known
from reward_model.engine.trackers import Reporter, as_list, check_names
from reward_model.terminal.described import as_declared, check_settings, described, setting, settings_text

#: What a settings file may hold beside the settings of :class:`ActiveConfig`.
OWN = ("model", "data", "judge", "dtype", "attn_implementation", "fast_vision", "plan")


@described
@dataclass(frozen=True)
class ActiveConfig:
    """Everything this training can be told. :meth:`help_text` lists it. Only the abstract of the method is public: what
    is not said to be the paper's is a choice of this project.
    """

    output_dir: str = setting("outputs/active")
    """Folder of checkpoints, logs, rounds and judges."""
    seed: int = setting(0, least=0)
    """Seed of data order and sampling; fixes the whole run on one device."""

    # --- cold start ---------------------------------------------------------------------------------------------------
    cold_steps: int = setting(300, least=0, hint="0 begins with the rounds, for a judge that looks itself already")
    """Updates on scripted episodes before the first round."""
    cold_batch: int = setting(16, least=1)
    """Scripted episodes of an update, over all processes."""
    cold_learning_rate: float = setting(1e-5, above=0)
    """Learning rate of the cold start."""
    detours: float = setting(0.3, least=0, most=1)
    """Share of scripted episodes that look elsewhere first, so that a judge learns to go on from there."""
    answer_at_once: float = setting(0.3, least=0, most=1)
    """Share of scripted episodes about easy videos that answer at the first view."""
    belief_weight: float = setting(1.0, least=0)
    """Weight of the verdict word before any reasoning, at one view of each scripted episode; 0 leaves beliefs as they
    are."""

    # --- rounds -------------------------------------------------------------------------------------------------------
    rounds: int = setting(3, least=0)
    """Rounds of drawing and learning, each with the policy of its start as the reference."""
    round_videos: int = setting(256, least=1)
    """Videos of a round."""
    held_out_videos: int = setting(32, least=0)
    """Further videos of a round whose pairs are not learned from: the share of them that comes out right is logged."""
    num_generations: int = setting(8, least=2, hint="pairs need two")
    """Episodes of each video, branches included."""
    num_branches: int = setting(2, least=0)
    """Of these, episodes that begin as another one did and go on from one of its operators; 0 is an ablation."""
    num_at_once: int = setting(0, least=0)
    """Of these, episodes that are made to answer at the first view where others looked: they say what a look is worth,
    which a judge that always looks cannot find out."""
    round_steps: int = setting(60, least=1)
    """Updates of a round; its pairs come again as often as needed."""
    pairs_per_step: int = setting(16, least=1)
    """Pairs of an update, over all processes."""
    temperature: float = setting(1.0, above=0)
    """Temperature of drawing and of log-probabilities."""
    max_answer_tokens: int | None = setting(None, least=1, hint="null: the judge's own limit of turn two")
    """Most new tokens of a turn; None: the judge's limit of turn two."""

    # --- pairs --------------------------------------------------------------------------------------------------------
    quota_correct: float = setting(0.5, least=0)
    """Share of pairs of a right and a wrong answer. A class that has fewer leaves its places to the others."""
    quota_efficient: float = setting(0.25, least=0)
    """Share of pairs of two right answers of which one was worth more."""
    quota_branch: float = setting(0.25, least=0)
    """Share of pairs that begin alike and differ in one operator."""
    least_gap: float = setting(0.2, above=0)
    """Least difference in utility of two right answers that make a pair."""
    pairs_per_video: int = setting(8, least=1)
    """Most pairs of a video."""

    # --- utility ------------------------------------------------------------------------------------------------------
    information: Literal["belief", "entropy", "none"] = "belief"
    """Evidence that is paid for: belief in the truth, less doubt (an ablation), or nothing (an ablation)."""
    weight_information: float = setting(0.2, least=0)
    """Weight of the information."""
    cost_operator: float = setting(0.05, least=0)
    """Cost of an operator; with the two below at 0 an ablation."""
    cost_frames: float = setting(0.05, least=0)
    """Cost of the frames of a full view."""
    cost_redundant: float = setting(0.10, least=0)
    """Cost of a look that shows nothing new."""
    cost_format: float = setting(0.5, least=0)
    """Cost of a text that cannot be read."""

    # --- objective ----------------------------------------------------------------------------------------------------
    beta: float = setting(0.1, above=0)
    """Strength of the preference loss."""
    margin: float = setting(0.0, least=0)
    """Weight of the difference in utility inside the preference loss."""
    supervised: float = setting(0.2, least=0)
    """Weight of the mean negative log-likelihood of the better episode."""
    phi: Literal["one", "dmpo"] = "one"
    """Weights of turns: all alike, or those of DMPO, which fall from turn to turn (an ablation)."""
    gamma: float = setting(0.7, above=0, most=1)
    """Decay of DMPO's weights."""

    # --- optimiser ----------------------------------------------------------------------------------------------------
    learning_rate: float = setting(1e-6, above=0)
    """Learning rate of the rounds."""
    warmup_steps: int = setting(5, least=0)
    """Updates of linear warm-up at the start of the cold start and of each round."""
    weight_decay: float = setting(0.0, least=0)
    """AdamW: decay of the weights, times the learning rate."""
    adam_beta1: float = setting(0.9, least=0, below=1)
    """AdamW: decay of the mean of gradients."""
    adam_beta2: float = setting(0.999, least=0, below=1)
    """AdamW: decay of the mean of squared gradients."""
    max_grad_norm: float = setting(1.0, least=0, hint="0 turns it off")
    """Gradient clipping; 0 is none."""
    per_device_train_batch_size: int = setting(4, least=1)
    """Episodes of one forward and backward pass; pairs stay together. Changes memory only."""
    generation_batch_size: int = setting(64, least=1)
    """Answers a process draws at once. Changes memory and speed only."""
    gradient_checkpointing: bool = setting(False)
    """Recompute activations in the backward pass."""
    freeze_vision: bool = setting(False)
    """Train the language model only."""
    use_lora: bool = setting(False)
    """Train LoRA adapters."""
    lora_r: int = setting(32, least=1)
    """LoRA rank."""
    lora_alpha: int = setting(64, least=1)
    """LoRA scale numerator."""

    # --- vLLM ---------------------------------------------------------------------------------------------------------
    use_vllm: bool = setting(False)
    """Draw episodes with vLLM, an engine in each training process that takes over the weights of every round."""
    vllm_gpu_memory_utilization: float = setting(0.3, above=0, below=1, hint="the training needs the rest")
    """Share of the GPU's memory vLLM may hold for its copy of the weights and its cache."""
    vllm_max_model_length: int | None = setting(None, least=1, hint="null: what the model can read")
    """Longest episode; None: what the model can read, at most 32768."""

    # --- keeping and showing ------------------------------------------------------------------------------------------
    save_steps: int = setting(25, least=1)
    """Updates between checkpoints; the start of each round is one as well."""
    save_total_limit: int = setting(2, least=1)
    """Checkpoints kept."""
    logging_steps: int = setting(1, least=1)
    """Updates between lines of the log."""
    report_to: list[Reporter] = setting(["tensorboard"])
    """Trackers of numbers besides the log's files: tensorboard, wandb, trackio, or none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "report_to", as_list(self.report_to))
        check_settings(self)
        check_names(self.report_to)
        if self.num_branches + self.num_at_once >= self.num_generations:
            added = f" + num_at_once={self.num_at_once}" if self.num_at_once else ""
            raise ValueError(
                f"num_branches={self.num_branches}{added} must be below num_generations={self.num_generations}: a "
                "branch needs an episode to leave"
            )
        if self.quota_correct + self.quota_efficient + self.quota_branch <= 0:
            raise ValueError("one of quota_correct, quota_efficient and quota_branch must be above 0")
        if self.max_steps == 0:
            raise ValueError("cold_steps=0 and rounds=0 leave nothing to do")

    @property
    def share_prompts(self) -> bool:
        """Episodes do not share more than their first view; each is read by itself."""
        return False

    @property
    def max_steps(self) -> int:
        """Updates of the whole run."""
        return self.cold_steps + self.rounds * self.round_steps

    def phase(self, step: int) -> int:
        """Phase of the update after ``step`` others: 0 is the cold start, then the rounds from 1.

        >>> config = ActiveConfig(cold_steps=10, rounds=2, round_steps=5)
        >>> [config.phase(step) for step in (0, 9, 10, 14, 15)]
        [0, 0, 1, 1, 2]
        """
        return 0 if step < self.cold_steps else 1 + (step - self.cold_steps) // self.round_steps

    def rate(self, step: int) -> float:
        """Learning rate of the update after ``step`` others, over :attr:`learning_rate`."""
        phase = self.phase(min(step, self.max_steps - 1))
        base = self.learning_rate if phase else self.cold_learning_rate
        warm = min(1.0, (step - self.first_step(phase) + 1) / (self.warmup_steps + 1))
        return base / self.learning_rate * warm

    def first_step(self, phase: int) -> int:
        """Updates before a phase."""
        return 0 if phase == 0 else self.cold_steps + (phase - 1) * self.round_steps

    def utility(self) -> UtilityConfig:
        """The utility these settings describe."""
        names = [f.name for f in fields(UtilityConfig)]
        return UtilityConfig(**{name: getattr(self, name) for name in names})

    def asked(self, judge: JudgeConfig) -> JudgeConfig:
        """Judge settings of this training: those of its checkpoint, but for the policy and what is set here."""
        return judge.override(policy="active", max_zoom_tokens=self.max_answer_tokens)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ActiveConfig:
        """Settings from a mapping.

        Raises:
            ValueError: an unknown setting, or a value the rules refuse.
        """
        check_known(data, {f.name for f in fields(cls)}, where="active evidence")
        return cls(**as_declared(cls, data))

    @classmethod
    def help_text(cls) -> str:
        """Name, default and meaning of each setting."""
        return settings_text(cls)
