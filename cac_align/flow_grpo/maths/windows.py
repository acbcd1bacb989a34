"""Which steps of a rollout are stochastic and trained: the SDE window, the same for all samples of a group.

Steps outside the window are ODE steps: they cost no memory and no training. A window drawn per sample instead of per
group compares samples that were exposed to noise at different times, which raises the variance of the rewards within
the group; so the draw depends on the prompt alone, not on sample or rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cac_align.flow_grpo.maths.seeds import derive_seed

WindowMode = Literal["all", "fixed", "random", "progressive"]


@dataclass(frozen=True)
class SDEWindow:
    """How the window is chosen among the candidate steps ``start`` to ``stop`` (excluded).

    Args:
        mode: ``all`` candidates; ``fixed``: the first ``size`` of them; ``random``: ``size`` neighbouring ones, drawn
            once per group; ``progressive``: ``size`` neighbouring ones that slide from noise to detail by ``stride``
            every ``shift_every`` iterations and then start over (MixGRPO, arXiv 2507.21802).
        size: steps in the window.
        start, stop: candidate steps; ``stop`` None means up to the last stochastic step.
        shift_every, stride: pace of ``progressive``.

    Raises:
        ValueError: an unknown mode, or a window without steps.

    Example:
        >>> SDEWindow("fixed", size=2, start=1).steps(19)
        (1, 2)
        >>> window = SDEWindow("random", size=2, stop=10)
        >>> window.steps(19, seed=0, epoch=1, prompt_id="a dog") == window.steps(19, seed=0, epoch=1, prompt_id="a dog")
        True
    """

    mode: WindowMode = "all"
    size: int = 2
    start: int = 0
    stop: int | None = None
    shift_every: int = 25
    stride: int = 1

    def __post_init__(self) -> None:
        if self.mode not in get_args(WindowMode):
            raise ValueError(f"window mode {self.mode!r} is unknown; choose one of {', '.join(get_args(WindowMode))}")
        for name, low in (("size", 1), ("start", 0), ("shift_every", 1), ("stride", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"window {name}={getattr(self, name)} must be at least {low}")

    def check(self, num_stochastic_steps: int) -> range:
        """The candidate steps, after making sure that a window fits into them.

        Args:
            num_stochastic_steps: steps with noise; one less than ``num_inference_steps`` unless ``last_step_noise``.
        """
        stop = num_stochastic_steps if self.stop is None else self.stop
        if stop > num_stochastic_steps:
            raise ValueError(
                f"window stop={stop} lies outside the {num_stochastic_steps} stochastic steps (the last step has no "
                "noise unless last_step_noise is set); lower stop or raise num_inference_steps"
            )
        needed = 1 if self.mode == "all" else self.size
        if stop - self.start < needed:
            raise ValueError(
                f"a window of {needed} steps does not fit between start={self.start} and stop={stop} of "
                f"{num_stochastic_steps} stochastic steps; lower size or start, or raise num_inference_steps"
            )
        return range(self.start, stop)

    def steps(
        self, num_stochastic_steps: int, *, seed: int = 0, epoch: int = 0, prompt_id: int | str = "", iteration: int = 0
    ) -> tuple[int, ...]:
        """The stochastic steps of one group.

        Args:
            num_stochastic_steps: see :meth:`check`.
            seed, epoch, prompt_id: what ``random`` depends on, and nothing else.
            iteration: optimisation steps done, which ``progressive`` depends on.
        """
        candidates = self.check(num_stochastic_steps)
        if self.mode == "all":
            return tuple(candidates)
        places = len(candidates) - self.size + 1
        if self.mode == "fixed":
            offset = 0
        elif self.mode == "random":
            offset = derive_seed(seed, "window", epoch, prompt_id) % places
        else:
            # Places stride apart, the last one included even if the stride jumps over it.
            stops = [*range(0, places - 1, self.stride), places - 1]
            offset = stops[iteration // self.shift_every % len(stops)]
        first = candidates.start + offset
        return tuple(range(first, first + self.size))
