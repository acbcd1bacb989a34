"""Stage 3: two-turn GRPO for the judge (section 3.3, appendix C), on accelerate.

One step: draw G two-turn rollouts of each prompt, score them by rules, compare each with its group, and update the
judge on all sampled tokens of both turns. The loss is a plain sum over rows with weights fixed beforehand, so it is the
same for any split into micro-batches or processes. TRL's GRPOTrainer is the oracle of the tests; it cannot be the
trainer, because its rows end with one completion and keep the data set's images, while turn two has frames of its own.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward_model.config import JudgeConfig, judge_json
from reward_model.engine.checkpoints import (
    STATE_FILE,
    fingerprint,
    last_checkpoint,
    restore_checkpoint,
    resumable,
    save_policy_checkpoint,
)
from reward_model.engine.guards import DivergenceError, diverged
from reward_model.engine.interrupts import StopRequest
from reward_model.engine.processes import default_accelerator, gathered, is_sharded, largest, settle_sharding, summed
from reward_model.evidence.referee import Referee
from reward_model.rewards import mean_saliency
from reward_model.strict_json import differences
from reward_model.training.grpo.batches import MicroBatch, PromptOrder, ScoredRollouts, idle_batch, micro_batches
from reward_model.training.grpo.config import GrpoConfig
from reward_model.training.grpo.log import StepLog, mean_numbers, step_rollout_numbers
from reward_model.training.grpo.maths import (
    group_advantages,
    grpo_loss,
    scored_rollouts,
    token_terms,
)
from reward_model.training.grpo.prepare import make_optimizer, prepare_model, prepare_reference
from reward_model.training.grpo.rollouts import GrpoSample, TwoTurnRollouts
from reward_model.training.grpo.rows import (
    PromptBuilder,
    RowModel,
    SequenceRow,
    VisionInputs,
    stock_vision_inputs,
)
from reward_model.training.grpo.sampler import Generator, ModelSampler, stop_tokens
from reward_model.training.grpo.scoring import RolloutScorer
from reward_model.training.grpo.videos import Load
from reward_model.training.judge_folder import export_policy

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, ProcessorMixin

__all__ = ["DivergenceError", "GrpoTrainer"]

log = logging.getLogger(__name__)


class GrpoTrainer:
    """Trains a judge in place.

    Args:
        model, processor: a Qwen3-VL judge in any state; its weights now are the reference of the KL term.
        dataset: light rows, indexable, with a length.
        load: a row -> :class:`~reward_model.training.grpo.rollouts.GrpoSample`.
        config: what to do.
        judge_config: how this checkpoint asks (its ``judge.json``).
        vision_inputs: a faster way from frames to patches than the processor's, where there is one.
        accelerator: by default a new one, which reads ``accelerate launch``'s environment.
        generator: who draws answers; by default the model itself.
        referee: who checks evidence, where the reward asks for that (``weight_ser``).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        dataset: Sequence[Mapping[str, Any]],
        load: Load,
        config: GrpoConfig,
        judge_config: JudgeConfig,
        *,
        vision_inputs: VisionInputs | None = None,
        accelerator: Accelerator | None = None,
        generator: Callable[[GrpoTrainer], Generator] | None = None,
        referee: Referee | None = None,
    ) -> None:
        self.config, self.dataset, self.load, self.processor = config, dataset, load, processor
        self.judge_config = config.asked(judge_config)
        self.accelerator = accelerator or default_accelerator()
        settle_sharding(self.accelerator, config.max_grad_norm)
        self._sharded = is_sharded(self.accelerator)
        self._check_sizes()
        self.scorer = RolloutScorer(config.reward_config(judge_config), referee, config.ser_config())
        vision_inputs = vision_inputs or stock_vision_inputs(processor)
        self.reference_print = fingerprint(model) if config.beta else ""
        self.policy, self.reference = self._prepare(model, vision_inputs)
        self.judge_file = judge_json(self.judge_config)  # text of the judge.json that export() writes
        self.step = 0
        self.random = torch.Generator(self.accelerator.device)
        self.random.manual_seed(1000 * config.seed + self.accelerator.process_index)
        sampler = generator(self) if generator else self._sampler()
        self.rollouts = TwoTurnRollouts(PromptBuilder(processor, vision_inputs), sampler, self.judge_config)
        self.clip_max = config.sampling_clip_max
        self.order = PromptOrder(len(dataset), config.seed)
        self._spare: SequenceRow | None = None

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _check_sizes(self) -> None:
        world = self.accelerator.num_processes
        if self.config.prompts_per_step % world:
            raise ValueError(
                f"prompts_per_step={self.config.prompts_per_step} cannot be split over {world} processes: groups stay "
                f"whole. Use a multiple of {world}"
            )
        if len(self.dataset) == 0:
            raise ValueError("the data set has no rows")

    def _prepare(self, model: PreTrainedModel, vision_inputs: VisionInputs) -> tuple[Any, Any]:
        """Policy and reference on their devices, with optimiser and schedule."""
        config = self.config
        model = prepare_model(model, config)
        policy = RowModel(model, vision_inputs, config.temperature, share_prompts=config.share_prompts)
        reference = None
        if config.beta and not config.use_lora:
            reference = RowModel(copy.deepcopy(model), vision_inputs).requires_grad_(False).eval()
            reference.options = policy.options
        optimizer, self.schedule = make_optimizer(policy, config)
        policy, self.optimizer = self.accelerator.prepare(policy, optimizer)
        if reference is not None:
            reference = prepare_reference(reference, self.accelerator)
        return policy, reference

    def _sampler(self) -> Generator:
        config, bare = self.config, self.accelerator.unwrap_model(self.policy).model
        ends = stop_tokens(bare, self.processor.tokenizer)
        if config.use_vllm:
            from reward_model.training.grpo.vllm_sampler import vllm_sampler

            return vllm_sampler(bare, self.accelerator, config, lambda: self.step, self.random, ends)
        policy = self.policy if self._sharded else self.accelerator.unwrap_model(self.policy)
        return ModelSampler(
            policy,
            self.random,
            ends,
            temperature=config.temperature,
            batch_size=config.generation_batch_size,
            most=partial(largest, self.accelerator) if self._sharded else int,
        )

    # --- the run ------------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = True) -> dict[str, float]:
        """Runs to ``max_steps``, from the last checkpoint in ``output_dir`` if there is one and ``resume`` is set.

        Returns:
            The numbers of the last step.

        Raises:
            DivergenceError: loss or gradient stopped being finite.
            TrainingCheckpointError: a checkpoint could not be written, or belongs to another run.
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
        """
        from tqdm import tqdm

        config, folder = self.config, Path(self.config.output_dir)
        if last := resumable(folder, resume):
            self.resume(last)
        stop = StopRequest()
        main = self.accelerator.is_main_process
        writer = StepLog(folder, active=main, first_step=self.step, config=config)
        numbers: dict[str, float] = {}
        bar = tqdm(total=config.max_steps, initial=self.step, desc="stage 3", disable=not main)
        try:
            with stop.listening():
                while self.step < config.max_steps:
                    experience, numbers = self.run_step()
                    self._report(writer, experience, numbers)
                    bar.update()
                    bar.set_postfix({k.rpartition("/")[2]: f"{numbers[k]:.3f}" for k in _SHOWN if k in numbers})
                    asked = largest(
                        self.accelerator, stop.signal
                    )  # a signal may reach one process a step before others
                    if asked or self.step % config.save_steps == 0 or self.step == config.max_steps:
                        saved = self.save()
                    if asked and self.step < config.max_steps:
                        stop.signal = asked
                        raise stop.ended(self.step, config.max_steps, saved)
        finally:
            bar.close()
            writer.close()
        return numbers

    def run_step(self) -> tuple[ScoredRollouts, dict[str, float]]:
        """One step: rollouts, rewards, ``num_iterations`` updates. Returns them with the numbers of all processes."""
        started = time.perf_counter()
        batches = self.micro_batches(experience := self.collect())
        seconds = {**self.rollouts.seconds, **experience.shared}
        remembering = time.perf_counter()
        self.remember(batches)
        updating = time.perf_counter()
        passes = [self.update(batches) for _ in range(self.config.num_iterations)]
        done = time.perf_counter()
        sums = {key: sum(p[key] for p in passes) / len(passes) for key in passes[0]}
        spent = (updating - remembering, done - updating, done - started)
        seconds |= dict(zip(("old_and_reference", "backward", "all"), spent, strict=True))
        self.step += 1
        return experience, self._numbers(experience, sums, seconds)

    # --- rollouts and rewards -----------------------------------------------------------------------------------------

    def samples_of_step(self, step: int) -> list[GrpoSample]:
        """This process's share of the prompts of a step; a function of seed and step alone."""
        share = self.config.prompts_per_step // self.accelerator.num_processes
        first = step * self.config.prompts_per_step + self.accelerator.process_index * share
        return [self.load(self.dataset[self.order(k)]) for k in range(first, first + share)]

    def collect(self) -> ScoredRollouts:
        """Rollouts of the current step, their rewards and advantages."""
        samples = self.samples_of_step(self.step)
        self.policy.eval()
        with self.accelerator.autocast():
            groups = self.rollouts.draw(samples, self.config.num_generations)
        started = time.perf_counter()
        marks = self.scorer(samples, groups)
        totals = [[math.nan if m.parts is None else m.parts.total for m in row] for row in marks]
        rewards = torch.tensor(totals, dtype=torch.float64)
        saliency = torch.tensor([mean_saliency(s.truth) for s in samples], dtype=torch.float64)
        everyone, saliency = gathered(self.accelerator, rewards), gathered(self.accelerator, saliency)
        advantages = group_advantages(
            everyone,
            scale_rewards=self.config.scale_rewards,
            saliency=saliency,
            saliency_repair=self.config.saliency_repair,
            eps=self.config.advantage_eps,
        )
        scored = scored_rollouts(everyone)
        mine = slice(self.accelerator.process_index * len(samples), (self.accelerator.process_index + 1) * len(samples))
        shared = {"reward": time.perf_counter() - started}
        return ScoredRollouts(
            samples, groups, marks, rewards, advantages[mine], scored[mine], int(scored.sum()), shared
        )

    # --- micro-batches ------------------------------------------------------------------------------------------------

    def micro_batches(self, experience: ScoredRollouts) -> list[MicroBatch]:
        """All rows of this process in batches of similar length; the same batches serve every inner update.

        Where several processes train, each has equally many: a process with fewer repeats one with weight zero.
        """
        device = self.accelerator.device
        batches = micro_batches(experience, self.config.per_device_train_batch_size, device)
        self._spare = batches[0].rows[0] if batches else self._spare
        wanted = max(1, largest(self.accelerator, len(batches)))
        while len(batches) < wanted:
            if self._spare is None:
                raise RuntimeError("no video of the first step could be read; check the paths of the data set")
            batches.append(idle_batch(self._spare, device))
        return batches

    # --- updates ------------------------------------------------------------------------------------------------------

    def remember(self, batches: Sequence[MicroBatch]) -> None:
        """Adds log-probabilities of the sampling policy (only needed for several updates) and of the reference."""
        self.policy.train()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in batches:
                if self.config.num_iterations > 1:
                    batch.old = self.policy(batch.rows)[0]
                if self.config.beta:
                    with self._as_reference() as reference:
                        batch.reference = reference(batch.rows)[0]

    @contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The frozen copy, or the policy with its adapter switched off."""
        if self.reference is not None:
            yield self.reference
            return
        with self.accelerator.unwrap_model(self.policy).model.disable_adapter():
            yield self.policy

    def update(self, batches: Sequence[MicroBatch]) -> dict[str, float]:
        """One optimiser update on all micro-batches. Returns sums over the tokens of this process.

        Raises:
            DivergenceError: loss or gradient norm is NaN or infinite; weights are as they were (DeepSpeed has stepped).
        """
        self.policy.train()
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.policy):
                for key, value in self._backward(batch).items():
                    sums[key] = sums.get(key, 0.0) + value
        norm = self._clip()
        total = summed(self.accelerator, torch.tensor([sums["loss"]], dtype=torch.float64))[0]
        if not (math.isfinite(float(total)) and math.isfinite(norm)):
            self.optimizer.zero_grad()
            last_good = last_checkpoint(Path(self.config.output_dir))
            remedy = "a lower learning_rate, or a larger beta"
            raise diverged(self.step + 1, float(total), norm, last_good, remedy)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return {**sums, "grad_norm": norm}

    def _backward(self, batch: MicroBatch) -> dict[str, float]:
        config = self.config
        values, entropy = self.policy(batch.rows)
        old = values.detach() if batch.old is None else batch.old
        terms = token_terms(
            values,
            old,
            batch.reference,
            batch.corrected_advantages(old, self.clip_max),
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            beta=config.beta,
            correct_kl=config.use_bias_correction_kl,
        )
        loss = grpo_loss(terms.objective, batch.weights)
        # Gradients are averaged over processes, while the weights of all of them together make the sum.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        counted = batch.weights > 0
        gap = 0.0 if batch.drawn is None else float(((old - batch.drawn).abs() * counted).sum())
        return {
            "loss": float(loss.detach()),
            "tokens": float(counted.sum()),
            "kl": float((terms.kl * counted).sum()),
            "entropy": float((entropy * counted).sum()),
            "clip_low": float((terms.clipped_low & counted).sum()),
            "clip_high": float((terms.clipped_high & counted).sum()),
            "sampling_gap": gap,
        }

    def _clip(self) -> float:
        limit = self.config.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), limit)
        return 0.0 if norm is None else float(norm)

    # --- numbers, checkpoints -----------------------------------------------------------------------------------------

    def _numbers(
        self, experience: ScoredRollouts, sums: Mapping[str, float], seconds: Mapping[str, float]
    ) -> dict[str, float]:
        """The monitors of a step over all processes."""
        from accelerate.utils import gather_object

        rows = step_rollout_numbers(experience, self.scorer.config)
        if self.accelerator.num_processes > 1:
            rows = gather_object(rows)
        keys = ("loss", "tokens", "kl", "entropy", "clip_low", "clip_high", "sampling_gap")
        values = summed(self.accelerator, torch.tensor([sums[k] for k in keys], dtype=torch.float64))
        totals = dict(zip(keys, values, strict=True))
        tokens = max(float(totals["tokens"]), 1.0)
        numbers = mean_numbers(rows)
        per_token = keys[2:] if self.config.use_vllm else keys[2:-1]
        numbers |= {f"policy/{k}": float(totals[k]) / tokens for k in per_token}
        numbers |= {
            "policy/loss": float(totals["loss"]),
            "policy/tokens": tokens,
            "policy/grad_norm": sums["grad_norm"],
            "policy/learning_rate": float(self.schedule.get_last_lr()[0]),
        }
        if torch.cuda.is_available():
            numbers["seconds/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return numbers | {f"seconds/{k}": v for k, v in seconds.items()}

    def _report(self, writer: StepLog, experience: ScoredRollouts, numbers: Mapping[str, float]) -> None:
        config = self.config
        if self.step % config.logging_steps == 0:
            writer.numbers(self.step, numbers)
        if config.log_samples_every and self.step % config.log_samples_every == 0:
            writer.samples(self.step, experience, config.num_logged_samples)

    def _identity(self) -> dict[str, Any]:
        """Settings that must be equal for a checkpoint to be continued."""
        rows = json.dumps([dict(self.dataset[k]) for k in (0, len(self.dataset) - 1)], sort_keys=True, default=str)
        names = ("seed", "prompts_per_step", "num_generations", "num_iterations", "use_lora", "beta")
        return {
            **{n: getattr(self.config, n) for n in names},
            "dataset_rows": len(self.dataset),
            "dataset_ends": rows,
            "reference": self.reference_print,
            **({"referee": told} if (told := self.scorer.describe()) else {}),
        }

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        state = {"schedule": self.schedule.state_dict(), "config": self.config.to_dict(), **self._identity()}
        folder, keep = Path(self.config.output_dir), self.config.save_total_limit
        return save_policy_checkpoint(self.accelerator, folder, self.step, state, self.random, keep)

    def export(self, folder: str | Path, card: str | None = None) -> Path:
        """Writes the trained judge as a folder any backend loads; LoRA is merged, so this ends the training.

        Args:
            card: text of its README.md; None keeps the one that is there.
        """
        return export_policy(self.accelerator, self.policy, self.processor, folder, self.judge_file, card)

    def resume(self, folder: Path) -> None:
        """Continues from a checkpoint, bit for bit on a CPU.

        Raises:
            TrainingCheckpointError: it belongs to another run.
        """
        expected = self._identity()
        ends = json.loads((folder / STATE_FILE).read_text(encoding="utf-8")).get("dataset_ends")
        if isinstance(ends, str) and _placeless(ends) == _placeless(expected["dataset_ends"]):
            expected["dataset_ends"] = ends  # the folder of the videos may have moved
        state = restore_checkpoint(self.accelerator, folder, self.random, expected)
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        now = json.loads(json.dumps(self.config.to_dict()))
        before = {**json.loads(json.dumps(GrpoConfig().to_dict())), **state["config"]}  # a setting it did not know yet
        if changed := differences({name: before[name] for name in now}, now):
            log.warning("the run goes on with other settings than those of %s: %s", folder.name, "; ".join(changed))


def _placeless(rows: str) -> list[dict[str, Any]]:
    """Rows of a dataset, from JSON, with the names of their videos in place of the paths."""
    return [{k: Path(str(v)).name if k == "video" else v for k, v in row.items()} for row in json.loads(rows)]


#: What the progress bar shows.
_SHOWN = ("reward/mean", "rollouts/status_right", "overlap/spatial", "policy/kl", "policy/entropy", "seconds/all")
