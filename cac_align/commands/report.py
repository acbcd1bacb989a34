"""``cac-align report``: write the page of a saved result again."""

from __future__ import annotations

import argparse
from pathlib import Path

NAME, HELP = "report", "Write report.html again from a saved result (result.json and candidates/)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder written by best-of-n")


def run(args: argparse.Namespace) -> int:
    from cac_align.selection.run_folder import render_folder

    print(render_folder(args.directory))
    return 0
