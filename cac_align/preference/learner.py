"""The updates of a training on preference pairs: DPO on both videos, or fine-tuning on the chosen ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from cac_align.flow_grpo.learner.adapter_learner import AdapterLearner
from cac_align.flow_grpo.learner.data_term import DataTerm, Draw
from cac_align.flow_grpo.learner.experience import gather
from cac_align.flow_grpo.maths.preference import PairLoss
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.sampler.clips import ClipLatents
from cac_align.flow_grpo.sampler.embeddings import TextEmbeddings
from cac_align.flow_grpo.sampler.experts import ExpertVelocity
from cac_align.flow_grpo.sampler.policy import GuidedVelocity
from cac_align.preference.config import PreferenceConfig
from cac_align.preference.pair_term import PairTerm

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import SchedulerMixin

#: Noise levels at which each pair is measured that is not trained on.
LEVELS = 4
#: What is known of a pair after a forward: its loss, its margin, and by how much the error on either video fell.
_COLUMNS = ("loss", "margin", "chosen_gain", "rejected_gain")


class PreferenceLearner(AdapterLearner):
    """Learns from pairs.

    Args:
        policy: see :class:`~cac_align.flow_grpo.learner.adapter_learner.AdapterLearner`.
        scheduler: scheduler of the model.
        texts: embeddings of all prompts.
        clips: latents of the chosen videos, and with objective dpo of the rejected ones behind them.
        config: objective, optimiser, averages.
        accelerator: processes and precision.
        cells: weights of localised DPO, see :func:`~cac_align.preference.pair_term.pair_weights`.

    Raises:
        ValueError: if the policy cannot be trained by these processes, or the videos are not pairs.
    """

    config: PreferenceConfig

    def __init__(
        self,
        policy: GuidedVelocity | ExpertVelocity,
        scheduler: SchedulerMixin,
        texts: TextEmbeddings,
        clips: ClipLatents,
        config: PreferenceConfig,
        accelerator: Accelerator,
        *,
        cells: Sequence[torch.Tensor] | None = None,
    ) -> None:
        super().__init__(policy, config, accelerator)
        self.texts, self.scheduler = texts, scheduler
        given = (clips, texts, self.policy, scheduler)
        batch, rows, seed = config.batch_size, config.train_batch_size, config.seed
        self.term: PairTerm | DataTerm
        if config.objective == "dpo":
            self.term = PairTerm(
                *given, bare=self.bare, beta=config.beta, cells=cells, batch=batch, rows=rows, seed=seed
            )
        else:
            self.term = DataTerm(*given, batch=batch, rows=rows, seed=seed)

    def learn(self, step: int) -> dict[str, float]:
        """One update, and its numbers.

        Args:
            step: steps done before, for messages.

        Raises:
            DivergenceError: loss or gradient norm is NaN or infinite.
        """
        here, seen = self.accelerator, list[tuple[float, ...]]()
        shares = self.term.share(self.updates, here.process_index, here.num_processes)
        work = [
            partial(self._part, [draws[place] for place in places], seen)
            for draws in shares
            for places in self.phases.split(self.term.timesteps(draws))
        ]
        self.apply(self.backward(work), step)
        return {
            "policy/loss": self.loss,
            "policy/grad_norm": self.grad_norm,
            "policy/learning_rate": float(self.schedule.get_last_lr()[0]),
            **{f"pairs/{name}": value for name, value in pair_numbers(gather(here, seen)).items()},
        }

    def _part(self, draws: list[Draw], seen: list[tuple[float, ...]]) -> torch.Tensor:
        """The share of some pairs in the loss, with gradient; what is logged of them goes to ``seen``."""
        found = self.term.loss(draws, self.accelerator.device)
        loss = found.loss if isinstance(found, PairLoss) else found
        counted = torch.tensor([float(draw.counted) for draw in draws], device=loss.device)
        if isinstance(found, PairLoss):
            seen += [row for row, draw in zip(rows_of_pairs(found), draws, strict=True) if draw.counted]
        self.trained |= {self.phases.name(self.term.timesteps(draws))} if any(d.counted for d in draws) else set()
        # accelerate averages over processes
        return (loss * counted).sum() * (self.accelerator.num_processes / self.config.batch_size)

    @torch.no_grad()
    def measure(self, clips: ClipLatents) -> dict[str, float]:
        """Loss, accuracy and gains of the present weights on pairs, at noise levels that are always the same.

        Args:
            clips: latents of the chosen videos, then of the rejected ones.
        """
        term = PairTerm(clips, self.texts, self.bare, self.scheduler, bare=self.bare, beta=self.config.beta)
        rows: list[tuple[float, ...]] = []
        for pair in range(len(term)):
            for level in range(LEVELS):
                draw = Draw(pair, derive_seed(self.config.seed, "eval pairs", pair, level))
                rows += rows_of_pairs(term.loss([draw], self.accelerator.device))
        return pair_numbers(rows)


def rows_of_pairs(found: PairLoss) -> list[tuple[float, ...]]:
    """Numbers of each pair, as processes can exchange them."""
    columns = [getattr(found, name).detach().double().cpu().tolist() for name in _COLUMNS]
    return list(zip(*columns, strict=True))


def pair_numbers(rows: Sequence[tuple[float, ...]]) -> dict[str, float]:
    """Means over :func:`rows_of_pairs`, and ``accuracy``: the share of pairs with a margin above 0, half of those at 0.

    Example:
        >>> pair_numbers([(0.6, 0.2, 0.1, -0.1), (0.8, -0.2, 0.0, 0.1)])["accuracy"]
        0.5
    """
    if not rows:
        return {}
    means = {name: sum(column) / len(rows) for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=True)}
    right = sum((row[1] > 0) + 0.5 * (row[1] == 0) for row in rows) / len(rows)
    return {"accuracy": right, **means}
