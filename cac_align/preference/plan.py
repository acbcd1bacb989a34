"""Plan of a training on preference pairs as text, with a rough estimate of its memory; no weight need be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cac_align.flow_grpo.model_layout import check_single, check_video_size, read_layout
from cac_align.flow_grpo.plan import GIB, activation_memory, frozen_words, model_size, storage_words
from cac_align.preference.config import PreferenceConfig
from reward_model.terminal.described import experiments

if TYPE_CHECKING:
    from diffusers import ModelMixin


def check_model_size(config: PreferenceConfig) -> None:
    """Raises ValueError if a model, of which nothing is loaded, does not make videos of the settings' size, or has no
    second expert for a second scale.
    """
    layout = read_layout(config.model)
    check_video_size(config, layout.spatial_factor, layout.transformer["patch_size"])
    if layout.boundary_ratio is None:
        check_single(config)


def preference_plan(
    config: PreferenceConfig,
    *transformers: ModelMixin,
    num_pairs: int,
    world_size: int = 1,
    first_step: int = 0,
    spatial_factor: int = 8,
) -> str:
    """The plan of a run.

    Args:
        config: settings.
        transformers: with their adapters, or none for those of the model on the meta device.
        num_pairs: pairs, or winners of objective sft.
        world_size: processes.
        first_step: steps done.
        spatial_factor: pixels per latent cell in each direction, where transformers are given.
    """
    size = model_size(config, *transformers, spatial_factor=spatial_factor)
    copies = 4 + (config.ema_decay > 0)  # value, gradient, two moments
    adapter = copies * size.trained * 4 / GIB
    activations = activation_memory(config, size, config.videos_per_forward)
    dpo, trial = config.objective == "dpo", ", ".join(f"{k}={v}" for k, v in experiments(config).items())
    videos = config.batch_size * (2 if dpo else 1)
    reference = f" and {videos} of the reference" if dpo else ""
    under = frozen_words(config)
    what = "pairs" if dpo else "winners"
    passes = f"; {config.max_steps * config.batch_size / num_pairs:.2f} passes over the {what}" if num_pairs else ""
    return "\n".join(
        [
            f"Training on {what} of {config.model}{under}",
            f"  {what:<11} {num_pairs} of {config.pairs}; {config.batch_size} a step over {world_size} process(es), "
            f"{config.train_batch_size} in a forward",
            f"  videos      {config.height}x{config.width}, {config.num_frames} frames at {config.fps:g} fps",
            f"  objective   {config.objective}{_objective(config)}",
            f"  LoRA        rank {config.lora_r}, alpha {config.lora_alpha}: {size.modules} modules, "
            f"{size.trained:,} trained of {size.frozen:,} parameters",
            f"  steps       {config.max_steps} (from {first_step}), learning rate {config.learning_rate:g}{passes}",
            f"  forwards    {videos} to train{reference}, per step (one video; {size.flop / 1e12:.3g} TFLOP each, "
            "reckoned)",
            f"  memory      {size.weights + adapter + activations:.2f} GiB estimated per process: {size.weights:.2f} "
            f"frozen weights{storage_words(config, size.offloaded)}, {adapter:.2f} adapter and optimiser, "
            f"{activations:.2f} activations; the VAE comes on top",
            f"  measured    {config.eval_pairs or 'no other pairs'}; {config.num_samples} sample video(s)",
            f"  output      {config.output_dir}",
            *([f"  experimental {trial}: no preset has that, and no run of it is in the docs"] if trial else []),
        ]
    )


def _objective(config: PreferenceConfig) -> str:
    if config.objective == "sft":
        return ": flow-matching loss on the chosen videos"
    where = f", localised with floor {config.localised_floor:g}" if config.localised else ""
    return f": beta {config.beta:g}{where}; the reference is the model without the LoRA"
