"""Command-line arguments and model of stages 1 and 2, for a full-size judge and for the mini alike.

Three dataclasses make up a run: :class:`StageArguments` (below), TRL's ``SFTConfig`` (optimiser, batches, saving) and
TRL's ``ModelConfig`` (model, precision, LoRA). A YAML file holds them; the command line overrides it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reward_model.config import JUDGE_FILE, JudgeConfig, load_judge_config
from reward_model.engine.settings import changed, check_known, find_config, read_yaml, settings_parser
from reward_model.extras import need
from reward_model.prompts import load_prompts
from reward_model.readout import READOUTS
from reward_model.shipped import located
from reward_model.training.plan import PlanConfig

WORLD = "world"
#: Scenes of evaluation samples start here; training uses seeds below 100,000.
HELD_OUT_SEEDS = 400_000


@dataclass
class StageArguments:
    """What a stage trains on, beside ``SFTConfig`` and ``ModelConfig``."""

    data: str = field(default=WORLD, metadata={"help": "'world' (procedural videos), or an annotations .jsonl file"})
    boxes_round: bool = field(default=False, metadata={"help": "world: clips and frames that are mostly anomalous"})
    cot: str | None = field(
        default=None, metadata={"help": "cot.jsonl with verified reasoning (else from annotations)"}
    )
    disjoint: bool = field(default=False, metadata={"help": "deal videos to stages 20:35:7.5, none to two"})
    held_out: float = field(default=0.05, metadata={"help": "share of footage to evaluate on if no line is marked val"})
    samples: int | None = field(default=None, metadata={"help": "rows of an annotated set; by default each video once"})
    frames_per_video: int = field(default=2, metadata={"help": "stage 1: anomalous frames of each video"})
    untrimmed_windows: bool = field(default=False, metadata={"help": "stage 2: clips of anomalies >= 1 s too"})
    hints: bool = field(default=True, metadata={"help": "stage 2: show clips a conclusion of turn one"})
    without_cot: bool = field(default=False, metadata={"help": "with cot: keep videos that it lacks"})
    empty_cot_share: float = field(
        default=0.0,
        metadata={"help": "annotated sets: share of answers without reasoning, for the readouts direct and log_odds"},
    )
    cache_dir: str | None = field(default=None, metadata={"help": "reduced videos; default OUTPUT/frames, 'none': no"})
    prompts: str | None = field(default=None, metadata={"help": "wording: paper or compact (default: the model's)"})
    scan_fps: float | None = field(default=None, metadata={"help": "frames per second of turn one"})
    zoom_fps: float | None = field(default=None, metadata={"help": "frames per second of turn two"})
    min_zoom_frames: int | None = field(default=None, metadata={"help": "fewest frames of a clip"})
    max_zoom_frames: int | None = field(default=None, metadata={"help": "most frames of a clip"})
    window_margin: str | None = field(
        default=None, metadata={"help": "clips of turn one's windows: none (as named, paper) or half a stride more"}
    )
    frame_size: int | None = field(default=None, metadata={"help": "square side frames are resized to"})
    max_pixels: int | None = field(default=None, metadata={"help": "pixel budget of one frame in the processor"})
    max_tokens: int | None = field(default=None, metadata={"help": "longer samples are left out and named, never cut"})
    vision_warmup_steps: int = field(default=0, metadata={"help": "mini from nothing only: steps of its vision tower"})
    reading_warmup_steps: int = field(default=0, metadata={"help": "mini from nothing only: steps of its reading"})
    vision_lr_scale: float = field(default=1.0, metadata={"help": "learning rate of the vision tower, relative"})
    matrix_lr: float | None = field(default=None, metadata={"help": "Muon's rate for weight matrices (AdamW if none)"})
    eval_samples: int = field(default=4, metadata={"help": "held-out answers written to TensorBoard at evaluations"})
    merge_lora: bool = field(default=True, metadata={"help": "export merged weights; false exports the adapter"})
    resume: bool = field(default=True, metadata={"help": "continue from the last complete checkpoint"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan (counts, memory, time) and stop"})
    plan_model: str | None = field(
        default=None, metadata={"help": "dry run: plan for this model (folder not there yet)"}
    )
    num_gpus: int | None = field(default=None, metadata={"help": "dry run: GPUs to plan for (8; 0 with use_cpu)"})
    peak_tflops: float = field(default=989.0, metadata={"help": "dry run: dense bf16 peak of one GPU"})
    gpu_memory_gib: float = field(default=141.0, metadata={"help": "dry run: memory of one GPU"})


def parse_stage(arguments: Sequence[str] | None = None, presets: Path | None = None) -> tuple[StageArguments, Any, Any]:
    """(StageArguments, SFTConfig, ModelConfig) from ``--config file.yaml`` and further options, in the grammar of
    :mod:`reward_model.engine.settings`.

    Args:
        arguments: the command line; by default that of the program.
        presets: folder of the settings files that ``--config`` may name without path and ending.

    Raises:
        ValueError: the file or the command line names an unknown setting, or one has a value of the wrong kind.
        ImportError: TRL is not installed; the message has the pip line.
    """
    given = settings_parser(None, default=None, dry_run="")
    args, rest = given.parse_known_args(arguments)
    settings = read_yaml(find_config(args.config, presets)) if args.config else {}
    named = [word.partition("=")[0].replace("-", "_") for word in [*rest, *(f"--{text}" for text in args.set)]]
    if not args.config and "__model_name_or_path" not in named:
        known_presets = sorted(p.stem for p in presets.glob("*.yaml")) if presets is not None else []
        which = (
            f"--config {known_presets[0]}, of the presets {', '.join(known_presets)}"
            if known_presets
            else "--config FILE"
        )
        raise ValueError(f"no settings are given: name a file or a preset ({which}), or --model-name-or-path")
    for package in ("trl", "datasets", "tensorboard"):
        need(package, "training stages 1 and 2")
    from trl import ModelConfig, SFTConfig, TrlParser

    from reward_model.training.sft.trainer import SHARED

    for name, value in dict(settings.pop("env", None) or {}).items():
        os.environ[name] = str(value)
    settings = changed(settings, args.set)
    parser = TrlParser((StageArguments, SFTConfig, ModelConfig))
    known = {action.dest for action in parser._actions}
    check_known(settings, known, where=str(args.config or "--set"))
    if settings.get("model_name_or_path"):
        settings["model_name_or_path"] = located(str(settings["model_name_or_path"]))
    on_cpu = _names_cpu(rest, settings)
    if args.dry_run:
        rest = [*rest, "--dry_run", "true", "--use_cpu", "true"]  # planning must not ask for the GPU it plans for
    parser.set_defaults_with_config(**SHARED)
    parser.set_defaults_with_config(**settings)
    *found, unknown = parser.parse_args_into_dataclasses(args=rest, return_remaining_strings=True)
    check_known([word.lstrip("-").partition("=")[0].replace("-", "_") for word in unknown], known, where="")
    stage, config, model = found
    if args.dry_run and on_cpu and stage.num_gpus is None:
        stage.num_gpus = 0
    return stage, config, model


def settings_text() -> str:
    """Every setting of stages 1 and 2 that is not TRL's own: name, default and meaning."""
    own = [f"{f.name} = {f.default!r}\n    {f.metadata['help']}" for f in fields(StageArguments)]
    return "\n".join([*own, "Besides: every field of TRL's SFTConfig and ModelConfig, such as max_steps or lora_r."])


def _names_cpu(words: Sequence[str], settings: Mapping[str, Any]) -> bool:
    """Whether the command line, or else the settings, say ``use_cpu``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--use_cpu", "--use-cpu", nargs="?", const="true")
    known, _ = parser.parse_known_args(words)
    said = settings.get("use_cpu") if known.use_cpu is None else known.use_cpu
    return str(said).lower() in ("true", "1", "yes", "t", "y")


# --- model ------------------------------------------------------------------------------------------------------------


def load_model(model: Any, stage: StageArguments, seed: int) -> tuple[Any, Any, JudgeConfig]:
    """The model to train, its processor, and the settings its judge is asked with.

    Args:
        model: TRL's ``ModelConfig``; ``model_name_or_path`` is ``"mini"`` or ``"tiny"`` (from nothing), a checkpoint
            folder, or a hub id.
        seed: of the weights of a model from nothing.

    Raises:
        ValueError: no model is named, or a setting contradicts the judge's rules.
    """
    name = model.model_name_or_path
    if not name:
        raise ValueError("model_name_or_path is missing; give 'mini', a checkpoint folder, or a hub id")
    if name in ("mini", "tiny"):
        from reward_model.minis.model import build_judge, judge_settings

        net, processor = build_judge(name, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / JUDGE_FILE).write_text(judge_settings(load_prompts("compact").version))
            judge = load_judge_config(folder)
    else:
        from reward_model.backends.checkpoint import load_checkpoint
        from reward_model.backends.devices import torch_dtype

        net, processor = load_checkpoint(
            name,
            revision=model.model_revision,
            dtype=torch_dtype(model.dtype or "float32"),
            attn_implementation=model.attn_implementation or None,
        )
        judge = load_judge_config(name)
    if stage.max_pixels:
        settings = processor.image_processor
        settings.size = {**dict(settings.size), "longest_edge": stage.max_pixels}
    return net, processor, judge_settings_of(stage, judge)


def judge_settings_of(stage: StageArguments, judge: JudgeConfig) -> JudgeConfig:
    """How the trained judge will be asked: as its checkpoint was, but for what the stage sets, and at the readouts
    that its answers train.

    A share of answers without reasoning trains all readouts. Without one only Equation 7's own place is trained, after
    the reasoning; procedural samples have their share.
    """
    names = ("prompts", "scan_fps", "zoom_fps", "min_zoom_frames", "max_zoom_frames", "window_margin", "frame_size")
    judge = judge.override(**{n: getattr(stage, n) for n in names})
    if stage.data == WORLD:
        return judge
    trained = (*judge.readouts, *(n for n in READOUTS if n not in judge.readouts))
    return judge.override(readouts=trained if stage.empty_cot_share else ("paper",))


# --- plan -------------------------------------------------------------------------------------------------------------


def plan_config(name: str, stage: StageArguments, config: Any, model: Any) -> PlanConfig:
    """What :func:`reward_model.training.plan.print_plan` needs to know of a run."""
    mini = (stage.plan_model or model.model_name_or_path) in ("mini", "tiny")
    side = stage.frame_size or (48 if mini else None)
    size: dict[str, Any] = {"height": side, "width": side} if side else {}
    text: dict[str, Any] = {"prompt_tokens": 10, "answer_tokens": 150} if mini else {}
    frames = 1 if name == "stage1" else 21
    second = round(stage.zoom_fps or JudgeConfig.zoom_fps)  # clips of anomalies that are shorter
    clip = (stage.max_zoom_frames or JudgeConfig.max_zoom_frames) if stage.untrimmed_windows else second
    return PlanConfig(
        model=stage.plan_model or model.model_name_or_path,
        stage=name,
        lora_r=model.lora_r if model.use_peft else None,
        steps=config.max_steps,
        per_device_batch=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        num_gpus=8 if stage.num_gpus is None else stage.num_gpus,
        gradient_checkpointing=bool(config.gradient_checkpointing),
        num_frames=frames,
        longest_frames=None if mini or name == "stage1" else max(frames, clip),
        host_bytes=2 if str(model.dtype) in ("bfloat16", "float16") else 4,
        max_pixels=stage.max_pixels,
        peak_tflops=stage.peak_tflops,
        gpu_memory_gib=stage.gpu_memory_gib,
        **size,
        **text,
    )
