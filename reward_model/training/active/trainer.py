"""The training of a judge that looks itself, on accelerate: a cold start, then rounds of iDPO.

A round draws episodes with the policy of its start, makes pairs of them, and learns the pairs; the log-probabilities
that the policy of the start gives are written down with the episodes, so no second model is kept. What is drawn of a
video depends on seed, round and video alone, so it is the same on any number of processes; each holds a whole model.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reward_model.active.policies import Narrate
from reward_model.config import JudgeConfig, judge_json
from reward_model.engine.checkpoints import (
    fingerprint,
    last_checkpoint,
    restore_checkpoint,
    resumable,
    save_policy_checkpoint,
)
from reward_model.engine.guards import diverged
from reward_model.engine.interrupts import StopRequest
from reward_model.engine.processes import default_accelerator, is_sharded, largest, summed
from reward_model.engine.run_log import METRICS, RunWriter
from reward_model.training.active.cold_start import scripted_rows
from reward_model.training.active.config import ActiveConfig
from reward_model.training.active.episode_rows import EpisodeCase
from reward_model.training.active.experience import DrawnVideo, forget_rounds, round_numbers
from reward_model.training.active.losses import PreferencePart, SupervisedPart, in_parts
from reward_model.training.active.pairs import EpisodePair
from reward_model.training.active.rounds import Rounds
from reward_model.training.active.videos import Load
from reward_model.training.grpo.batches import PromptOrder
from reward_model.training.grpo.prepare import decay_groups, prepare_model
from reward_model.training.grpo.rows import PromptBuilder, RowModel, SequenceRow, VisionInputs, stock_vision_inputs
from reward_model.training.grpo.sampler import Generator, ModelSampler, stop_tokens
from reward_model.training.judge_folder import export_policy, write_judge

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, ProcessorMixin

log = logging.getLogger(__name__)

#: File of the run folder with a line for each round.
ROUNDS = "rounds.jsonl"
#: Folder of the judge after the cold start.
COLD = "cold_start"
#: Videos whose frames are kept.
_KEPT = 64
_SHOWN = ("loss", "right", "gap")


class ActiveTrainer:
    """Trains a judge in place.

    Args:
        model, processor: a Qwen3-VL judge.
        dataset: light rows, indexable, with a length.
        load: a row -> :class:`~reward_model.training.active.videos.ActiveSample`.
        config: what to do.
        judge_config: how this checkpoint asks.
        narrate: writes the answers of scripted episodes.
        vision_inputs: a faster way from frames to patches than the processor's.
        accelerator: by default a new one.
        generator: who draws; by default the model itself.

    Raises:
        ValueError: if sizes cannot be split over the processes, or weights are sharded.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        dataset: Sequence[Mapping[str, Any]],
        load: Load,
        config: ActiveConfig,
        judge_config: JudgeConfig,
        *,
        narrate: Narrate,
        vision_inputs: VisionInputs | None = None,
        accelerator: Accelerator | None = None,
        generator: Callable[[ActiveTrainer], Generator] | None = None,
    ) -> None:
        self.config, self.dataset, self.load, self.processor = config, dataset, load, processor
        self.judge_config, self.narrate = config.asked(judge_config), narrate
        self.accelerator = accelerator or default_accelerator()
        self._check_sizes()
        vision = vision_inputs or stock_vision_inputs(processor)
        self.started_from = fingerprint(model)
        model = prepare_model(model, config)
        policy = RowModel(model, vision, config.temperature)
        optimizer = torch.optim.AdamW(
            decay_groups(policy, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.rate)
        self.policy, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.builder = PromptBuilder(processor, vision)
        self.judge_file = judge_json(self.judge_config)
        self.step = 0
        self.random = torch.Generator(self.accelerator.device)
        self.random.manual_seed(config.seed)
        self.stop_ids = stop_tokens(self.accelerator.unwrap_model(self.policy).model, processor.tokenizer)
        self.generator = generator(self) if generator else self._sampler()
        self.order = PromptOrder(len(dataset), config.seed)
        self.rounds = Rounds(
            config, self.accelerator, self.policy, self.generator, self.random, self.stop_ids, self.case, self.order
        )
        self.videos: list[DrawnVideo] = []
        self.pairs: list[EpisodePair] = []
        self._round = 0
        self._cases: OrderedDict[int, EpisodeCase] = OrderedDict()

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _check_sizes(self) -> None:
        world = self.accelerator.num_processes
        for name in ("cold_batch", "pairs_per_step"):
            if getattr(self.config, name) % world:
                raise ValueError(
                    f"{name}={getattr(self.config, name)} cannot be split over {world} processes; use a multiple"
                )
        if len(self.dataset) == 0:
            raise ValueError("the data set has no rows")
        if is_sharded(self.accelerator):
            raise ValueError(
                "this training draws with a whole model in each process: launch it with "
                "recipes/configs/accelerate/ddp.yaml (use_lora=true where a model and its optimiser do not fit)"
            )

    def _sampler(self) -> Generator:
        config, bare = self.config, self.accelerator.unwrap_model(self.policy).model
        if config.use_vllm:
            from reward_model.training.grpo.vllm_sampler import vllm_sampler

            return vllm_sampler(bare, self.accelerator, config, lambda: self.step, self.random, self.stop_ids)
        policy = self.accelerator.unwrap_model(self.policy)
        return ModelSampler(
            policy, self.random, self.stop_ids, temperature=config.temperature, batch_size=config.generation_batch_size
        )

    # --- the run ------------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = True) -> dict[str, float]:
        """Runs to the end, from the last checkpoint in ``output_dir`` if there is one and ``resume`` is set.

        Returns:
            The numbers of the last update.

        Raises:
            DivergenceError: loss or gradient stopped being finite.
            TrainingCheckpointError: a checkpoint could not be written, or belongs to another run.
            Interrupted: SIGINT or SIGTERM came; the update was finished and saved.
        """
        from tqdm import tqdm

        config, folder = self.config, Path(self.config.output_dir)
        self._open(folder, resume)
        stop, main, numbers = StopRequest(), self.accelerator.is_main_process, dict[str, float]()
        shown: dict[str, Any] = {"report_to": config.report_to, "settings": config.to_dict()}
        writer = RunWriter(folder, active=main, first_step=self.step, lines=(METRICS, ROUNDS), digits=6, **shown)
        bar = tqdm(total=config.max_steps, initial=self.step, desc="active evidence", disable=not main)
        try:
            with stop.listening():
                while self.step < config.max_steps:
                    self._enter(config.phase(self.step), writer)
                    numbers = self.run_step()
                    if self.step % config.logging_steps == 0:
                        writer.numbers(self.step, numbers)
                    bar.update()
                    bar.set_postfix({k: f"{numbers[k]:.3f}" for k in _SHOWN if k in numbers})
                    ended = self.step == config.max_steps or self.step == config.first_step(config.phase(self.step))
                    if ended:
                        self._leave(config.phase(self.step - 1), writer)
                    asked = largest(self.accelerator, stop.signal)
                    if asked or ended or self.step % config.save_steps == 0:
                        saved = self.save()
                    if asked and self.step < config.max_steps:
                        stop.signal = asked
                        raise stop.ended(self.step, config.max_steps, saved)
        finally:
            bar.close()
            writer.close()
        return numbers

    def _open(self, folder: Path, resume: bool) -> None:
        if last := resumable(folder, resume):
            self.resume(last)
        if self.accelerator.is_main_process:
            forget_rounds(folder, after=self.config.phase(self.step) if self.step else 0)
        self.accelerator.wait_for_everyone()

    def _enter(self, phase: int, writer: RunWriter) -> None:
        """Gets ready for an update of a phase; at its start the optimiser begins anew."""
        if self.step == self.config.first_step(phase):
            self.optimizer.state.clear()
        if phase and self._round != phase:
            started = time.perf_counter()
            self.videos = self.rounds.draw(phase)
            self.pairs = self.rounds.pairs(self.videos, phase, held_out=False)
            self._round = phase
            if self.step == self.config.first_step(phase):  # else it was logged before the run was stopped
                numbers = round_numbers(self.videos, self.pairs) | {"round/seconds": time.perf_counter() - started}
                self._log_round(writer, phase, numbers)
            if not self.pairs:
                log.warning("round %d has no pair: every episode of every video was worth the same", phase)

    def _leave(self, phase: int, writer: RunWriter) -> None:
        """Results at the end of a phase: the judge of the cold start, or how well held-out pairs come out."""
        if phase == 0:
            self._export_cold_start()
            return
        pairs = self.rounds.pairs(self.videos, phase, held_out=True)
        if pairs:
            right = self.rounds.implicit_accuracy(self.videos, pairs)
            numbers = {"held_out/implicit_accuracy": right, "held_out/pairs": float(len(pairs))}
            self._log_round(writer, phase, numbers, step=self.step)

    def _log_round(
        self, writer: RunWriter, phase: int, numbers: Mapping[str, float], *, step: int | None = None
    ) -> None:
        if not self.accelerator.is_main_process:
            return
        at = self.step + 1 if step is None else step  # a run that continues from here writes the line again
        writer.append(ROUNDS, {"step": at, "round": phase, **{k: round(v, 6) for k, v in numbers.items()}})
        if writer.trackers is not None:
            writer.trackers.numbers(at, numbers)

    def run_step(self) -> dict[str, float]:
        """One update. Returns its numbers over all processes."""
        started = time.perf_counter()
        phase = self.config.phase(self.step)
        parts = self.preference_parts(self.step) if phase else self.supervised_parts(self.step)
        sums = self.update(parts) if self._any(parts) else {}
        self.step += 1
        return {**sums, "phase": float(phase), "seconds": time.perf_counter() - started}

    def _any(self, parts: Sequence[Any]) -> bool:
        return bool(largest(self.accelerator, len(parts)))

    # --- what is learned ----------------------------------------------------------------------------------------------

    def case(self, row: int) -> EpisodeCase:
        """The video of a row of the data set; some are kept."""
        if row not in self._cases:
            self._cases[row] = EpisodeCase(self.load(self.dataset[row]), self.builder, self.judge_config)
            while len(self._cases) > _KEPT:
                self._cases.popitem(last=False)
        self._cases.move_to_end(row)
        return self._cases[row]

    def supervised_parts(self, step: int) -> list[SupervisedPart]:
        """This process's share of the scripted episodes of an update."""
        config, groups = self.config, list[list[tuple[SequenceRow, float]]]()
        for number in self._share(step * config.cold_batch, config.cold_batch):
            rng = np.random.default_rng([config.seed, 11, number])
            row, belief = scripted_rows(self.case(self.order(number)), config, self.narrate, rng)
            groups.append([(row, 1 / config.cold_batch)])
            if config.belief_weight:
                groups[-1].append((belief, config.belief_weight / config.cold_batch))
        return in_parts(groups, config.per_device_train_batch_size)

    def preference_parts(self, step: int) -> list[PreferencePart]:
        """This process's share of the pairs of an update; empty in a round without pairs."""
        config, phase = self.config, self.config.phase(step)
        if not self.pairs:
            return []
        order = PromptOrder(len(self.pairs), 1000 * config.seed + phase)
        first = (step - config.first_step(phase)) * config.pairs_per_step
        rows = [
            self.rounds.pair_rows(self.videos, self.pairs[order(n)]) for n in self._share(first, config.pairs_per_step)
        ]
        size, share = max(1, config.per_device_train_batch_size // 2), 1 / config.pairs_per_step
        return [PreferencePart(tuple(rows[k : k + size]), share, config) for k in range(0, len(rows), size)]

    def _share(self, first: int, count: int) -> range:
        """This process's part of ``count`` numbers from ``first`` on."""
        each = count // self.accelerator.num_processes
        start = first + self.accelerator.process_index * each
        return range(start, start + each)

    def update(self, parts: Sequence[SupervisedPart | PreferencePart]) -> dict[str, float]:
        """One optimiser update on all parts. Returns the numbers over all processes.

        Raises:
            DivergenceError: loss or gradient norm is NaN or infinite; weights are as they were.
        """
        self.policy.train()
        sums: dict[str, float] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.policy):
                loss, numbers = part.loss(self.policy)
                # Gradients are averaged over processes, while the weights of all of them together make the sum.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            for key, value in numbers.items():
                sums[key] = sums.get(key, 0.0) + value
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm or math.inf)
        keys = sorted(sums)
        totals = summed(self.accelerator, torch.tensor([sums[k] for k in keys], dtype=torch.float64))
        found = {k: float(v) for k, v in zip(keys, totals, strict=True)}
        if not (math.isfinite(found["loss"]) and math.isfinite(float(norm))):
            self.optimizer.zero_grad()
            good = last_checkpoint(Path(self.config.output_dir))
            raise diverged(self.step + 1, found["loss"], float(norm), good, "a lower learning rate, or a smaller beta")
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return {**found, "grad_norm": float(norm), "learning_rate": float(self.schedule.get_last_lr()[0])}

    # --- checkpoints and judges ---------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """Settings that must be equal for a checkpoint to be continued."""
        free: tuple[str, ...] = (
            "output_dir",
            "save_steps",
            "save_total_limit",
            "logging_steps",
            "report_to",
            "per_device_train_batch_size",
        )
        free += ("generation_batch_size", "gradient_checkpointing", "use_vllm")
        free += ("vllm_gpu_memory_utilization", "vllm_max_model_length")
        ends = [dict(self.dataset[k]) for k in (0, len(self.dataset) - 1)]
        return {
            **{k: v for k, v in self.config.to_dict().items() if k not in free},
            "dataset_rows": len(self.dataset),
            "dataset_ends": json.dumps(ends, sort_keys=True, default=str),
            "started_from": self.started_from,
        }

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        state = {"schedule": self.schedule.state_dict(), "config": self.config.to_dict(), **self._identity()}
        folder, keep = Path(self.config.output_dir), self.config.save_total_limit
        return save_policy_checkpoint(self.accelerator, folder, self.step, state, self.random, keep)

    def resume(self, folder: Path) -> None:
        """Continues from a checkpoint, bit for bit on a CPU.

        Raises:
            TrainingCheckpointError: it belongs to another run.
        """
        state = restore_checkpoint(self.accelerator, folder, self.random, self._identity())
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]

    def _export_cold_start(self) -> None:
        """The judge as the rounds begin with it, to compare with."""
        if self.accelerator.is_main_process:
            bare = self.accelerator.unwrap_model(self.policy).model
            if hasattr(bare, "peft_config"):
                bare = copy.deepcopy(bare).merge_and_unload()
            write_judge(bare, self.processor, Path(self.config.output_dir) / COLD, self.judge_file)
        self.accelerator.wait_for_everyone()

    def export(self, folder: str | Path, card: str | None = None) -> Path:
        """Writes the trained judge as a folder any backend loads; LoRA is merged, so this ends the training.

        Args:
            card: text of its README.md; None keeps the one that is there.
        """
        return export_policy(self.accelerator, self.policy, self.processor, folder, self.judge_file, card)
