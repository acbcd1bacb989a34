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
from cac_align.selection.costs import as_count
from cac_align.table2.adapters import adapter_needs
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
    found += adapter_needs(settings)
    return list(dict.fromkeys(found))


def plan_lines(settings: TableSettings, made: Sequence[Training], drawn: Sequence[Source]) -> list[str]:
    """Lines that say what will be done, and what exists already."""
    items = len(settings.prompts) * len(settings.eval_seeds)
    videos = sum(s.count for s in drawn) * items
    folder = Path(settings.output_dir) / "videos"
    there = sum(1 for _ in folder.rglob("candidates/[0-9]*.npz")) if folder.is_dir() else 0
    costs = _training_costs(made)
    lines = [
        f"{t.name}: {t.config.max_steps} steps of {t.config.samples_per_step} videos, "
        f"{costs[t.row.slug][0]:,} forwards{_state(t)}"
        for t in made
    ]
    base, loras = ([s for s in drawn if (s.seed is None) == untouched] for untouched in (True, False))
    lines.append(
        f"{videos} videos: {len(settings.prompts)} prompts x {len(settings.eval_seeds)} first latents x "
        f"({sum(s.count for s in base)} of the untouched model + {sum(s.count for s in loras)} of "
        f"{len({s.lora for s in loras})} LoRAs); {there} are drawn"
    )
    for row in settings.table_rows:
        drawing, count = settings.drawing_of(row), settings.candidates(row)
        several = f", best of {count}" if row.kind == "best_of_n" else ""
        lines.append(f"{row.name}: {drawing}{several}: {count * drawing.forwards} forwards a delivered video")
    names = [*settings.reward_specs, *(c.name for c in settings.table_columns)]
    return [*lines, f"each scored once by {', '.join(names)}", f"everything in {settings.output_dir}"]


def time_lines(settings: TableSettings, made: Sequence[Training], drawn: Sequence[Source]) -> list[str]:
    """Hours from the seconds of the settings; without them, the transformer's arithmetic at a rate one can scale."""
    items = len(settings.prompts) * len(settings.eval_seeds)
    videos = sum(s.count for s in drawn) * items
    trained = sum(t.config.max_steps * t.config.samples_per_step for t in made)
    seconds = settings.seconds
    own = settings.drawing
    forwards = sum(s.count * (s.drawing or own).forwards for s in drawn) * items
    lines = []
    counts = {
        "train_video": trained,
        "draw": _number(forwards / own.forwards),
        **dict.fromkeys(settings.reward_specs, videos),
    }
    total = 0.0
    for name, count in counts.items():
        if name in seconds:
            total += count * seconds[name]
            lines.append(f"{name}: {count} x {seconds[name]:g} s = {count * seconds[name] / 3600:.2f} h")
        else:
            lines.append(f"{name}: {count} videos; seconds.{name} is not set")
    if any(s.drawing for s in drawn):
        lines.append(f"draw counts {videos} videos by their forwards, as so many in {own}")
    lines.append(f"together {total / 3600:.2f} h of one process; trainings and videos are shared between processes")
    lines.append(
        f"transformer: {_flops(settings, made, forwards):.2e} FLOP, reckoned from parameters, tokens and attention"
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


def _flops(settings: TableSettings, made: Sequence[Training], forwards: int) -> float:
    """Operations of the transformer in all draws and trainings; a backward pass counts as two forward ones."""
    from cac_align.flow_grpo.plan import make_run_plan

    costs = _training_costs(made)
    return make_run_plan(settings.video).flop * forwards + sum(costs[training.row.slug][1] for training in made)


def _training_costs(made: Sequence[Training]) -> dict[str, tuple[int, float]]:
    """Forwards and operations of one training of each row; seeds of a row cost the same."""
    from cac_align.flow_grpo.plan import make_run_plan

    found: dict[str, tuple[int, float]] = {}
    for training in made:
        if training.row.slug not in found:
            plan, steps = make_run_plan(training.config), training.config.max_steps
            drawn, learned = plan.forwards_sampling, plan.forwards_training
            found[training.row.slug] = ((drawn + learned) * steps, plan.flop * steps * (drawn + 3 * learned))
    return found


def _number(value: float) -> float:
    """A count, rounded to a tenth where it is not whole."""
    return as_count(round(value, 1))


def _state(training: Training) -> str:
    return " (done)" if training.done() else " (begun)" if any(training.folder.glob("checkpoint-*")) else ""
