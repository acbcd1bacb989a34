"""Flow-GRPO: a LoRA of a Wan pipeline learns from rewards of its own videos, on accelerate.

One step: draw a group of videos of each prompt with the unmodified pipeline, have them judged while the next are drawn,
compare each with its group, recompute the recorded steps with gradient and update the adapter (:mod:`learner`). Every
random draw is a function of seed, epoch, prompt and video: a resumed run has nothing to catch up with.

    config = FlowGRPOConfig.from_yaml("recipes/configs/flow_grpo/mini.yaml")
    trainer = FlowGRPOTrainer(config)
    trainer.train()
    trainer.export("outputs/lora")
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cac_align.flow_grpo import checkpoint as files
from cac_align.flow_grpo.card import write_card
from cac_align.flow_grpo.conditioning import check_images, images_fingerprint
from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.evaluation import collapsed_canaries, evaluate_prompts, evaluation_indices, summarise
from cac_align.flow_grpo.experience import Experience, advantages_of, experience_numbers, rows_of
from cac_align.flow_grpo.interrupts import StopRequest
from cac_align.flow_grpo.learner import DivergenceError, Learner
from cac_align.flow_grpo.loading import (
    default_accelerator,
    encode_texts,
    load_pipeline,
    prepare_pipeline,
    prompt_images,
    prompt_lists,
    stochastic_scheduler,
)
from cac_align.flow_grpo.lora import adapter_off, export_lora
from cac_align.flow_grpo.plan import describe, make_plan, peak_memory
from cac_align.flow_grpo.policy import run_autocast
from cac_align.flow_grpo.processes import gather
from cac_align.flow_grpo.reward_bus import RewardBus
from cac_align.flow_grpo.reward_specs import build_reward
from cac_align.flow_grpo.rollout import Rollout, RolloutSampler, guidance_texts, split_calls
from cac_align.flow_grpo.run_log import RunLog
from cac_align.flow_grpo.sampling import GroupSampler
from cac_align.flow_grpo.schedule import read_schedule
from cac_align.flow_grpo.self_check import check_reward, judge_noise
from cac_align.flow_grpo.showing import show_evaluation, show_groups
from cac_align.rewards.base import RewardError, check_callable
from reward_model.extras import need

__all__ = ["DivergenceError", "FlowGRPOTrainer"]

log = logging.getLogger(__name__)


class FlowGRPOTrainer:
    """Trains a LoRA on a pipeline.

    Args:
        config: what to do.
        pipe: a Wan text-to-video or image-to-video pipeline with its text encoder; by default that of
            ``config.model``. It gets an adapter, and loses its text encoder once all prompts are encoded.
        reward: any :class:`~cac_align.rewards.base.Reward`; by default that of ``config.rewards``.
        prompts, eval_prompts: texts instead of the files of the settings.
        images: for image-to-video, the first frame (a PIL image) of every text; by default the files that the
            settings' .jsonl prompt files name under ``image``.
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
        images: Mapping[str, Any] | None = None,
        accelerator: Any = None,
    ) -> None:
        need("tensorboard", "the log of a run")  # told before anything loads
        self.config = config
        self.prompts, self.eval_prompts = prompt_lists(config, prompts, eval_prompts)
        self.sampler = GroupSampler(len(self.prompts), config.groups_per_step, config.num_generations, config.seed)
        self.accelerator = accelerator or default_accelerator(config.mixed_precision)
        self.sampler.check_world_size(self.accelerator.num_processes)
        self.reward = reward or build_reward(config.rewards, on_failure=config.reward_on_failure)
        check_callable(self.reward)
        self.pipe = pipe or load_pipeline(config, text_encoder=self.accelerator.is_main_process)
        every = [*self.prompts, *self.eval_prompts]
        self.images = check_images(self.pipe, every, prompt_images(config) if images is None else images)
        self.modules = prepare_pipeline(self.pipe, config)
        self.texts = encode_texts(self.pipe, [*every, config.negative_prompt], config, self.accelerator)
        self.scheduler, weights = stochastic_scheduler(self.pipe.scheduler, config, self.accelerator.device)
        for part in (self.pipe.vae, getattr(self.pipe, "image_encoder", None)):
            if part is not None:
                part.to(self.accelerator.device)
        run_autocast(self.pipe.transformer, self.accelerator.device, config.mixed_precision)
        self.learner = Learner(self.pipe.transformer, self.scheduler, weights, self.texts, config, self.accelerator)
        self.transformer = self.learner.bare.transformer
        self.rollouts = RolloutSampler(self.pipe, self.scheduler, self.texts, config, self.images)
        self.bus = RewardBus(
            self.reward,
            mode=config.reward_mode,
            workers=config.reward_workers,
            deadline_s=config.reward_deadline_s,
            retries=config.reward_retries,
            size=config.reward_queue,
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.stopped_by: str | None = None
        self.stop = StopRequest()

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
        if last := files.newest_checkpoint(folder):
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
        found = self.learner.learn(experience)
        done = time.perf_counter()
        self.step += 1
        self.learner.follow()
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
        if any(gather(self.accelerator, [self.stop.requested])):
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
        with self.learner.sampling_weights():
            calls = split_calls(specs, config.sample_batch_size)
            for rollout in self.rollouts.draw(calls, self.prompts, epoch, self.step):
                texts = [rollout.prompt] * len(rollout.specs)
                self.bus.submit(len(rollouts), rollout.frames, texts, fps=config.fps)
                rollouts.append(rollout)
        answers = list(self.bus.collect().values())
        rows = gather(self.accelerator, rows_of(rollouts, answers))
        lost = [row for row in rows if row.score is None]
        if lost:
            said = f"step {self.step + 1}: {len(lost)} of {len(rows)} videos could not be judged"
            said += f", such as: {lost[0].reason}"
            if len(lost) == len(rows) or config.reward_on_failure == "raise":
                raise RewardError(said)
            log.warning(said)
        advantages = advantages_of(rows, config)
        first = self.accelerator.process_index * len(specs)
        return Experience(rollouts, answers, rows, advantages, first, self.step)

    # --- checks and evaluation ----------------------------------------------------------------------------------------

    def self_check(self) -> dict[str, float]:
        """Before the first step: prints the plan, asks the reward about one video, and measures the replay noise.

        Raises:
            ValueError: the reward does not work, or ``noise_floor`` is ``refuse`` and the noise rivals the clip.
        """
        config, world = self.config, self.accelerator.num_processes
        plan = make_plan(config, self.transformer, world_size=world)
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
        image = None if rollout.image is None else rollout.image.to(self.accelerator.device)
        found = self.learner.replay.noise_floor(rollout.records, *texts, image)
        found = {key: max(gather(self.accelerator, [value])) for key, value in found.items()}
        self.accelerator.print(judge_noise(found, config.noise_floor), flush=True)
        return found

    def _evaluate(self, writer: RunLog, *, base: bool = False) -> None:
        """Draws and judges the evaluation prompts with the base model or the averaged LoRA, and looks at canaries."""
        prompts = self.eval_prompts[: self.config.eval_num_prompts]
        if not prompts:
            return
        indices = evaluation_indices(len(prompts), self.accelerator.process_index, self.accelerator.num_processes)
        with adapter_off(self.transformer) if base else self.learner.averaged_weights():
            found = evaluate_prompts(self.pipe, self.texts, prompts, indices, self.bus, self.config, self.images)
        rows = dict(gather(self.accelerator, [(video.index, video.numbers()) for video in found]))
        summary = summarise(rows)
        self.history.append({"step": 0.0 if base else float(self.step), **summary})
        writer.numbers(self.step, {f"eval/{k}": v for k, v in summary.items()})
        show_evaluation(writer, self.step, found, prompts, "base" if base else "trained", self.config)
        if fallen := collapsed_canaries(self.history, self.config):
            said = f"the reward rose while {', '.join(fallen)} collapsed: this looks like reward hacking"
            log.warning("step %d: %s", self.step, said)
            if self.config.early_stop:
                self.stopped_by = said

    def _report(self, writer: RunLog, experience: Experience, numbers: Mapping[str, float]) -> None:
        """Numbers, and now and then the best and the worst video of some groups."""
        writer.numbers(self.step, numbers)
        every = self.config.log_videos_every
        if every and self.step % every == 0:
            show_groups(writer, self.step, experience, self.config)

    # --- state --------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        state = {
            **self._identity(),
            **self.learner.counters(),
            "history": self.history,
            "config": self.config.to_dict(),
            "num_processes": self.accelerator.num_processes,
        }
        folder, keep = Path(self.config.output_dir), self.config.keep_checkpoints
        parts, own = self.learner.tensors(), self.learner.own_tensors()
        return files.save_checkpoint(self.accelerator, folder, self.step, parts, state, keep, own=own)

    def resume(self, folder: Path) -> None:
        """Continues from a checkpoint, bit for bit on a CPU.

        Raises:
            CheckpointError: it belongs to another run, or is damaged.
        """
        here = self.accelerator
        parts, state = files.read_checkpoint(
            folder,
            self._identity(),
            here.process_index,
            here.num_processes,
            layout=self.learner.layout(),
            counters=self.learner.counters(),
            ema_every=self.config.ema_every if self.learner.ema is not None else 0,
        )
        self.learner.restore(parts, state)
        self.step, self.history = state["step"], state["history"]

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be continued."""
        import hashlib

        listed = "\x1f".join(self.prompts)
        return {
            "sigma_fingerprint": read_schedule(self.scheduler).fingerprint,
            "prompt_list": hashlib.sha256(listed.encode()).hexdigest()[:16],
            "text_encoder": self.texts.encoder,
            **({"images": images_fingerprint(self.images)} if self.images else {}),
            **self.config.identity(),
        }

    def export(self, folder: str | Path, *, averaged: bool = True) -> Path:
        """Writes the LoRA for ``pipe.load_lora_weights(folder)``, with a model card.

        Args:
            folder: created when missing.
            averaged: the averaged weights, where the run keeps them.
        """
        folder = Path(folder)
        state = self.learner.exported(averaged=averaged)
        if self.accelerator.is_main_process:
            export_lora(self.pipe, folder, state)
            shown = min(self.config.eval_num_prompts, len(self.eval_prompts))
            name = type(self.pipe).__name__
            write_card(folder, self.config, pipeline=name, steps=self.step, history=self.history, num_prompts=shown)
        self.accelerator.wait_for_everyone()
        return folder


#: What the progress bar shows.
_SHOWN = ("reward/mean", "policy/loss", "policy/kl", "groups/zero_variance", "seconds/all")
