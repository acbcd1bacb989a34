"""Settings of the objectives. Each says with which of them it is read; given with another, it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from cac_align.flow_grpo.maths.objectives import PolicyObjective
from cac_align.flow_grpo.maths.schedule import StepWeighting
from reward_model.terminal.described import setting

Objective = PolicyObjective | Literal["nft", "rvm"]
#: Objectives on recorded steps, the stochastic ones of a video; the others need its end alone.
ON_STEPS: dict[str, tuple[str, ...]] = {"objective": ("grpo", "guard", "dppo")}


@dataclass(frozen=True)
class ObjectiveSettings:
    """A part of :class:`~cac_align.flow_grpo.config.FlowGRPOConfig`."""

    # --- objective ----------------------------------------------------------------------------------------------------
    objective: Objective = setting("grpo")
    """Objective: grpo, guard, dppo, nft or rvm."""
    clip_range: float = setting(1e-3, above=0, below=1, when={"objective": ("grpo", "guard")})
    """PPO clip range of grpo and guard. Log-probs are means over elements, so 1e-3 is already wide."""
    log_prob_constants: bool = setting(True, when={"objective": ("grpo",), "kernel": ("cps",)}, experimental=[False])
    """Log-prob of cps with 1/(2 std^2) and norm; false: minus the squared error, as in public code for that kernel."""
    max_divergence: float = setting(1e-5, above=0, below=inf, when={"objective": ("dppo",)})
    """Largest divergence of a step that still teaches, objective dppo only."""
    step_weighting: StepWeighting = setting(
        "none", when={**ON_STEPS, "log_prob_constants": (True,)}, experimental=["tempflow"]
    )
    """Weights of the steps: none, inv_c (Flash-GRPO) or tempflow."""
    beta: float = setting(0.0, least=0, hint="0 turns it off")
    """Weight of the KL to the model without LoRA; 0 skips its forward pass."""
    kl_space: Literal["velocity", "mean"] = setting("velocity", when=ON_STEPS)
    """Space of the KL: velocity (same scale at every step) or mean (KL of the step's Gaussians)."""
    nft_beta: float = setting(1.0, above=0, below=inf, when={"objective": ("nft",)})
    """Share of the trained policy in the mixtures of nft."""
    nft_num_sigmas: int = setting(2, least=1, when={"objective": ("nft",)})
    """Noise levels each video is trained at, nft only; levels of the schedule occur once."""
    nft_sigmas: Literal["schedule", "uniform"] = setting(
        "schedule", when={"objective": ("nft",)}, experimental=["uniform"]
    )
    """Source of those levels: the sampling schedule, as in DiffusionNFT, or uniform in (0, 1)."""
    nft_decay: Literal[0, 1, 2] = setting(1, when={"objective": ("nft",)}, experimental=[0, 2])
    """Pace at which nft's sampling policy follows, by updates done: 0 at once, 1 up to half, 2 hardly at all."""
    rvm_scale: float = setting(0.1, above=0, below=inf, when={"objective": ("rvm",)})
    """Factor of the advantages of rvm, which weighs them against the anchor (beta). Paper: 0.1."""
    rvm_num_sigmas: int = setting(2, least=1, when={"objective": ("rvm",)})
    """Noise levels each video is trained at, rvm only: drawn anew, uniform in time under the model's shift."""
    rvm_positive_updates: int = setting(0, least=0, when={"objective": ("rvm",)})
    """First updates of rvm that learn from better videos alone."""

    @property
    def on_finished_videos(self) -> bool:
        """True for objectives that need the end of a video alone, drawn by the plain sampler: nft and rvm."""
        return self.objective not in ON_STEPS["objective"]
