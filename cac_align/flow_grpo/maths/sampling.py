"""Draws of a step: seeds, the samples of its groups, and the steps of their rollouts that are stochastic and trained.

All of it is a pure function of (seed, epoch, step, prompt): a resumed run needs no state, and one rank draws the same
samples as eight. Groups stay whole over the ranks, and no prompt comes twice in an epoch.

Steps outside the SDE window are ODE steps: they cost no memory and no training. A window drawn per sample instead of
per group compares samples that were exposed to noise at different times, which raises the variance of the rewards
within the group; so its draw depends on the prompt alone, not on sample or rank.

Before its window, a group that starts from the same latents is one video. These steps can be drawn once
(:data:`PrefixSharing`): their outcome is the same up to the rounding of batched arithmetic, which depends on the number
of videos of a call and on the place of a video in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

WindowMode = Literal["all", "fixed", "random", "progressive"]
#: How the steps before a window are shared within a group: ``exact``: between calls of equally many videos, each from
#: the one in its place, which changes no bit; ``single``: one video for all; ``off``: not at all.
PrefixSharing = Literal["exact", "single", "off"]


def derive_seed(*parts: int | str) -> int:
    """A well mixed 63-bit seed from integers and texts: the same on every machine, rank and library version.

    It depends on what is drawn, never on which process draws it or how far a generator has run.

    Example:
        >>> derive_seed(0, "window", 3) == derive_seed(0, "window", 3) != derive_seed(0, "window", 4)
        True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def prefix_videos(calls: Sequence[int], sharing: PrefixSharing) -> int:
    """The videos of a group for which the steps before the window are computed.

    Args:
        calls: number of videos of each call that one process draws of the group.
        sharing: see :data:`PrefixSharing`.

    Example:
        >>> [prefix_videos([3, 3, 2], sharing) for sharing in ("off", "exact", "single")]
        [8, 5, 1]
    """
    return {"off": sum(calls), "exact": sum(set(calls)), "single": min(1, len(calls))}[sharing]


@dataclass(frozen=True)
class SampleSpec:
    """One sample to draw: candidate ``generation`` of the group of ``prompt_index``.

    ``seed`` belongs to this sample alone, ``group_seed`` to its whole group (for runs that start a group from the same
    latents). Both depend on run seed, epoch, prompt and candidate, not on rank or order. ``group`` counts the groups of
    one step, over all ranks.
    """

    prompt_index: int
    group: int
    generation: int
    seed: int
    group_seed: int


@dataclass(frozen=True)
class GroupSampler:
    """Deals groups of ``num_generations`` samples of one prompt to ranks.

    The samples of a step, group by group, are cut into ``world_size`` equal parts. Where the ranks divide the groups, a
    group never leaves its rank; else it lies on neighbouring ranks, and rewards must be gathered before advantages are
    computed (:func:`cac_align.flow_grpo.maths.advantages.compute_advantages` takes them in any order).

    Args:
        num_prompts: prompts of the training list.
        groups_per_step: prompts of one step over all ranks.
        num_generations: samples of each prompt, at least 2.
        seed: seed of the order of prompts and of the samples.

    Raises:
        ValueError: a group of one, or more groups than prompts.

    Example:
        >>> sampler = GroupSampler(num_prompts=240, groups_per_step=4, num_generations=2)
        >>> [(s.group, s.generation) for s in sampler.rank_samples(epoch=0, step=0, rank=1, world_size=2)]
        [(2, 0), (2, 1), (3, 0), (3, 1)]
    """

    num_prompts: int
    groups_per_step: int
    num_generations: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations={self.num_generations} must be at least 2: a group of one has no advantage"
            )
        if self.groups_per_step < 1:
            raise ValueError(f"groups_per_step={self.groups_per_step} must be at least 1")
        if self.num_prompts < self.groups_per_step:
            raise ValueError(
                f"groups_per_step={self.groups_per_step} needs as many different prompts, the list has "
                f"{self.num_prompts}; add prompts or lower groups_per_step"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full steps in one pass; prompts left over are other ones in every epoch."""
        return self.num_prompts // self.groups_per_step

    @property
    def samples_per_step(self) -> int:
        """Samples of one step over all ranks."""
        return self.groups_per_step * self.num_generations

    def prompt_order(self, epoch: int) -> list[int]:
        """The order in which an epoch visits the prompts: a shuffle by hash, so that no library version changes it."""
        return sorted(range(self.num_prompts), key=lambda index: derive_seed(self.seed, "order", epoch, index))

    def step_samples(self, epoch: int, step: int) -> list[SampleSpec]:
        """All samples of a step, group by group.

        Args:
            epoch: from 0.
            step: within the epoch, from 0 to ``steps_per_epoch - 1``.
        """
        if epoch < 0 or not 0 <= step < self.steps_per_epoch:
            raise ValueError(
                f"epoch {epoch}, step {step} lies outside an epoch of {self.steps_per_epoch} steps; "
                "use locate(iteration) to turn a running count into both"
            )
        first = step * self.groups_per_step
        chosen = self.prompt_order(epoch)[first : first + self.groups_per_step]
        return [self._spec(epoch, p, g, k) for g, p in enumerate(chosen) for k in range(self.num_generations)]

    def rank_samples(self, epoch: int, step: int, rank: int, world_size: int) -> list[SampleSpec]:
        """The samples one rank draws; those of all ranks, joined in order, are :meth:`step_samples`.

        Raises:
            ValueError: if ``rank`` is not in ``range(world_size)``, or the samples do not divide among them.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} must lie in 0 to {world_size - 1}")
        self.check_world_size(world_size)
        share = self.samples_per_step // world_size
        return self.step_samples(epoch, step)[rank * share : (rank + 1) * share]

    def check_world_size(self, world_size: int) -> None:
        """Raises ValueError unless every rank gets as many samples as any other."""
        if world_size < 1 or self.samples_per_step % world_size:
            raise ValueError(
                f"{self.groups_per_step} groups x {self.num_generations} samples = {self.samples_per_step} do not "
                f"divide among {world_size} ranks; change groups_per_step or num_generations"
            )

    def locate(self, iteration: int) -> tuple[int, int]:
        """Epoch and step of the iteration-th step of the run, counted from 0."""
        return divmod(iteration, self.steps_per_epoch)

    def _spec(self, epoch: int, prompt: int, group: int, generation: int) -> SampleSpec:
        group_seed = derive_seed(self.seed, "group", epoch, prompt)
        return SampleSpec(prompt, group, generation, derive_seed(group_seed, generation), group_seed)


@dataclass(frozen=True)
class SDEWindow:
    """Choice of the window among the candidate steps ``start`` to ``stop`` (excluded).

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
        if self.mode == "all":
            return tuple(self.check(num_stochastic_steps))
        starts = self.starts(num_stochastic_steps)
        if self.mode == "random":
            first = starts[derive_seed(seed, "window", epoch, prompt_id) % len(starts)]
        else:
            first = starts[iteration // self.shift_every % len(starts)]
        return tuple(range(first, first + self.size))

    def starts(self, num_stochastic_steps: int) -> list[int]:
        """The steps that a window can begin with, in the order of ``progressive``; all are equally frequent."""
        candidates = self.check(num_stochastic_steps)
        last = candidates.stop - self.size
        if self.mode in ("all", "fixed"):
            return [candidates.start]
        if self.mode == "random":
            return list(range(candidates.start, last + 1))
        # Places stride apart, the last one included even if the stride jumps over it.
        return [*range(candidates.start, last, self.stride), last]
