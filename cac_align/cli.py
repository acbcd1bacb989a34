"""``cac-align score | filter | summary | pairs | best-of-n | report | doctor | data | rate | serve | vbench |
calibrate | lora | train | run``.

Exit codes are those of :mod:`reward_model.terminal.program`: 0 all is well, 1 a video could not be judged or a check
failed, 2 the command was used wrongly or something it needs is missing, 70 a fault of the program, 130 stopped by
Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cac_align.commands import (
    best_of_n,
    calibrate,
    data,
    doctor,
    filter,
    lora,
    pairs,
    rate,
    report,
    score,
    serve,
    summary,
    train,
    vbench,
)
from cac_align.commands.threads import settle_threads
from reward_model.shipped import package_version
from reward_model.terminal.parser import CommandParser, add_subcommands, names_as_typed, walk
from reward_model.terminal.program import LEVELS, run_program, set_verbosity

COMMANDS = (
    score,
    filter,
    summary,
    pairs,
    best_of_n,
    report,
    doctor,
    data,
    rate,
    serve,
    vbench,
    calibrate,
    lora,
    train.TRAIN,
    train.RUN,
)
PROGRAM = "cac-align"


def build_parser() -> argparse.ArgumentParser:
    """The parser with one subcommand per module of :mod:`cac_align.commands`."""
    parser = CommandParser(
        prog=PROGRAM,
        description="Judge generated videos for local anomalies, choose the best of n, and prepare data for a judge.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {package_version()}")
    commands = add_subcommands(parser, "COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
        for leaf in walk(sub):
            leaf.set_defaults(names=names_as_typed(leaf))
            if not getattr(command, "PASSES_ON", False):
                _add_verbosity(leaf)
    return parser


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages").add_mutually_exclusive_group()
    group.add_argument(
        "--quiet", dest="verbosity", action="store_const", const="quiet", help="errors only: no bar, no warning"
    )
    group.add_argument(
        "--verbose",
        dest="verbosity",
        action="store_const",
        const="verbose",
        help="print more, including the messages of libraries",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; a user's mistake is one line on stderr, never a traceback."""
    args = build_parser().parse_args(argv)
    level = getattr(args, "verbosity", None) or "normal"
    if level == "quiet":
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported
    settle_threads(args)
    output = getattr(args, "output", None) or getattr(args, "table", None)

    def work() -> int:
        if level != "normal":
            set_verbosity(level)
        code: int = args.run(args)
        return code

    return run_program(
        work,
        PROGRAM,
        options={**getattr(args, "names", {}), "output_dir": "--output"},
        output=output,
        resumes=output is not None and getattr(args, "resumes", False),
        level=LEVELS[level],
        alone=argv is None,
    )


if __name__ == "__main__":
    sys.exit(main())
