"""Flow-GRPO: a LoRA of a Wan text-to-video pipeline learns from rewards of its own videos, on accelerate.

One step: draw a group of videos of each prompt with the unmodified pipeline, have them judged while the next are drawn,
compare each with its group, recompute the recorded steps with gradient and update the adapter. The loss is a sum over
videos with weights fixed beforehand, so it is the same for any split into forwards or processes. Every random draw is a
function of seed, epoch, prompt and video: a resumed run has nothing to catch up with.

    config = FlowGRPOConfig.from_yaml("recipes/configs/flow_grpo/mini.yaml")
    trainer = FlowGRPOTrainer(config)
    trainer.train()
    trainer.export("outputs/lora")
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from cac_align.flow_grpo import checkpoint as files
from cac_align.flow_grpo.canaries import WATCHED, collapsed
from cac_align.flow_grpo.card import write_card
from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.credit import LatentGrid, verdict_weights
from cac_align.flow_grpo.embeddings import TextEmbeddings, encoder_id, unload_text_encoder
from cac_align.flow_grpo.evaluation import evaluate_prompts, evaluation_indices, summarise
from cac_align.flow_grpo.experience import (
    Chunk,
    Experience,
    advantages_of,
    chunks_of,
    experience_numbers,
    idle_chunk,
    rows_of,
)
from cac_align.flow_grpo.interrupts import StopRequest
from cac_align.flow_grpo.loading import default_accelerator, load_pipeline, prepare_pipeline, prompt_lists
from cac_align.flow_grpo.lora import adapter_off, export_lora, lora_parameters, weights_of
from cac_align.flow_grpo.nft import old_policy_decay
from cac_align.flow_grpo.nft_replay import nft_step_loss
from cac_align.flow_grpo.plan import describe, make_plan, peak_memory
from cac_align.flow_grpo.policy import GuidedVelocity, run_autocast
from cac_align.flow_grpo.replay import Replay, StepLoss, columns_of, policy_numbers
from cac_align.flow_grpo.reward_bus import RewardBus
from cac_align.flow_grpo.reward_specs import build_reward
from cac_align.flow_grpo.rollout import Rollout, RolloutSampler, guidance_texts, split_calls
from cac_align.flow_grpo.run_log import RunLog
from cac_align.flow_grpo.sampling import GroupSampler
from cac_align.flow_grpo.schedule import read_schedule, step_weights
from cac_align.flow_grpo.scheduler import FlowSDEScheduler
from cac_align.flow_grpo.self_check import check_reward, judge_noise
from cac_align.flow_grpo.showing import show_evaluation, show_groups
from cac_align.rewards.base import RewardError, check_callable

log = logging.getLogger(__name__)


class DivergenceError(RuntimeError):
    """Loss or gradient is no longer finite. Names the step and the last good checkpoint."""


class FlowGRPOTrainer:
    """Trains a LoRA on a pipeline.

    Args:
        config: what to do.
        pipe: a Wan text-to-video pipeline with its text encoder; by default that of ``config.model``. It gets an
            adapter, and loses its text encoder once all prompts are encoded.
        reward: any :class:`~cac_align.rewards.base.Reward`; by default that of ``config.rewards``.
        prompts, eval_prompts: texts instead of the files of the settings.
        accelerator: by default a new one, which reads ``accelerate launch``'s environment.

    Raises:
        ValueError: pipeline, prompts, rewards and settings do not fit; nothing was drawn yet.

    Example:
        >>> trainer = FlowGRPOTrainer(FlowGRPOConfig.from_yaml("mini.yaml"))                     # doctest: +SKIP
        >>> trainer.train()                                                                      # doctest: +SKIP
        >>> trainer.export("outputs/lora")                                                       # doctest: +SKIP
    """

    def __init__(
        self,
        config: FlowGRPOConfig,
        *,
        pipe: Any = None,
        reward: Any = None,
        prompts: Sequence[str] | None = None,
        eval_prompts: Sequence[str] | None = None,
        accelerator: Any = None,
    ) -> None:
        self.config = config
        self.prompts, self.eval_prompts = prompt_lists(config, prompts, eval_prompts)
        self.sampler = GroupSampler(len(self.prompts), config.groups_per_step, config.num_generations, config.seed)
        self.accelerator = accelerator or default_accelerator(config.mixed_precision)
        self.sampler.check_world_size(self.accelerator.num_processes)
        self.reward = reward or build_reward(config.rewards, on_failure=config.reward_on_failure)
        check_callable(self.reward)
        self.pipe = pipe or load_pipeline(config, text_encoder=self.accelerator.is_main_process)
        self.modules = prepare_pipeline(self.pipe, config)
        self.texts = self._encode()
        self.scheduler = self._scheduler()
        self.grid = LatentGrid(config.num_frames, config.height, config.width)
        self._prepare()
        self.rollouts = RolloutSampler(self.pipe, self.scheduler, self.texts, config)
        self.replay = Replay(self.policy, self.bare, self.scheduler, config)
        self.bus = RewardBus(
            self.reward,
            mode=config.reward_mode,
            workers=config.reward_workers,
            deadline_s=config.reward_deadline_s,
            retries=config.reward_retries,
            size=config.reward_queue,
        )
        self.step = self.updates = 0
        self.history: list[dict[str, float]] = []
        self.stopped_by: str | None = None
        self.stop = StopRequest()

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _encode(self) -> TextEmbeddings:
        """Embeddings of all texts on disk, by the main process; then the encoder is unloaded."""
        from accelerate.utils import broadcast_object_list

        config, main = self.config, self.accelerator.is_main_process
        names = [encoder_id(self.pipe) if main else ""]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(names)
        folder = config.text_cache or str(Path(config.output_dir) / "text")
        texts = TextEmbeddings(folder, names[0], config.max_sequence_length)
        if main:
            wanted = [*self.prompts, *self.eval_prompts, config.negative_prompt]
            if texts.missing(wanted):
                device = self.accelerator.device
                self.pipe.text_encoder.to(device)
                texts.fill(self.pipe, wanted, device)
        unload_text_encoder(self.pipe)
        self.accelerator.wait_for_everyone()
        return texts

    def _scheduler(self) -> FlowSDEScheduler:
        """The stochastic scheduler of all rollouts, with its schedule set, and the weight of each step."""
        config = self.config
        scheduler = FlowSDEScheduler.from_scheduler(
            self.pipe.scheduler,
            integer_timesteps=config.integer_timesteps,
            ode_solver=config.ode_solver,
            **config.noise,
        )
        scheduler.set_timesteps(config.num_inference_steps, device=self.accelerator.device)
        schedule = read_schedule(scheduler)
        self.fingerprint = schedule.fingerprint
        self.step_weights = [1.0] * schedule.num_steps
        if config.objective != "nft":
            candidates = config.window.check(scheduler.num_stochastic_steps)
            weights = step_weights(config.step_weighting, schedule, **config.noise, candidates=candidates)  # type: ignore[arg-type]
            self.step_weights = weights.tolist()
        return scheduler

    def _prepare(self) -> None:
        """Places everything, and makes optimiser, schedule and averages."""
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel

        config, pipe = self.config, self.pipe
        pipe.vae.to(self.accelerator.device)
        run_autocast(pipe.transformer, self.accelerator)
        policy = GuidedVelocity(pipe.transformer, config.guidance_scale, config.batched_guidance)
        optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.schedule = get_scheduler(
            config.lr_scheduler_type,
            optimizer,
            num_warmup_steps=config.warmup_steps,
            num_training_steps=config.max_steps * config.num_iterations * config.num_minibatches,
        )
        self.policy, self.optimizer = self.accelerator.prepare(policy, optimizer)
        self.bare = self.accelerator.unwrap_model(self.policy)
        self.parameters = lora_parameters(self.bare.transformer)
        self.ema = EMAModel(self.parameters.values(), decay=config.ema_decay) if config.ema_decay else None
        self.old = [p.detach().clone() for p in self.parameters.values()] if config.objective == "nft" else None

    # --- the run ------------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = True) -> dict[str, float]:
        """Runs to ``max_steps``, from the last checkpoint in ``output_dir`` if there is one and ``resume`` is set.

        The first Ctrl-C (or SIGTERM) ends the run after the present step, with a checkpoint; the second at once.

        Returns:
            The numbers of the last step. ``stopped_by`` says why a run ended early.

        Raises:
            DivergenceError: loss or gradient stopped being finite.
            CheckpointError: a checkpoint could not be written, or belongs to another run.
            RewardError: a whole step could not be judged.
            ValueError: the self-check before the first step failed.
        """
        from tqdm.auto import tqdm

        config, folder = self.config, Path(self.config.output_dir)
        if last := files.last_checkpoint(folder):
            if not resume:
                raise files.CheckpointError(
                    f"{str(folder)!r} holds {last.name}; resume it, or choose another output_dir"
                )
            self.resume(last)
        main = self.accelerator.is_main_process
        writer = RunLog(
            folder,
            active=main,
            first_step=self.step,
            wandb_project=config.wandb_project,
            settings=config.to_dict(),
        )
        numbers: dict[str, float] = {}
        bar = tqdm(total=config.max_steps, initial=self.step, desc="flow-grpo", disable=not main)
        try:
            with self.stop.listening():
                if self.step < config.max_steps:
                    self.self_check()
                if not self.history:
                    self._evaluate(writer, base=True)
                while self.step < config.max_steps and self.stopped_by is None:
                    experience, numbers = self.run_step()
                    self._report(writer, experience, numbers)
                    bar.update()
                    bar.set_postfix({k.rpartition("/")[2]: f"{numbers[k]:.4g}" for k in _SHOWN if k in numbers})
                    if self.step % config.eval_every == 0 or self.step == config.max_steps:
                        self._evaluate(writer)
                    self._ask_to_stop()
                    if self.step % config.save_every == 0 or self.step == config.max_steps or self.stopped_by:
                        self.save()
        finally:
            bar.close()
            writer.close()
            self.bus.close()
        if self.stopped_by and main:
            log.warning("stopped at step %d: %s", self.step, self.stopped_by)
        return numbers

    def run_step(self) -> tuple[Experience, dict[str, float]]:
        """One step: videos, rewards, updates. Returns them with the numbers of all processes."""
        started = time.perf_counter()
        experience = self.collect()
        drawn = time.perf_counter()
        found = self.learn(experience)
        done = time.perf_counter()
        self.step += 1
        if self.old is not None:
            self._follow()
        numbers = {**experience_numbers(experience.rows, experience.advantages), **found}
        numbers |= {
            "seconds/sample_and_judge": drawn - started,
            "seconds/wait_for_judge": self.bus.waiting_s,
            "seconds/judge": self.bus.judging_s,
            "seconds/update": done - drawn,
            "seconds/all": done - started,
        }
        if torch.cuda.is_available():
            numbers["memory/peak_gib"] = peak_memory()
        return experience, numbers

    def _ask_to_stop(self) -> None:
        """All processes stop if one was asked to."""
        if any(self._gather([self.stop.requested])):
            self.stopped_by = "it was interrupted; the same command goes on from here"

    # --- videos and rewards -------------------------------------------------------------------------------------------

    def collect(self) -> Experience:
        """The videos of the current step on this process, judged, with advantages over all processes.

        Raises:
            RewardError: none of the step's videos could be judged.
        """
        config, world = self.config, self.accelerator.num_processes
        epoch, place = self.sampler.locate(self.step)
        specs = self.sampler.rank_samples(epoch, place, self.accelerator.process_index, world)
        rollouts: list[Rollout] = []
        with self._sampling_policy():
            calls = split_calls(specs, config.sample_batch_size)
            for rollout in self.rollouts.draw(calls, self.prompts, epoch, self.step):
                texts = [rollout.prompt] * len(rollout.specs)
                self.bus.submit(len(rollouts), rollout.frames, texts, fps=config.fps)
                rollouts.append(rollout)
        answers = list(self.bus.collect().values())
        rows = self._gather(rows_of(rollouts, answers))
        lost = [row for row in rows if row.score is None]
        if lost:
            said = f"step {self.step + 1}: {len(lost)} of {len(rows)} videos could not be judged"
            said += f", such as: {lost[0].reason}"
            if len(lost) == len(rows) or config.reward_on_failure == "raise":
                raise RewardError(said)
            log.warning(said)
        advantages = advantages_of(rows, config)
        return Experience(rollouts, answers, rows, advantages, self.accelerator.process_index * len(specs))

    def _sampling_policy(self) -> Any:
        """The weights videos are drawn with: the trained ones, or for nft their slow copy."""
        return nullcontext() if self.old is None else weights_of(list(self.parameters.values()), self.old)

    def _gather(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, joined in their order."""
        if self.accelerator.num_processes == 1:
            return values
        from accelerate.utils import gather_object

        return gather_object(values)

    # --- updates ------------------------------------------------------------------------------------------------------

    def learn(self, experience: Experience) -> dict[str, float]:
        """All updates on the videos of a step; none if no group has variance."""
        config = self.config
        chunks = chunks_of(experience, config.rows_per_forward)
        parts = config.num_minibatches
        wanted = max(self._gather([len(chunks)]))
        if wanted == 0:
            return {"policy/updates": 0.0}
        wanted = math.ceil(wanted / parts) * parts
        chunks += [idle_chunk(experience, config.rows_per_forward)] * (wanted - len(chunks))
        size, found = wanted // parts, []
        for _ in range(config.num_iterations):
            found += [self.update(experience, chunks[k : k + size]) for k in range(0, wanted, size)]
        return self._policy_numbers(found)

    def update(self, experience: Experience, chunks: Sequence[Chunk]) -> list[StepLoss]:
        """One optimiser update.

        Raises:
            DivergenceError: loss or gradient norm is NaN or infinite; weights are as they were.
        """
        count = sum(self._gather([float(sum(c.counted.sum() for c in chunks))]))
        passes = self.config.num_trained_steps
        scale = self.accelerator.num_processes / (max(count, 1.0) * passes)
        found: list[StepLoss] = []
        total = 0.0
        work = [(chunk, k) for chunk in chunks for k in range(passes)]
        for number, (chunk, k) in enumerate(work):
            last = number == len(work) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(self.policy):
                result = self._step_loss(experience, chunk, k)
                counted = chunk.counted.to(result.loss.device)
                loss = (result.loss * counted).sum() * scale
                self.accelerator.backward(loss)
            total += float(loss.detach())
            kept = counted > 0
            tensors = (result.loss, result.log_ratio, result.kl, result.stopped)
            found.append(StepLoss(*(t.detach()[kept].cpu() for t in tensors)))
        self._apply(total)
        return found

    def _step_loss(self, experience: Experience, chunk: Chunk, k: int) -> StepLoss:
        """Pass k of a chunk: the k-th step of its window, or the k-th noise level of nft."""
        config, device = self.config, self.accelerator.device
        rollout = experience.rollouts[chunk.rollout]
        texts = [rollout.prompt] * len(chunk.rows)
        positive, negative = guidance_texts(self.texts, texts, config, device)
        cells = self._cells(experience, chunk)
        if self.old is not None:
            assert rollout.clean is not None
            return nft_step_loss(
                self.replay,
                rollout.clean[list(chunk.rows)].to(device),
                [rollout.specs[row].seed for row in chunk.rows],
                k,
                chunk.advantages,
                positive,
                parameters=list(self.parameters.values()),
                old=self.old,
                cells=cells,
            )
        record = rollout.records[k]
        if len(chunk.rows) < len(rollout.specs):
            record = record.select(chunk.rows)
        weight = self.step_weights[record.step]
        return self.replay.step_loss(
            record.to(device), chunk.advantages, positive, negative, weight=weight, cells=cells
        )

    def _cells(self, experience: Experience, chunk: Chunk) -> torch.Tensor | None:
        """Weights of latent cells from the judge's findings."""
        if not self.config.localised_credit:
            return None
        verdicts = experience.answers[chunk.rollout].verdicts
        cells = verdict_weights([verdicts[r] for r in chunk.rows], self.grid, floor=self.config.credit_floor)
        return cells.to(self.accelerator.device)

    def _apply(self, loss: float) -> None:
        """Clips, checks and steps."""
        limit = self.config.max_grad_norm or math.inf
        norm = self.accelerator.clip_grad_norm_(self.policy.parameters(), limit)
        self.grad_norm = 0.0 if norm is None else float(norm)
        total = sum(self._gather([loss])) / self.accelerator.num_processes
        scaled = self.accelerator.scaler is not None  # fp16: the scaler passes over a step that overflowed
        if not math.isfinite(total) or not (scaled or math.isfinite(self.grad_norm)):
            self.optimizer.zero_grad()
            last = files.last_checkpoint(Path(self.config.output_dir))
            raise DivergenceError(
                f"step {self.step + 1}: loss {total:.4g}, gradient norm {self.grad_norm:.4g}. Weights were kept. "
                f"Last good checkpoint: {last or 'none'}. Try a lower learning_rate, a larger beta or bf16"
            )
        self.loss = total
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.updates += 1
        if self.ema is not None and self.updates % self.config.ema_every == 0:
            self.ema.step(self.parameters.values())

    @torch.no_grad()
    def _follow(self) -> None:
        """The sampling policy of nft moves towards the trained one."""
        assert self.old is not None
        keep = old_policy_decay(self.step, self.config.nft_decay)
        for old, new in zip(self.old, self.parameters.values(), strict=True):
            old.mul_(keep).add_(new.detach(), alpha=1 - keep)

    def _policy_numbers(self, updates: Sequence[Sequence[StepLoss]]) -> dict[str, float]:
        """The monitors of the updates of a step, over all processes."""
        columns = [self._gather(column) for column in columns_of([p for update in updates for p in update])]
        return {
            "policy/loss": self.loss,
            "policy/grad_norm": self.grad_norm,
            "policy/updates": float(len(updates)),
            "policy/learning_rate": float(self.schedule.get_last_lr()[0]),
            **policy_numbers(columns, self.config),
        }

    # --- checks and evaluation ----------------------------------------------------------------------------------------

    def self_check(self) -> dict[str, float]:
        """Before the first step: prints the plan, asks the reward about one video, and measures the replay noise.

        Raises:
            ValueError: the reward does not work, or ``noise_floor`` is ``refuse`` and the noise rivals the clip.
        """
        config, world = self.config, self.accelerator.num_processes
        plan = make_plan(config, self.bare.transformer, world_size=world)
        text = describe(config, plan, world_size=world, num_prompts=len(self.prompts), first_step=self.step)
        self.accelerator.print(text, flush=True)
        check_reward(self.bus, config, self.prompts[0])
        if config.noise_floor == "off" or config.objective == "nft":
            return {}
        epoch, place = self.sampler.locate(self.step)
        specs = self.sampler.rank_samples(epoch, place, self.accelerator.process_index, world)
        call = split_calls(specs, config.sample_batch_size)[0]
        prompt, window = self.prompts[call[0].prompt_index], self.rollouts.window(call[0], epoch, self.step)
        rollout = self.rollouts.draw_one(call, prompt, window, decode=False)
        texts = guidance_texts(self.texts, [prompt] * len(call), config, self.accelerator.device)
        found = self.replay.noise_floor(rollout.records, *texts)
        found = {key: max(self._gather([value])) for key, value in found.items()}
        self.accelerator.print(judge_noise(found, config.noise_floor), flush=True)
        return found

    def _evaluate(self, writer: RunLog, *, base: bool = False) -> None:
        """Draws and judges the evaluation prompts with the base model or the averaged LoRA, and looks at canaries."""
        prompts = self.eval_prompts[: self.config.eval_num_prompts]
        if not prompts:
            return
        indices = evaluation_indices(len(prompts), self.accelerator.process_index, self.accelerator.num_processes)
        with adapter_off(self.bare.transformer) if base else self._averaged():
            found = evaluate_prompts(self.pipe, self.texts, prompts, indices, self.bus, self.config)
        rows = dict(self._gather([(video.index, video.numbers()) for video in found]))
        summary = summarise(rows)
        self.history.append({"step": 0.0 if base else float(self.step), **summary})
        writer.numbers(self.step, {f"eval/{k}": v for k, v in summary.items()})
        show_evaluation(writer, self.step, found, prompts, "base" if base else "trained", self.config)
        watched = ("reward", "judge_failure_rate", *WATCHED)
        past = [{k: v for k, v in entry.items() if k in watched} for entry in self.history if "reward" in entry]
        fallen = collapsed(
            past,
            min_ratio=self.config.canary_min_ratio,
            max_failure_rate=self.config.canary_max_failure_rate,
            patience=self.config.canary_patience,
        )
        if fallen:
            said = f"the reward rose while {', '.join(fallen)} collapsed: this looks like reward hacking"
            log.warning("step %d: %s", self.step, said)
            if self.config.early_stop:
                self.stopped_by = said

    def _averaged(self) -> Any:
        """The averaged adapter in place of the trained one."""
        if self.ema is None:
            return nullcontext()
        return weights_of(list(self.parameters.values()), self.ema.shadow_params)

    def _report(self, writer: RunLog, experience: Experience, numbers: Mapping[str, float]) -> None:
        """Numbers, and now and then the best and the worst video of some groups."""
        writer.numbers(self.step, numbers)
        every = self.config.log_videos_every
        if every and self.step % every == 0:
            show_groups(writer, self.step, experience, self.config)

    # --- state --------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        parts = {
            "lora": {name: files.whole(p) for name, p in self.parameters.items()},
            "optimizer": files.optimizer_tensors(inner, self.parameters),
        }
        averages = {"ema": self.ema.shadow_params if self.ema is not None else None, "old": self.old}
        for name, values in averages.items():
            if values is not None:
                parts[name] = {k: files.whole(v) for k, v in zip(self.parameters, values, strict=True)}
        scaler = self.accelerator.scaler
        state = {
            **self._identity(),
            "updates": self.updates,
            "ema_updates": self.ema.optimization_step if self.ema is not None else 0,
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": self.history,
            "config": self.config.to_dict(),
            "num_processes": self.accelerator.num_processes,
        }
        folder, keep = Path(self.config.output_dir), self.config.keep_checkpoints
        return files.save_checkpoint(self.accelerator, folder, self.step, parts, state, keep)

    @torch.no_grad()
    def resume(self, folder: Path) -> None:
        """Continues from a checkpoint, bit for bit on a CPU.

        Raises:
            CheckpointError: it belongs to another run, or is damaged.
        """
        parts, state = files.read_checkpoint(folder, self._identity(), self.accelerator.process_index)
        for name, parameter in self.parameters.items():
            parameter.copy_(files.like(parts["lora"][name], parameter))
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        files.restore_optimizer(inner, self.parameters, parts["optimizer"])
        for name, kept in (("ema", self.ema.shadow_params if self.ema is not None else None), ("old", self.old)):
            for target, key in zip(kept or [], self.parameters, strict=False):
                target.copy_(files.like(parts[name][key], target))
        if self.ema is not None:
            self.ema.optimization_step = state["ema_updates"]
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])
        for group, rate in zip(inner.param_groups, self.schedule.get_last_lr(), strict=True):
            group["lr"] = rate  # the schedule sets it after an update only
        self.step, self.updates, self.history = state["step"], state["updates"], state["history"]

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued."""
        import hashlib

        listed = "\x1f".join(self.prompts)
        return {
            "sigma_fingerprint": self.fingerprint,
            "prompt_list": hashlib.sha256(listed.encode()).hexdigest()[:16],
            "text_encoder": self.texts.encoder,
            **self.config.identity(),
        }

    def export(self, folder: str | Path, *, averaged: bool = True) -> Path:
        """Writes the LoRA for ``pipe.load_lora_weights(folder)``, with a model card.

        Args:
            folder: created when missing.
            averaged: the averaged weights, where the run keeps them.
        """
        folder = Path(folder)
        values = self.ema.shadow_params if averaged and self.ema is not None else self.parameters.values()
        state = {name: files.whole(value) for name, value in zip(self.parameters, values, strict=True)}
        if self.accelerator.is_main_process:
            export_lora(self.pipe, folder, state)
            shown = min(self.config.eval_num_prompts, len(self.eval_prompts))
            write_card(folder, self.config, steps=self.step, history=self.history, num_prompts=shown)
        self.accelerator.wait_for_everyone()
        return folder


#: What the progress bar shows.
_SHOWN = ("reward/mean", "policy/loss", "policy/kl", "groups/zero_variance", "seconds/all")
