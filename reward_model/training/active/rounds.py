"""Rounds: episodes drawn by the policy of their start, the pairs they make, and how well held-out pairs come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reward_model.engine.processes import summed
from reward_model.training.active.config import ActiveConfig
from reward_model.training.active.episode_rows import EpisodeCase, replay_episode
from reward_model.training.active.experience import DrawnVideo, RoundFiles, judged_videos
from reward_model.training.active.losses import PairRows, drawn_delta
from reward_model.training.active.maths import turn_sums
from reward_model.training.active.pairs import KINDS, EpisodePair, Kind, choose_pairs
from reward_model.training.active.rollouts import Drawn, TokenPolicy, draw_episodes
from reward_model.training.grpo.batches import PromptOrder
from reward_model.training.grpo.rows import SequenceRow
from reward_model.training.grpo.sampler import Generator

if TYPE_CHECKING:
    from accelerate import Accelerator


#: Rows of a pass without gradient.
_ROWS = 8


@dataclass
class Rounds:
    """Draws rounds, each process its share of the videos.

    Args:
        config: what to draw, and what it is worth.
        accelerator: the processes.
        policy: the prepared :class:`~reward_model.training.grpo.rows.RowModel`.
        generator, random: who draws, and the random state it draws with.
        stop_ids: tokens that end a turn.
        case: row of the data set -> its video.
        order: number of a video in the run -> row of the data set.
    """

    config: ActiveConfig
    accelerator: Accelerator
    policy: Any
    generator: Generator
    random: torch.Generator
    stop_ids: Sequence[int]
    case: Callable[[int], EpisodeCase]
    order: PromptOrder

    def draw(self, phase: int) -> list[DrawnVideo]:
        """The episodes of a round: read if they were drawn before, else drawn, video by video."""
        from tqdm import tqdm

        files, config = RoundFiles(Path(self.config.output_dir), phase), self.config
        count = config.round_videos + config.held_out_videos
        if not files.path.is_file():
            rank, world = self.accelerator.process_index, self.accelerator.num_processes
            known = files.drawn(rank)
            todo = [n for n in range(rank, count, world) if n not in known]
            for number in tqdm(todo, desc=f"round {phase}", disable=not self.accelerator.is_main_process, leave=False):
                files.add(rank, self.draw_video(phase, number))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                files.join(world, count)
            self.accelerator.wait_for_everyone()
        return files.read()

    def draw_video(self, phase: int, number: int) -> DrawnVideo:
        """The episodes of a video of a round; a function of weights, seed, round and number alone."""
        config = self.config
        count = config.round_videos + config.held_out_videos
        row = self.order(config.cold_steps * config.cold_batch + (phase - 1) * count + number)
        case = self.case(row)
        seeds = np.random.SeedSequence([config.seed, phase, number])
        self.random.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
        rng = np.random.default_rng([config.seed, phase, number, 1])
        self.policy.eval()
        policy = TokenPolicy(case, self.generator, self.log_probs, self.stop_ids)
        with self.accelerator.autocast():
            drawn = draw_episodes(
                policy,
                config.num_generations,
                config.num_branches,
                config.utility(),
                rng,
                num_at_once=config.num_at_once,
            )
            drawn = self._with_references(case, drawn)
        truth = case.sample.truth.status
        held_out = number >= config.round_videos
        return DrawnVideo(number, row, truth, case.sample.easy, held_out, tuple(drawn))

    def _with_references(self, case: EpisodeCase, drawn: Sequence[Drawn]) -> list[Drawn]:
        """Episodes of a video with the log-probability of each turn under the policy as it is."""
        rows, values = [replay_episode(case, one.turns, self.stop_ids).row() for one in drawn], list[torch.Tensor]()
        for start in range(0, len(rows), _ROWS):  # frames that they share are looked at once
            part = rows[start : start + _ROWS]
            values += self.log_probs(part).double().split([row.num_tokens for row in part])
        found = []
        for one, value in zip(drawn, values, strict=True):
            sums = turn_sums(value, [len(turn) for turn in one.turns])
            found.append(replace(one, reference=tuple(float(v) for v in sums)))
        return found

    @torch.no_grad()
    def log_probs(self, rows: Sequence[SequenceRow]) -> torch.Tensor:
        """Flat log-probabilities of the learned tokens of some rows, without gradient."""
        values: torch.Tensor = self.accelerator.unwrap_model(self.policy)(list(rows))[0]
        return values

    def pairs(self, videos: Sequence[DrawnVideo], phase: int, *, held_out: bool) -> list[EpisodePair]:
        """The pairs of a round's videos: those to learn from, or those that are held out."""
        config = self.config
        quotas: dict[Kind, float] = {kind: getattr(config, f"quota_{kind}") for kind in KINDS}
        return choose_pairs(
            judged_videos(videos, held_out=held_out),
            quotas=quotas,
            least_gap=config.least_gap,
            per_video=config.pairs_per_video,
            seed=1000 * config.seed + phase,
        )

    def implicit_accuracy(self, videos: Sequence[DrawnVideo], pairs: Sequence[EpisodePair]) -> float:
        """Share of pairs whose better episode has gained more than the worse since the round began."""
        self.policy.eval()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        right = 0.0
        with self.accelerator.autocast():
            for pair in pairs[rank::world]:
                rows = self.pair_rows(videos, pair)
                both = (rows.winner, rows.loser)
                values = self.log_probs(both).split([row.num_tokens for row in both])
                first, second = (
                    drawn_delta(v, drawn, self.config)
                    for v, drawn in zip(values, (rows.better, rows.worse), strict=True)
                )
                right += float(first > second)
        total = summed(self.accelerator, torch.tensor([right], dtype=torch.float64))
        return float(total[0]) / len(pairs)

    def pair_rows(self, videos: Sequence[DrawnVideo], pair: EpisodePair) -> PairRows:
        """A pair as rows; its frames are made again."""
        video = videos[pair.video]
        better, worse = video.episodes[pair.winner], video.episodes[pair.loser]
        case = self.case(video.row)
        winner, loser = (replay_episode(case, e.turns, self.stop_ids).row() for e in (better, worse))
        return PairRows(winner, loser, better, worse)
