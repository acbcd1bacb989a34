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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.adapter_training import AdapterTraining
from cac_align.flow_grpo.card import write_card
from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.evaluation import (
    collapsed_canaries,
    describe_change,
    evaluate_prompts,
    evaluation_indices,
    summarise,
)
from cac_align.flow_grpo.judging.reward_bus import RewardBus, try_reward
from cac_align.flow_grpo.judging.reward_specs import read_specs
from cac_align.flow_grpo.learner.experience import (
    Experience,
    experience_numbers,
    gather,
    judged_step,
    rows_of,
    warn_of_limits,
)
from cac_align.flow_grpo.learner.learner import Learner
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.learner.quantised import check_storage
from cac_align.flow_grpo.learner.replay import judge_noise
from cac_align.flow_grpo.loading import (
    clips_of,
    encode_clips,
    encode_texts,
    load_pipeline,
    open_accelerator,
    prepare_pipeline,
    stochastic_scheduler,
)
from cac_align.flow_grpo.maths.sampling import GroupSampler
from cac_align.flow_grpo.maths.schedule import read_schedule
from cac_align.flow_grpo.needs import anchor_identity, check_needs, contents_of, own_reward
from cac_align.flow_grpo.older_runs import as_meant
from cac_align.flow_grpo.output_folder import OutputError, check_writable
from cac_align.flow_grpo.placing import place_parts
from cac_align.flow_grpo.plan import live_plan, peak_memory
from cac_align.flow_grpo.run_log import RunLog, show_evaluation, show_groups
from cac_align.flow_grpo.run_prompts import check_images, images_fingerprint, prompt_images, prompt_lists
from cac_align.flow_grpo.sampler.experts import boundary_of, velocity_of
from cac_align.flow_grpo.sampler.forwards import ForwardCount
from cac_align.flow_grpo.sampler.rollout import RolloutSampler, VideoRollout, negative_prompt, split_calls
from cac_align.pipelines import Pipeline
from cac_align.rewards.base import Reward, RewardError, check_callable
from reward_model.digests import text_digest
from reward_model.engine.checkpoints import CONTENTS
from reward_model.engine.guards import DivergenceError
from reward_model.engine.trackers import check_reporters

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["DivergenceError", "FlowGRPOTrainer", "OutputError"]

log = logging.getLogger(__name__)


class FlowGRPOTrainer(AdapterTraining):
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

    label = "Flow-GRPO"
    config: FlowGRPOConfig
    learner: Learner

    def __init__(
        self,
        config: FlowGRPOConfig,
        *,
        pipe: Pipeline | None = None,
        reward: Reward | None = None,
        prompts: Sequence[str] | None = None,
        eval_prompts: Sequence[str] | None = None,
        images: Mapping[str, Any] | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        if not isinstance(config, FlowGRPOConfig):
            raise ValueError(
                f"config must be a FlowGRPOConfig, got {type(config).__name__}; make one with "
                "FlowGRPOConfig.from_dict(a mapping) or FlowGRPOConfig.from_yaml(a file)"
            )
        check_reporters(config.report_to, config.wandb_project)
        self.prompts, self.eval_prompts = prompt_lists(config, prompts, eval_prompts)
        self.sampler = GroupSampler(len(self.prompts), config.groups_per_step, config.num_generations, config.seed)
        check_needs(config, pipeline=pipe is None, rewards=reward is None)
        super().__init__(config, accelerator or open_accelerator(config.mixed_precision))
        self.sampler.check_world_size(self.accelerator.num_processes)
        check_storage(config, self.accelerator.device, self.accelerator)
        if self.accelerator.is_main_process:
            check_writable(config.output_dir)
        self.reward = own_reward(config) if reward is None else reward
        check_callable(self.reward)
        self._reward_weights = {spec.name: spec.weight for spec in read_specs(config.rewards) if spec.weight > 0}
        self.bus = RewardBus(
            self.reward,
            mode=config.reward_mode,
            workers=config.reward_workers,
            deadline_s=config.reward_deadline_s,
            retries=config.reward_retries,
            size=config.reward_queue,
        )
        #: Whether the reward has judged a video. A pipeline takes minutes to load: the reward is tried before it.
        self._reward_works = False
        if pipe is None:
            self._check_reward()
        self.pipe = pipe or load_pipeline(config, text_encoder=self.accelerator.is_main_process, images=images)
        every = [*self.prompts, *self.eval_prompts]
        self.images = check_images(self.pipe, every, prompt_images(config) if images is None else images)
        self.modules = prepare_pipeline(self.pipe, config)
        clips = clips_of(config, self.images)
        texts = [*every, config.negative_prompt, *(clip.prompt for clip in clips)]
        self.texts = encode_texts(self.pipe, texts, config, self.accelerator)
        self.scheduler, weights = stochastic_scheduler(self.pipe.scheduler, config, self.accelerator.device)
        place_parts(self.pipe, config, self.accelerator.device)
        source = f"data_regulariser={config.data_regulariser!r}"
        latents = encode_clips(self.pipe, clips, config, self.accelerator, source) if clips else None
        given = (config, self.accelerator, latents)
        policy, cell = velocity_of(self.pipe, config), self.pipe.vae_scale_factor_spatial
        self.learner = Learner(policy, self.scheduler, weights, self.texts, *given, spatial_factor=cell)
        self.transformer, self.transformers = policy.transformer, tuple(policy.transformers.values())
        self.forwards = ForwardCount(*self.transformers)
        self.rollouts = RolloutSampler(self.pipe, self.scheduler, self.texts, config, self.images)
        #: Rewards of the evaluation prompts, in order: of the base model, and of the latest evaluation.
        self.eval_rewards: dict[str, list[float | None]] = {}

    # --- the run ------------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = True) -> dict[str, float]:
        """As :meth:`.AdapterTraining.train`.

        Raises:
            RewardError: a whole step could not be judged.
        """
        try:
            return super().train(resume=resume)
        finally:
            self.bus.close()

    def logged_step(self, writer: RunLog) -> dict[str, float]:
        """A step with its log: numbers, and now and then the best and the worst video of some groups."""
        experience, numbers = self.run_step()
        writer.numbers(self.step, numbers)
        every = self.config.log_videos_every
        if every and self.step % every == 0:
            show_groups(writer, self.step, experience, self.config)
        return numbers

    def measure(self, writer: RunLog, *, base: bool = False) -> None:
        """Evaluates the base model, or the trained one every so many steps."""
        if base or self.due(self.config.eval_every):
            self._evaluate(writer, base=base)

    def run_step(self) -> tuple[Experience, dict[str, float]]:
        """One step: videos, rewards, updates. Returns them with the numbers of all processes."""
        started = time.perf_counter()
        self.forwards.taken()  # what evaluations took before
        experience = self.collect()
        forwards, drawn = [self.forwards.taken()], time.perf_counter()
        found = self.learner.learn(experience)
        forwards, done = gather(self.accelerator, [*forwards, self.forwards.taken()]), time.perf_counter()
        self.step += 1
        self.learner.follow()
        numbers = {**experience_numbers(experience.rows, experience.advantages), **found}
        if self.step == 1:
            warn_of_limits(numbers)
        numbers |= {"forwards/sample": sum(forwards[::2]), "forwards/train": sum(forwards[1::2])}
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

    # --- videos and rewards -------------------------------------------------------------------------------------------

    def collect(self) -> Experience:
        """The videos of the current step on this process, judged, with advantages over all processes.

        Raises:
            RewardError: none of the step's videos could be judged.
        """
        config, world = self.config, self.accelerator.num_processes
        epoch, place = self.sampler.locate(self.step)
        specs = self.sampler.rank_samples(epoch, place, self.accelerator.process_index, world)
        rollouts: list[VideoRollout] = []
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
        first = self.accelerator.process_index * len(specs)
        return judged_step(rollouts, answers, rows, config, self._reward_weights, first, self.step)

    # --- checks and evaluation ----------------------------------------------------------------------------------------

    def self_check(self) -> dict[str, float]:
        """Before the first step: prints the plan, asks the reward about one video, and measures the replay noise.

        Raises:
            ValueError: the reward does not work, or ``noise_floor`` is ``refuse`` and the noise rivals the clip.
        """
        config, world = self.config, self.accelerator.num_processes
        told = {"world_size": world, "num_prompts": len(self.prompts), "first_step": self.step}
        self.accelerator.print(live_plan(self.pipe, config, read_schedule(self.scheduler), **told), flush=True)
        self._check_reward()
        if config.noise_floor == "off" or config.on_finished_videos:
            return {}
        epoch, place = self.sampler.locate(self.step)
        specs = self.sampler.rank_samples(epoch, place, self.accelerator.process_index, world)
        call = split_calls(specs, config.sample_batch_size)[0]
        prompt, window = self.prompts[call[0].prompt_index], self.rollouts.window(call[0], epoch, self.step)
        rollout = self.rollouts.draw_one(call, prompt, window, decode=False)
        device, negative = self.accelerator.device, negative_prompt(config)
        condition = self.texts.condition([prompt] * len(call), negative, device, rollout.image)
        floor = self.learner.replay.noise_floor(rollout.records, condition)
        floor = {key: max(gather(self.accelerator, [value])) for key, value in floor.items()}
        self.accelerator.print(judge_noise(floor, config.noise_floor), flush=True)
        return floor

    def _check_reward(self) -> None:
        if not self._reward_works:
            shape = (self.config.num_frames, self.config.height, self.config.width, 3)
            try_reward(self.bus, self.prompts[0], shape, self.config.fps)
            self._reward_works = True

    def _evaluate(self, writer: RunLog, *, base: bool = False) -> None:
        """Draws and judges the evaluation prompts with the base model or the averaged LoRA, and looks at canaries."""
        prompts = self.eval_prompts[: self.config.eval_num_prompts]
        if not prompts:
            return
        indices = evaluation_indices(len(prompts), self.accelerator.process_index, self.accelerator.num_processes)
        with adapter_off(*self.transformers) if base else self.learner.averaged_weights():
            found = evaluate_prompts(self.pipe, self.texts, prompts, indices, self.bus, self.config, self.images)
        rows = dict(gather(self.accelerator, [(video.index, video.numbers()) for video in found]))
        summary = summarise(rows)
        self.eval_rewards["base" if base else "last"] = [rows[k].get("reward") for k in sorted(rows)]
        self.history.append({"step": 0.0 if base else float(self.step), **summary})
        writer.numbers(self.step, {f"eval/{k}": v for k, v in summary.items()})
        show_evaluation(writer, self.step, found, prompts, "base" if base else "trained", self.config)
        if fallen := collapsed_canaries(self.history, self.config):
            said = f"the reward rose while {', '.join(fallen)} collapsed: this looks like reward hacking"
            log.warning("step %d: %s", self.step, said)
            if self.config.early_stop:
                self.stopped_by = said

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Further entries of a checkpoint."""
        return {"eval_rewards": self.eval_rewards}

    def read_state(self, state: Mapping[str, Any]) -> None:
        """Takes the state of a checkpoint back, but for the learner's part."""
        super().read_state(state)
        self.eval_rewards = dict(state.get("eval_rewards") or {})

    def meant(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state of an older checkpoint as today's would say it."""
        return as_meant(state)

    def identity(self) -> dict[str, Any]:
        """Entries that must be equal for a checkpoint to be continued."""
        return {
            "sigma_fingerprint": read_schedule(self.scheduler).fingerprint,
            "prompt_list": text_digest("\x1f".join(self.prompts))[:16],
            "text_encoder": self.texts.encoder,
            **({"images": images_fingerprint(self.images)} if self.images else {}),
            **({"expert_boundary": boundary_of(self.pipe)} if len(self.transformers) > 1 else {}),
            **self.config.identity(),
            **anchor_identity(self._contents),
            CONTENTS: self._contents,
        }

    @cached_property
    def _contents(self) -> dict[str, str]:
        """Digests of the folders that settings name, which may lie elsewhere when the run goes on."""
        return contents_of(self.config)

    def change(self) -> str:
        """Sentences about what the evaluations say of base and trained model, and what so few prompts can tell."""
        return describe_change(self.history, self.eval_rewards)

    def write_card(self, folder: Path) -> None:
        """Writes the model card beside an exported adapter."""
        write_card(
            folder,
            self.config,
            pipeline=type(self.pipe).__name__,
            steps=self.step,
            history=self.history,
            num_prompts=min(self.config.eval_num_prompts, len(self.eval_prompts)),
            experts=len(self.transformers) > 1,
        )
