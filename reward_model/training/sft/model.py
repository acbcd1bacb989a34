"""The model of stages 1 and 2, the settings its judge is asked with, and the plan of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reward_model.config import READOUTS, JudgeConfig, load_judge_config
from reward_model.training.plan import PlanConfig
from reward_model.training.sft.config import JUDGE_SETTINGS, WORLD, StageArguments
from reward_model.training.sft.parts import STOCK, StageParts

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig


def load_model(
    model: ModelConfig, stage: StageArguments, seed: int, parts: StageParts = STOCK
) -> tuple[Any, Any, JudgeConfig]:
    """The model to train, its processor, and the settings its judge is asked with.

    Args:
        model: TRL's ``ModelConfig``; ``model_name_or_path`` is a checkpoint folder, a hub id, or one of the models that
            ``parts`` builds from scratch.
        seed: seed of the weights of a model from scratch.

    Raises:
        ValueError: if no model is named, or a setting contradicts the judge's rules.
    """
    name = model.model_name_or_path
    if not name:
        built = "".join(f"{word!r}, " for word in parts.models[:1])
        raise ValueError(f"model_name_or_path is missing; give {built}a checkpoint folder, or a hub id")
    if name in parts.models:
        net, processor, judge = parts.build(name, seed)
    else:
        from reward_model.backends.checkpoint import load_checkpoint, settings_folder
        from reward_model.backends.devices import torch_dtype
        from reward_model.backends.source import announce_demo_scale

        net, processor = load_checkpoint(
            name,
            revision=model.model_revision,
            dtype=torch_dtype(model.dtype or "float32"),
            attn_implementation=model.attn_implementation or None,
        )
        judge = load_judge_config(settings_folder(name, model.model_revision))
        announce_demo_scale(name, judge.demo_scale)
    if stage.max_pixels:
        settings = processor.image_processor
        settings.size = {**dict(settings.size), "longest_edge": stage.max_pixels}
    return net, processor, judge_settings_of(stage, judge)


def judge_settings_of(stage: StageArguments, judge: JudgeConfig) -> JudgeConfig:
    """Settings of the trained judge: those of its checkpoint, except for what the stage sets, and the readouts that its
    answers train.

    A share of answers without reasoning trains all readouts. Without one only Equation 7's own place is trained, after
    the reasoning; procedural samples have their share.
    """
    judge = judge.override(**{name: getattr(stage, name) for name in JUDGE_SETTINGS})
    if stage.data == WORLD:
        return judge
    trained = (*judge.readouts, *(n for n in READOUTS if n not in judge.readouts))
    return judge.override(readouts=trained if stage.empty_cot_share else ("paper",))


def sft_plan_config(
    name: str, stage: StageArguments, config: SFTConfig, model: ModelConfig, parts: StageParts = STOCK
) -> PlanConfig:
    """Arguments of :func:`reward_model.training.plan.print_plan` for a run."""
    frames = {"stage1": 1, "referee": 2}.get(name, 21)
    side: dict[str, Any] = {"height": stage.frame_size, "width": stage.frame_size} if stage.frame_size else {}
    plan = PlanConfig(
        model=stage.plan_model or model.model_name_or_path,
        stage=name,
        lora_r=model.lora_r if model.use_peft else None,
        steps=config.max_steps,
        per_device_batch=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        num_gpus=8 if stage.num_gpus is None else stage.num_gpus,
        gradient_checkpointing=bool(config.gradient_checkpointing),
        num_frames=frames,
        longest_frames=max(frames, _longest_clip(stage)) if name == "stage2" else None,
        host_bytes=2 if str(model.dtype) in ("bfloat16", "float16") else 4,
        max_pixels=stage.max_pixels,
        peak_tflops=stage.peak_tflops,
        gpu_memory_gib=stage.gpu_memory_gib,
        **side,
    )
    return parts.plan(plan, stage)


def _longest_clip(stage: StageArguments) -> int:
    """Frames of the longest clip: a second, unless clips of longer anomalies train too."""
    if stage.untrimmed_windows:
        return stage.max_zoom_frames or JudgeConfig.max_zoom_frames
    return round(stage.zoom_fps or JudgeConfig.zoom_fps)
