"""Forecast of a table: every weight and whether it exists, the plan, and an estimate of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cac_align.flow_grpo.needs import (
    PIPELINE_FILE,
    Need,
    calibration_need,
    model_need,
    model_of,
    readout_notes,
    reward_needs,
)
from cac_align.metrics.dimensions import check_dimension
from cac_align.metrics.weights import WeightsError
from cac_align.table2.draws import Source, sources
from cac_align.table2.settings import TableSettings
from cac_align.table2.training import Training, trainings


def forecast(settings: TableSettings) -> tuple[str, bool]:
    """The text of ``--dry-run``, and whether all weights are there."""
    made = trainings(settings)
    drawn = sources(settings, {(t.row.slug, t.seed): t for t in made})
    needs = needs_of(settings)
    notes = readout_notes([*settings.reward_specs.values(), *settings.watched])
    lines = ["Weights", *(f"  {need}" for need in needs), *(f"  warning {note}" for note in notes)]
    lines += ["", "Plan", *(f"  {line}" for line in plan_lines(settings, made, drawn))]
    lines += ["", "Estimate (not measured on this machine)", *(f"  {t}" for t in time_lines(settings, made, drawn))]
    lines += [f"  {line}" for line in memory_lines(settings, made)]
    return "\n".join(lines), all(need.state != "missing" for need in needs)


def needs_of(settings: TableSettings) -> list[Need]:
    """Pipeline, judges and VBench's files, each with whether it is there."""
    specs = [*settings.reward_specs.values(), *settings.watched]
    judges = [need for spec, need in zip(specs, reward_needs(specs), strict=True) if model_of(spec) is not None]
    found = [model_need("pipeline", settings.video.model, PIPELINE_FILE, settings.video.revision), *judges]
    dimensions = [c.key.removeprefix("vbench/") for c in settings.table_columns if c.key.startswith("vbench/")]
    for file in dict.fromkeys(w for d in dimensions for w in check_dimension(d, "package").weights):
        try:
            found.append(Need("found", f"VBench {file.find(settings.vbench_cache)}"))
        except WeightsError as error:
            found.append(Need("missing", f"VBench {error}"))
    found += calibration_need(*settings.calibrated)
    return list(dict.fromkeys(found))


def plan_lines(settings: TableSettings, made: Sequence[Training], drawn: Sequence[Source]) -> list[str]:
    """Lines that say what will be done, and what exists already."""
    items = len(settings.prompts) * len(settings.eval_seeds)
    videos = sum(s.count for s in drawn) * items
    folder = Path(settings.output_dir) / "videos"
    there = sum(1 for _ in folder.rglob("candidates/[0-9]*.npz")) if folder.is_dir() else 0
    lines = [f"{t.name}: {t.config.max_steps} steps of {t.config.samples_per_step} videos{_state(t)}" for t in made]
    lines.append(
        f"{videos} videos: {len(settings.prompts)} prompts x {len(settings.eval_seeds)} first latents x "
        f"({drawn[0].count} candidates + {len(drawn) - 1} LoRAs); {there} are drawn"
    )
    names = [*settings.reward_specs, *(c.name for c in settings.table_columns)]
    return [*lines, f"each scored once by {', '.join(names)}", f"everything in {settings.output_dir}"]


def time_lines(settings: TableSettings, made: Sequence[Training], drawn: Sequence[Source]) -> list[str]:
    """Hours from the seconds of the settings; without them, the transformer's arithmetic at a rate one can scale."""
    items = len(settings.prompts) * len(settings.eval_seeds)
    videos = sum(s.count for s in drawn) * items
    trained = sum(t.config.max_steps * t.config.samples_per_step for t in made)
    seconds = settings.seconds
    lines = []
    counts = {"train_video": trained, "draw": videos, **dict.fromkeys(settings.reward_specs, videos)}
    total = 0.0
    for name, count in counts.items():
        if name in seconds:
            total += count * seconds[name]
            lines.append(f"{name}: {count} x {seconds[name]:g} s = {count * seconds[name] / 3600:.2f} h")
        else:
            lines.append(f"{name}: {count} videos; seconds.{name} is not set")
    lines.append(f"together {total / 3600:.2f} h of one process; trainings and videos are shared between processes")
    lines.append(
        f"transformer: {_flops(settings, made, videos):.2e} FLOP, reckoned from parameters, tokens and attention"
    )
    return lines


def memory_lines(settings: TableSettings, made: Sequence[Training]) -> list[str]:
    """Of one training process, by the plan of Flow-GRPO, and of the videos on disk."""
    from cac_align.flow_grpo.plan import make_run_plan

    lines = []
    if made:
        plan = make_run_plan(made[0].config)
        lines.append(f"training: {plan.memory:.1f} GiB a process, without VAE, judges and libraries")
    config = settings.video
    raw = config.num_frames * config.height * config.width * 3 / 2**20
    return [*lines, f"a video: {raw:.1f} MiB of frames before compression, in memory and at most on disk"]


def _flops(settings: TableSettings, made: Sequence[Training], videos: int) -> float:
    """Operations of the transformer in all draws and trainings; a backward pass counts as two forward ones."""
    from cac_align.flow_grpo.plan import make_run_plan

    config = settings.video
    steps = settings.num_inference_steps or config.eval_num_inference_steps or config.num_inference_steps
    total = make_run_plan(config).flop * videos * steps * (2 if config.guided else 1)
    plans = {t.row.slug: make_run_plan(t.config) for t in made}  # seeds of a row cost the same
    for training in made:
        plan = plans[training.row.slug]
        total += plan.flop * training.config.max_steps * (plan.forwards_sampling + 3 * plan.forwards_training)
    return total


def _state(training: Training) -> str:
    return " (done)" if training.done() else " (begun)" if any(training.folder.glob("checkpoint-*")) else ""
