"""Table 2 of the paper for your own models: base, Best-of-N and Flow-GRPO, each with other rewards, in one command.

    python recipes/table2.py                                        # the minis: over an hour on two CPU cores
    python recipes/table2.py --config recipes/configs/table2/full.yaml --dry-run
    python recipes/table2.py --parts draw score tables --only-row "Flow-GRPO UR+CaC" --seed 1
    python recipes/table2.py --from outputs/table2-mini/results.json --set against='[Best-of-N UR]'
    python recipes/table2.py --set rows='[{name: base}, {name: Best-of-N CaC, kind: best_of_n, rewards: [cac]}]'

Trains what is not trained (recipes/flow_grpo.py, in its own process), draws every video once, has each scored once
by every reward and metric, and writes table2.md, .tex, .json, results.json (every value, from which --from makes the
tables again), correlations.md, .json, curves.png and table2.html with videos before and after. A killed run continues;
start the same line in a second process (or on another machine with the same folder) and both share the work. People's
ratings: cac-align rate OUTPUT/videos-mp4, --export, then --set ratings=OUTPUT/videos-mp4/ratings/consensus.jsonl and
the column anomaly_people.
"""

from __future__ import annotations

import argparse
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
    from collections.abc import Sequence

    from cac_align.table2.settings import TableSettings

# Must be set before torch loads: small models on a CPU lose time to threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
PRESETS = HERE / "configs" / "table2"
MINI = PRESETS / "mini.yaml"
PARTS = ("train", "draw", "score", "tables")


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, does the parts, prints the table."""
    args = parse(arguments)
    if args.list_settings:
        from cac_align.table2.settings import TableSettings

        print(inspect.getdoc(TableSettings))
        return 0
    quiet()
    if args.results is not None:
        from cac_align.table2.output import write_result_tables
        from cac_align.table2.results import read_table_results

        results = read_table_results(args.results, args.set)
        show(write_result_tables(results, args.output or args.results.parent)[0])
        return 0
    from cac_align.table2.job import TableJob

    chosen = settings(args)
    if args.dry_run:
        from cac_align.table2.forecast import forecast

        text, complete = forecast(chosen)
        print(text)
        return 0 if complete else 1
    job = TableJob(chosen, HERE / "flow_grpo.py", say)
    job.work([p for p in args.parts if p != "tables"], row=args.only_row, seed=args.seed)
    if "tables" in args.parts:
        from cac_align.table2.output import write_table_files

        show(write_table_files(job))
    return 0


def show(written: Sequence[Path]) -> None:
    """Prints the first of some files, the tables, and the names of all."""
    from reward_model.statistics.table import plain_text

    print(plain_text(written[0].read_text(encoding="utf-8")))
    print("written: " + ", ".join(str(path) for path in written))


def settings(args: argparse.Namespace) -> TableSettings:
    """The table's settings: the file, and over it the command line; settings of Flow-GRPO go to all trainings.

    Raises:
        ValueError: if a setting is unknown, missing or wrong.
    """
    from dataclasses import fields

    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.table2.settings import TableSettings, read_settings

    own, training = ({f.name for f in fields(kind)} for kind in (TableSettings, FlowGRPOConfig))
    named = [(text.partition("=")[0], text) for text in args.set]
    changes = [f"overrides.{text}" if name in training - own else text for name, text in named]
    return read_settings(args.config, [*changes, *([f"output_dir={args.output}"] if args.output else [])])


def check(chosen: TableSettings) -> None:
    """The settings are checked as they are read."""


def parser() -> CommandParser:
    """The options that are not settings."""
    found = settings_parser(__doc__, default=MINI, dry_run="weights, plan and an estimate; then stop")
    found.add_argument("--output", type=Path, default=None, help="output folder, instead of the config's output_dir")
    found.add_argument(
        "--from",
        dest="results",
        type=Path,
        default=None,
        metavar="RESULTS_JSON",
        help="make the tables again from this file alone, beside it or in --output",
    )
    found.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    found.add_argument("--only-row", default=None, metavar="NAME", help="work for this row only")
    found.add_argument("--seed", type=int, default=None, help="work for this training seed only")
    return found


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    return parse_settings(parser(), arguments, presets=PRESETS)


def quiet() -> None:
    """Prints only what concerns the table."""
    quiet_bars("transformers", "diffusers")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")


def say(text: object) -> None:
    """A line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main, "table2", resumes=True, level=logging.WARNING, form="%(asctime)s %(message)s"))
