"""Command-line arguments of stages 1 and 2.

Three dataclasses make up a run: :class:`StageArguments` (below), TRL's ``SFTConfig`` (optimiser, batches, saving) and
TRL's ``ModelConfig`` (model, precision, LoRA). A YAML file holds them; the command line overrides it. Callers that
bring parts of their own (:mod:`reward_model.training.sft.parts`) may have options for them: a subclass of the first.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from reward_model.config import JudgeConfig
from reward_model.engine.settings import changed, check_known, find_config, read_yaml, settings_parser
from reward_model.extras import need
from reward_model.shipped import located
from reward_model.terminal.described import Bounds, as_declared, check_setting, check_settings, settings_text

WORLD = "world"
NOT_NEGATIVE, AT_LEAST_ONE, ABOVE_ZERO = Bounds(least=0), Bounds(least=1), Bounds(above=0, below=math.inf)


#: Settings of the judge that a stage may set, under the names and the rules of its own.
JUDGE_SETTINGS = (
    *("prompts", "scan_fps", "zoom_fps", "min_zoom_frames", "max_zoom_frames", "window_margin"),
    *("frame_size", "frame_fit", "track", "track_smoothing"),
)


@dataclass
class StageArguments:
    """Data and options of a stage, beside ``SFTConfig`` and ``ModelConfig``.

    Raises:
        ValueError: if a value is out of bounds, or is none that the judge's setting of this name may have.
    """

    data: str = field(default=WORLD, metadata={"help": "'world' (procedural videos), or an annotations .jsonl file"})
    cot: str | None = field(
        default=None, metadata={"help": "cot.jsonl with verified reasoning (else from annotations)"}
    )
    disjoint: bool = field(default=False, metadata={"help": "deal videos to stages 20:35:7.5, none to two"})
    held_out: Annotated[float, Bounds(least=0, below=1, hint="0.05, for instance")] = field(
        default=0.05, metadata={"help": "share of footage to evaluate on if no line is marked val"}
    )
    samples: Annotated[int | None, AT_LEAST_ONE] = field(
        default=None,
        metadata={"help": "rows of an annotated set (default: each video once), or different ones of the world (all)"},
    )
    frames_per_video: Annotated[int, AT_LEAST_ONE] = field(
        default=2, metadata={"help": "stage 1: anomalous frames of each video"}
    )
    untrimmed_windows: bool = field(default=False, metadata={"help": "stage 2: clips of anomalies >= 1 s too"})
    hints: bool = field(default=True, metadata={"help": "stage 2: show clips a conclusion of turn one"})
    without_cot: bool = field(default=False, metadata={"help": "with cot: keep videos that it lacks"})
    empty_cot_share: Annotated[float, Bounds(least=0, below=1, hint="0.1, for instance")] = field(
        default=0.0,
        metadata={"help": "annotated sets: share of answers without reasoning, for the readouts direct and log_odds"},
    )
    cache_dir: str | None = field(default=None, metadata={"help": "reduced videos; default OUTPUT/frames, 'none': no"})
    track: str | None = field(
        default=None, metadata={"help": "boxes of turn two: per_frame, or at ticks 1s, 0.5s or 0.25s apart"}
    )
    track_smoothing: str | None = field(
        default=None, metadata={"help": "with ticks: whittaker, whittaker_fixed, moving_average, kalman or none"}
    )
    gt_replace: Literal["off", "on", "jitter"] = field(
        default="off", metadata={"help": "with cot: annotated coordinates for its own (on), shaken ones (jitter)"}
    )
    gt_jitter: Annotated[float, NOT_NEGATIVE] = field(
        default=15.0, metadata={"help": "with gt_replace jitter: standard deviation on the 0-1000 grid"}
    )
    prompts: str | None = field(default=None, metadata={"help": "wording: paper or compact (default: the model's)"})
    scan_fps: float | None = field(default=None, metadata={"help": "frames per second of turn one"})
    zoom_fps: float | None = field(default=None, metadata={"help": "frames per second of turn two"})
    min_zoom_frames: int | None = field(default=None, metadata={"help": "fewest frames of a clip"})
    max_zoom_frames: int | None = field(default=None, metadata={"help": "most frames of a clip"})
    window_margin: str | None = field(
        default=None, metadata={"help": "clips of turn one's windows: none (as named, paper) or half a stride more"}
    )
    frame_size: int | None = field(default=None, metadata={"help": "square side frames are shown in"})
    frame_fit: str | None = field(
        default=None, metadata={"help": "frames keep their shape in that square (pad) or fill it (squeeze)"}
    )
    max_pixels: Annotated[int | None, NOT_NEGATIVE] = field(
        default=None, metadata={"help": "pixel budget of one frame in the processor; none or 0: the processor's own"}
    )
    max_tokens: Annotated[int | None, AT_LEAST_ONE] = field(
        default=None, metadata={"help": "longer samples are left out and named, never cut"}
    )
    eval_samples: Annotated[int, NOT_NEGATIVE] = field(
        default=4, metadata={"help": "held-out answers written to TensorBoard at evaluations"}
    )
    merge_lora: bool = field(default=True, metadata={"help": "export merged weights; false exports the adapter"})
    domain_videos: Annotated[int, NOT_NEGATIVE] = field(
        default=560,
        metadata={
            "help": "stage 2: scans that domain.safetensors is fitted on, which tells unfamiliar videos; 0: none"
        },
    )
    resume: bool = field(default=True, metadata={"help": "continue from the last complete checkpoint"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan (counts, memory, time) and stop"})
    plan_model: str | None = field(
        default=None, metadata={"help": "dry run: plan for this model (folder not there yet)"}
    )
    num_gpus: Annotated[int | None, NOT_NEGATIVE] = field(
        default=None, metadata={"help": "dry run: GPUs to plan for (8; 0 with use_cpu)"}
    )
    peak_tflops: Annotated[float, ABOVE_ZERO] = field(
        default=989.0, metadata={"help": "dry run: dense bf16 peak of one GPU"}
    )
    gpu_memory_gib: Annotated[float, ABOVE_ZERO] = field(default=141.0, metadata={"help": "dry run: memory of one GPU"})

    def __post_init__(self) -> None:
        check_settings(self)
        for name in JUDGE_SETTINGS:
            if (value := getattr(self, name)) is not None:
                check_setting(JudgeConfig, name, value)


def parse_stage(
    arguments: Sequence[str] | None = None, presets: Path | None = None, options: type[StageArguments] = StageArguments
) -> tuple[Any, Any, Any]:
    """(StageArguments, SFTConfig, ModelConfig) from ``--config file.yaml`` and further options, in the grammar of
    :mod:`reward_model.engine.settings`.

    Args:
        arguments: the command line; by default that of the program.
        presets: folder of the settings files that ``--config`` may name without path and ending.
        options: class of the first of the three, where a caller's parts have options of their own.

    Raises:
        ValueError: the file or the command line names an unknown setting, or one has a value of the wrong kind.
        ImportError: TRL is not installed; the message has the pip line.
    """
    args, rest = settings_parser(None, default=None, dry_run="").parse_known_args(arguments)
    settings = read_yaml(find_config(args.config, presets)) if args.config else {}
    named = [_setting_name(word) for word in [*rest, *(f"--{text}" for text in args.set)]]
    if not args.config and "model_name_or_path" not in named:
        raise ValueError(
            f"no settings are given: name a file or a preset ({_presets_hint(presets)}), or --model-name-or-path"
        )
    for package in ("trl", "datasets", "tensorboard"):
        need(package, "training stages 1 and 2")
    for name, value in dict(settings.pop("env", None) or {}).items():
        os.environ[name] = str(value)
    settings = changed(settings, args.set)
    if settings.get("model_name_or_path"):
        settings["model_name_or_path"] = located(str(settings["model_name_or_path"]))
    on_cpu = _names_cpu(rest, settings)
    if args.dry_run:
        rest = [*rest, "--dry_run", "true", "--use_cpu", "true"]  # planning must not ask for the GPU it plans for
    stage, config, model = _dataclasses(options, settings, rest, where=str(args.config or "--set"))
    if args.dry_run and on_cpu and stage.num_gpus is None:
        stage.num_gpus = 0
    return stage, config, model


def _dataclasses(
    options: type[StageArguments], settings: Mapping[str, Any], words: Sequence[str], *, where: str
) -> tuple[Any, Any, Any]:
    """The three dataclasses from the settings of a file and the words of a command line, which win."""
    from trl import ModelConfig, SFTConfig, TrlParser

    from reward_model.training.sft.trainer import SHARED

    parser = TrlParser((options, SFTConfig, ModelConfig))
    parser.error = _refuse
    known = {action.dest for action in parser._actions}
    check_known(settings, known, where=where)
    parser.set_defaults_with_config(**SHARED)
    parser.set_defaults_with_config(**as_declared(options, settings))
    stage, config, model, unknown = parser.parse_args_into_dataclasses(args=list(words), return_remaining_strings=True)
    check_known([_setting_name(word) for word in unknown], known, where="")
    return stage, config, model


def _refuse(message: str) -> NoReturn:
    """One line, where argparse prints the names of 200 options before it."""
    raise ValueError(message)


def _setting_name(word: str) -> str:
    """``--max-steps=3`` -> ``max_steps``."""
    return word.lstrip("-").partition("=")[0].replace("-", "_")


def _presets_hint(presets: Path | None) -> str:
    names = sorted(p.stem for p in presets.glob("*.yaml")) if presets is not None else []
    return f"--config {names[0]}, of the presets {', '.join(names)}" if names else "--config FILE"


def stage_settings_text(options: type[StageArguments] = StageArguments) -> str:
    """Every setting of stages 1 and 2 that is not TRL's own: name, default and meaning."""
    trl = "Besides: every field of TRL's SFTConfig and ModelConfig, such as max_steps or lora_r."
    return f"{settings_text(options)}\n{trl}"


def _names_cpu(words: Sequence[str], settings: Mapping[str, Any]) -> bool:
    """True if the command line, or else the settings, say ``use_cpu``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--use_cpu", "--use-cpu", nargs="?", const="true")
    known, _ = parser.parse_known_args(words)
    said = settings.get("use_cpu") if known.use_cpu is None else known.use_cpu
    return str(said).lower() in ("true", "1", "yes", "t", "y")
