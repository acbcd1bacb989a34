"""Repeats the table of docs/second_look.md: when two turns decide better than one, and what stage 3 makes of it.

    python recipes/second_look.py --dry-run                                   # the plan and its cost
    python recipes/second_look.py                                             # one seed, under an hour on two cores
    python recipes/second_look.py --seeds 0 1 2 --variants                    # the whole ablation
    python recipes/second_look.py --variants batch_deviation+without_time     # one more row
    python recipes/second_look.py --model outputs/mine --set supervision=people samples=3200

From a judge: stage 2 on videos that turn one mostly cannot decide, from it stage 3 in several variants, each measured
after one turn and after two on seeds of no training. It runs the stage recipes in processes of their own; a stopped run
continues. Writes tables.md and tables.json after every judge.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.engine.settings import parse_settings, settings_parser
from reward_model.terminal.parser import CommandParser
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    import argparse

    from reward_model.second_look.settings import SecondLookConfig

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PRESETS = Path(__file__).resolve().parent / "configs" / "second_look"
MINI = PRESETS / "mini.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, trains, measures, prints the tables."""
    args = parse(arguments)
    if args.list_settings:
        from reward_model.second_look.settings import SecondLookConfig

        print(inspect.getdoc(SecondLookConfig))
        return 0
    chosen = settings(args)
    from reward_model.second_look.experiment import (
        ablation_command,
        chosen_variants,
        describe_experiment,
        run_experiment,
    )

    variants = chosen_variants(chosen, args.variants)
    if args.dry_run:
        print(describe_experiment(chosen, variants))
        return 0
    quiet_bars("transformers")
    for text in ("the embedded mini judge is demo-scale", ".* is demo-scale: its judge.json says"):
        warnings.filterwarnings("ignore", message=text)
    tables, written = run_experiment(chosen, variants, say)
    print("\n" + "\n".join(t.to_text() for t in tables))
    print("written: " + ", ".join(map(str, written)))
    print(f"beside the paper's Table 3: {ablation_command(chosen, variants)}")
    return 0


def settings(args: argparse.Namespace) -> SecondLookConfig:
    """The file's settings with those of the command line over them.

    Raises:
        ValueError: if a setting is unknown or wrong.
    """
    from reward_model.second_look.settings import read_second_look

    return read_second_look(args.config, args.set)


def check(chosen: SecondLookConfig) -> None:
    """Raises ValueError for a variant that does not exist, or settings of a stage that cannot be."""
    from reward_model.second_look.stage_runs import plan_runs

    plan_runs(chosen, [*chosen.variants, *chosen.ablation])


def parser() -> CommandParser:
    """The options that are not settings."""
    found = settings_parser(__doc__, default=MINI, dry_run="print trainings, videos and cost, and stop")
    found.add_argument(
        "--variants",
        nargs="*",
        default=None,
        metavar="NAME",
        help="variants of stage 3 beside those of the settings: names of configs/stage3/variants.yaml, a+b lays one "
        "over another; without a name the ablation of the settings",
    )
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    return parse_settings(parser(), arguments, presets=PRESETS)


def say(text: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main, "second_look", resumes=True, level=logging.WARNING))
