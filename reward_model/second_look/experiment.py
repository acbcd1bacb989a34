"""The experiment from settings to tables: trains what is not trained, judges what is not judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from reward_model.evaluation.benches.bench import DEV_SECOND_LOOK_SEED, SECOND_LOOK_SEED, Bench
from reward_model.evaluation.benches.names import open_bench
from reward_model.evaluation.benches.second_look import SecondLookBench
from reward_model.evaluation.running.contestants import ModelSource, judge_contestant
from reward_model.evaluation.running.row import Row
from reward_model.evaluation.running.suite import measured_rows, run_suite
from reward_model.files import write_text
from reward_model.folders import hold
from reward_model.second_look.settings import OWN_BENCHES, SecondLookConfig
from reward_model.second_look.stage_runs import GIVEN, STAGE2, StageRun, plan_runs
from reward_model.second_look.tables import difference_table, ladder_table, parts_table
from reward_model.statistics.table import Table

#: Rows of every judge: bench -> row of the tables -> seed.
Judged = dict[str, dict[str, list[list[Row]]]]
_HOUR = 3600.0
#: Variants of the full reward that the paper's Table 3 has a row for, and its key in evaluate_reward.
_TABLE3 = {
    "one_turn": "no-two-turn",
    "without_time": "no-temporal",
    "without_space": "no-spatial",
    "without_types": "no-attribution",
}


def run_experiment(
    config: SecondLookConfig, variants: Sequence[str], say: Callable[[str], Any] = print
) -> tuple[list[Table], list[Path]]:
    """Trains and judges what is missing, and writes the tables after every judge: ``tables.md`` and ``tables.json``.

    Args:
        config: settings.
        variants: variants of stage 3 to train, see :func:`chosen_variants`.
        say: told of progress.

    Returns:
        The tables and the files written.

    Raises:
        ValueError: if a setting cannot be, a folder holds another experiment, or a training fails.
    """
    output = Path(config.output_dir)
    plan = plan_runs(config, variants)
    with hold(output):
        benches = open_benches(config)
        judged: Judged = {name: {} for name in benches}
        for run in (None, *plan):  # the given judge first
            if run is not None and not run.done():
                say(f"{run.name}: {run.steps} steps, log in {run.folder / 'train.log'}")
                run.run(config.processes)
            row, name, judge = (GIVEN, GIVEN, config.model) if run is None else (run.row, run.name, str(run.judge))
            contestant = judge_contestant(name, ModelSource(judge))
            found = run_suite([contestant], benches, output, batch_size=config.batch_size, num_resamples=1, say=say)
            for bench, results in found.items():
                judged[bench].setdefault(row, []).append(measured_rows(results[name]))
            tables = [*_tables(config, judged), cost_table(plan, config.processes)]
            written = _write(output, tables)
    return tables, written


def ablation_command(config: SecondLookConfig, variants: Sequence[str]) -> str:
    """The command that sets the same judges beside the rows of the paper's Table 3, on another bench."""
    keys = {STAGE2: "no-grpo", **({config.full: "full"} if config.full else {})}
    keys |= {f"{config.full}+{name}": key for name, key in _TABLE3.items()}
    folders: dict[str, list[str]] = {}
    for run in plan_runs(config, variants):
        folders.setdefault(keys.get(run.row, run.row), []).append(str(run.judge))
    items = " ".join(f"{key}={','.join(paths)}" for key, paths in folders.items())
    return f"python recipes/evaluate_reward.py --bench demanding --ablation {items}"


def chosen_variants(config: SecondLookConfig, added: Sequence[str] | None) -> list[str]:
    """Variants of stage 3: those of the settings, and with ``--variants`` the named ones, or without names those of the
    ablation.
    """
    more = [] if added is None else list(added) or list(config.ablation)
    return list(dict.fromkeys([*config.variants, *more]))


def open_benches(config: SecondLookConfig) -> dict[str, Bench]:
    """The benches by name; those of the experiment's own stories with its stories and kinds."""
    seeds = dict(zip(OWN_BENCHES, (SECOND_LOOK_SEED, DEV_SECOND_LOOK_SEED), strict=True))
    found: dict[str, Bench] = {}
    for name in config.benches:
        if name in seeds:
            videos = {} if config.bench_videos is None else {"num_videos": config.bench_videos}
            found[name] = SecondLookBench(seed=seeds[name], stories=config.stories, kinds=tuple(config.kinds), **videos)
        else:
            found[name] = open_bench(name)[1]
    return found


def describe_experiment(config: SecondLookConfig, variants: Sequence[str]) -> str:
    """The text of ``--dry-run``: trainings, what of them is done, videos to judge, and hours by ``seconds``."""
    plan = plan_runs(config, variants)
    videos = sum(map(len, open_benches(config).values())) * (1 + len(plan))
    lines = [f"second look from {config.model}, everything in {config.output_dir}"]
    lines += [f"  {t.name}: {t.steps} steps of {t.recipe}{', done' if t.done() else ''}" for t in plan]
    lines.append(f"  {videos} videos judged, {', '.join(config.benches)}, {1 + len(plan)} judges")
    known = config.seconds
    if {"stage2_step", "stage3_step", "video"} <= set(known):
        training = sum(t.steps * known[f"{t.stage}_step"] for t in plan if not t.done())
        hours = (training / config.processes + videos * known["video"]) / _HOUR
        rates = ", ".join(f"{name.replace('_', ' ')} {value:g} s" for name, value in known.items())
        lines.append(f"  about {hours:.1f} hours on {config.processes} core(s), by {rates} of one core")
    else:
        lines.append("  no estimate of time: the settings hold no seconds")
    return "\n".join(lines)


def cost_table(plan: Sequence[StageRun], processes: int) -> Table:
    """Steps and minutes of every training."""
    rows = [(t.row, t.seed, t.steps, None if (s := t.seconds()) is None else s / 60) for t in plan]
    note = f"Wall-clock minutes of this machine, {processes} process(es) a training."
    return Table("Cost", ("training", "seed", "steps", "minutes"), [rows], (note,))


def _tables(config: SecondLookConfig, judged: Judged) -> list[Table]:
    tables: list[Table] = []
    options = {"num_resamples": config.num_resamples}
    for bench, judges in judged.items():
        tables += [ladder_table(bench, judges, **options), parts_table(bench, judges, **options)]
        for against in (STAGE2, config.full):
            # Of a run that was stopped, rows with the seeds that both have.
            names = [n for n in judges if n not in (GIVEN, STAGE2, against) and _same_seeds(judges, n, against)]
            if against in judges and names:
                tables.append(difference_table(bench, judges, against, names, **options))
    return tables


def _same_seeds(judges: dict[str, list[list[Row]]], name: str, against: str | None) -> bool:
    return against in judges and len(judges[name]) == len(judges[against])


def _write(output: Path, tables: Sequence[Table]) -> list[Path]:
    data = json.dumps([t.to_dict() for t in tables], indent=1, allow_nan=False) + "\n"
    return [
        write_text(output / "tables.md", "\n".join(t.to_markdown() for t in tables)),
        write_text(output / "tables.json", data),
    ]
