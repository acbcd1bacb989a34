"""Training on preference pairs: a LoRA of a Wan pipeline learns which of two videos is the better one, on accelerate.

One step: draw some pairs, noise both videos of each alike, and update the adapter by the loss of
:mod:`~cac_align.preference.pair_term`; or, with objective sft, by the flow-matching loss on the chosen videos. Every
random draw is a function of the seed and of the updates done: a resumed run has nothing to catch up with.

    config = PreferenceConfig.from_yaml("recipes/configs/preference/mini.yaml")
    trainer = PreferenceTrainer(config)
    trainer.train()
    trainer.export("outputs/lora")
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cac_align.flow_grpo.adapter_training import AdapterTraining
from cac_align.flow_grpo.evaluation import draw_video
from cac_align.flow_grpo.learner.lora import adapter_off
from cac_align.flow_grpo.learner.quantised import check_storage
from cac_align.flow_grpo.loading import (
    add_adapters,
    check_wan,
    encode_clips,
    encode_texts,
    load_pipeline,
    open_accelerator,
    pipeline_class,
)
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.needs import (
    PIPELINE_FILE,
    Need,
    anchor_identity,
    base_contents,
    base_needs,
    model_need,
    refuse_missing,
)
from cac_align.flow_grpo.output_folder import check_writable
from cac_align.flow_grpo.placing import place_parts
from cac_align.flow_grpo.plan import peak_memory
from cac_align.flow_grpo.run_log import RunLog
from cac_align.flow_grpo.sampler.experts import boundary_of, velocity_of
from cac_align.pipelines import Pipeline
from cac_align.preference.card import write_preference_card
from cac_align.preference.config import PreferenceConfig
from cac_align.preference.learner import PreferenceLearner
from cac_align.preference.pair_term import pair_weights
from cac_align.preference.plan import check_model_size, preference_plan
from cac_align.preference.training_pairs import (
    TrainingPair,
    check_pair_videos,
    clips_of_pairs,
    pairs_digest,
    read_training_pairs,
)
from cac_align.prompts import read_prompts
from reward_model.backends.source import located
from reward_model.engine.checkpoints import CONTENTS
from reward_model.engine.trackers import check_reporters
from reward_model.terminal.described import settings_of

if TYPE_CHECKING:
    from accelerate import Accelerator


class PreferenceTrainer(AdapterTraining):
    """Trains a LoRA on preference pairs.

    Args:
        config: what to do.
        pipe: a Wan text-to-video pipeline with its text encoder; by default that of ``config.model``. It gets an
            adapter, and loses its text encoder once all prompts are encoded.
        accelerator: by default a new one, which reads ``accelerate launch``'s environment.

    Raises:
        ValueError: if pairs, videos, pipeline and settings do not fit.

    Example:
        >>> trainer = PreferenceTrainer(PreferenceConfig.from_yaml("mini.yaml"))                 # doctest: +SKIP
        >>> trainer.train()                                                                      # doctest: +SKIP
        >>> trainer.export("outputs/lora")                                                       # doctest: +SKIP
    """

    label = "Preference"
    config: PreferenceConfig
    learner: PreferenceLearner

    def __init__(
        self, config: PreferenceConfig, *, pipe: Pipeline | None = None, accelerator: Accelerator | None = None
    ) -> None:
        if not isinstance(config, PreferenceConfig):
            raise ValueError(
                f"config must be a PreferenceConfig, got {type(config).__name__}; make one with "
                "PreferenceConfig.from_dict(a mapping) or PreferenceConfig.from_yaml(a file)"
            )
        check_reporters(config.report_to, config.wandb_project)
        self.pairs, self.eval_pairs = pairs_of(config)
        self.sample_prompts = sample_prompts(config, self.pairs)
        if pipe is None:
            check_preference_model(config)
        super().__init__(config, accelerator or open_accelerator(config.mixed_precision))
        check_storage(config, self.accelerator.device, self.accelerator)
        if self.accelerator.is_main_process:
            check_writable(config.output_dir)
        self.pipe = pipe or load_pipeline(config, text_encoder=self.accelerator.is_main_process)
        check_text_to_video(type(self.pipe).__name__, config)
        check_wan(self.pipe, config)
        self.modules = add_adapters(self.pipe, config)
        clips, held_out = clips_of_pairs(self.pairs), clips_of_pairs(self.eval_pairs)
        texts = [*(clip.prompt for clip in (*clips, *held_out)), *self.sample_prompts, config.negative_prompt]
        self.texts = encode_texts(self.pipe, texts, config, self.accelerator)
        place_parts(self.pipe, config, self.accelerator.device)
        latents = encode_clips(self.pipe, clips, config, self.accelerator, f"pairs={config.pairs!r}")
        named = f"eval_pairs={config.eval_pairs!r}"
        self.held_out = encode_clips(self.pipe, held_out, config, self.accelerator, named) if held_out else None
        cells = pair_weights(self.pairs, config, self.pipe.vae_scale_factor_spatial)
        policy = velocity_of(self.pipe, config)
        self.transformers = tuple(policy.transformers.values())
        given = (policy, self.pipe.scheduler, self.texts, latents, config, self.accelerator)
        self.learner = PreferenceLearner(*given, cells=cells)

    # --- the run ------------------------------------------------------------------------------------------------------

    def self_check(self) -> None:
        """Prints the plan."""
        told = {"num_pairs": len(self.pairs), "first_step": self.step, "world_size": self.accelerator.num_processes}
        factor = self.pipe.vae_scale_factor_spatial
        self.accelerator.print(
            preference_plan(self.config, *self.transformers, spatial_factor=factor, **told), flush=True
        )

    def logged_step(self, writer: RunLog) -> dict[str, float]:
        """One update, counted and logged."""
        started = time.perf_counter()
        numbers = self.learner.learn(self.step)
        self.step += 1
        numbers |= {"seconds/all": time.perf_counter() - started}
        if torch.cuda.is_available():
            numbers["memory/peak_gib"] = peak_memory()
        writer.numbers(self.step, numbers)
        return numbers

    def measure(self, writer: RunLog, *, base: bool = False) -> None:
        """Measures the averaged weights on pairs that are not trained on, and draws sample videos."""
        if base:
            if not self.step:
                self.draw_samples(writer, base=True)
            return
        if self.held_out is not None and self.due(self.config.eval_every):
            with self.learner.averaged_weights():
                found = self.learner.measure(self.held_out)
            self.history.append({"step": float(self.step), **found})
            writer.numbers(self.step, {f"eval/{name}": value for name, value in found.items()})
        if self.config.log_videos_every and self.due(self.config.log_videos_every):
            self.draw_samples(writer)

    def draw_samples(self, writer: RunLog, *, base: bool = False) -> None:
        """Sample videos of the averaged weights, or of the base model, from the same first latents each time."""
        if not self.config.log_videos_every:
            return
        kind = "base" if base else "trained"
        with adapter_off(*self.transformers) if base else self.learner.averaged_weights():
            for number, prompt in enumerate(self.sample_prompts):
                seed = derive_seed(self.config.sample_seed, "sample", number)
                frames = draw_video(self.pipe, self.texts, prompt, self.config, seed=seed)
                writer.video(self.step, f"sample-{number:03d}-{kind}", frames, self.config.fps, text=prompt)

    # --- state --------------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """Entries that must be equal for a checkpoint to be continued."""
        return {
            "text_encoder": self.texts.encoder,
            "shift": self.learner.term.shift,
            **({"expert_boundary": boundary_of(self.pipe)} if len(self.transformers) > 1 else {}),
            **self.config.identity(),
            **anchor_identity(self._contents),
            CONTENTS: self._contents,
        }

    @cached_property
    def _contents(self) -> dict[str, str]:
        """Digests of what settings name by a path, which may lie elsewhere when the run goes on."""
        return {**base_contents(self.config), "pairs": pairs_digest(self.pairs)}

    def meant(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state of an older checkpoint as today's would say it: settings that came later have their defaults."""
        return {**{s.name: s.default for s in settings_of(PreferenceConfig)}, **state}

    def write_card(self, folder: Path) -> None:
        """Writes the model card beside an exported adapter."""
        write_preference_card(
            folder,
            self.config,
            pipeline=type(self.pipe).__name__,
            steps=self.step,
            num_pairs=len(self.pairs),
            num_eval_pairs=len(self.eval_pairs),
            history=self.history,
            experts=len(self.transformers) > 1,
        )


# --- checks before anything is loaded ---------------------------------------------------------------------------------


def pairs_of(config: PreferenceConfig) -> tuple[list[TrainingPair], list[TrainingPair]]:
    """The pairs that are trained on and those that are measured, their videos seen to fit the run.

    Raises:
        ValueError: if a file holds none, a row is not a pair, or a video does not fit; the message names setting, row
            or file, and the remedy.
    """
    pairs = _checked("pairs", config.pairs, config, winners=config.objective == "sft")
    if config.eval_pairs is None:
        return pairs, []
    measured = _checked("eval_pairs", config.eval_pairs, config, winners=False)
    trained = {clip.path.resolve() for clip in clips_of_pairs(pairs)}
    if both := [clip.path for clip in clips_of_pairs(measured) if clip.path.resolve() in trained]:
        raise ValueError(
            f"eval_pairs={config.eval_pairs!r}: {len(both)} videos are trained on as well, such as {str(both[0])!r}; "
            "measure others"
        )
    return pairs, measured


def _checked(setting: str, source: str, config: PreferenceConfig, *, winners: bool) -> list[TrainingPair]:
    try:
        pairs = read_training_pairs(source, winners=winners)
        check_pair_videos(pairs, config)
    except ValueError as error:
        raise ValueError(f"{setting}={source!r}: {error}") from error
    return pairs


def sample_prompts(config: PreferenceConfig, pairs: list[TrainingPair]) -> list[str]:
    """Prompts of the sample videos."""
    if config.sample_prompts is None:
        texts = list(dict.fromkeys(pair.prompt for pair in pairs))
    else:
        try:
            texts = [p.text for p in read_prompts(located(config.sample_prompts))]
        except ValueError as error:
            raise ValueError(f"sample_prompts={config.sample_prompts!r}: {error}") from error
    return texts[: config.num_samples]


def preference_needs(config: PreferenceConfig) -> list[Need]:
    """Needs of a run beside its pairs, looked up without loading anything."""
    return [model_need("model", config.model, PIPELINE_FILE, config.revision), *base_needs(config)]


def check_preference_model(config: PreferenceConfig) -> None:
    """Raises ValueError where the model of the settings is missing, takes images, or makes videos of other sizes."""
    refuse_missing(preference_needs(config))
    check_text_to_video(pipeline_class(config), config)
    check_model_size(config)


def check_text_to_video(name: str, config: PreferenceConfig) -> None:
    """Raises ValueError for the class of an image-to-video pipeline: pairs have no first frames."""
    if "ImageToVideo" in name:
        raise ValueError(
            f"model={config.model!r} is a {name}, and pairs have no first frames; train a text-to-video pipeline"
        )
