"""Commands with steps of their own, such as ``cac-align data validate``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from reward_model.terminal import parser as command_parser

#: Name, help, what adds its arguments, what runs it.
Step = tuple[str, str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]


def add_steps(parser: argparse.ArgumentParser, known: Sequence[Step]) -> None:
    """A subcommand for each step; one has to be chosen."""
    steps = command_parser.add_subcommands(parser, "STEP")
    for name, text, add, run in known:
        sub = steps.add_parser(name, help=text, description=text)
        add(sub)
        sub.set_defaults(step=run)


def run_step(args: argparse.Namespace) -> int:
    """Runs the step that was chosen; its exit code."""
    code: int = args.step(args)
    return code
