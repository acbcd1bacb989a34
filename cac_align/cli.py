"""``cac-align score | best-of-n | report | doctor | data | rate | vbench``.

Exit codes: 0 all is well, 1 a video could not be judged or a check failed, 2 the command was used wrongly or a model
cannot be loaded.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import cac_align
from cac_align.commands import best_of_n, data, doctor, rate, report, score, vbench

COMMANDS = (score, best_of_n, report, doctor, data, rate, vbench)


def build_parser() -> argparse.ArgumentParser:
    """The parser with one subcommand per module of :mod:`cac_align.commands`."""
    parser = argparse.ArgumentParser(
        prog="cac-align",
        description="Judge generated videos for local anomalies, choose the best of n, and prepare data for a judge.",
    )
    parser.add_argument("--version", action="version", version=f"cac-align {cac_align.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = subparsers.add_parser(command.NAME, help=command.HELP, description=command.HELP)
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; a user's mistake is one line on stderr, never a traceback."""
    args = build_parser().parse_args(argv)
    if argv is None:
        warnings.formatwarning = _warning_line
    from cac_align.rewards.base import RewardError
    from reward_model.backends.base import BackendError

    try:
        return args.run(args)
    except RewardError as error:
        return _fail(error, 1)
    except (ValueError, OSError, BackendError, ImportError) as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        print("cac-align: interrupted", file=sys.stderr)
        return 130


def _warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning as people at a terminal want it: without the line of code it comes from."""
    return f"cac-align: warning: {message}\n"


def _fail(error: Exception, code: int) -> int:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print("\n  ".join([f"cac-align: error: {lines[0]}", *map(str.strip, lines[1:])]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
