"""``cac-align summary``: what a table of verdicts says, in numbers and as a page of videos to look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from reward_model.terminal.program import printable

NAME, HELP = "summary", "Rates with intervals of a table of verdicts, and a page with the worst and best of each type."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE", help="table of cac-align score --table")
    parser.add_argument("--by", metavar="COLUMN", help="also the rates for each value of this column")
    parser.add_argument("--page", type=Path, metavar="HTML", help="write one HTML file with videos of each type")
    parser.add_argument(
        "--videos", type=int, default=2, metavar="N", help="videos on the page at either end of a type (default: 2)"
    )


def run(args: argparse.Namespace) -> int:
    from cac_align.corpus.rates import check_verdicts, rates_by
    from cac_align.corpus.table_files import read_table_rows
    from cac_align.corpus.verdict_rows import KINDS

    if args.videos < 1:
        raise ValueError(f"--videos {args.videos} must be at least 1")
    if args.page is not None and args.page.is_dir():
        raise ValueError(f"--page {str(args.page)!r} is a folder; name a file in it")
    rows = read_table_rows(args.table, KINDS)
    check_verdicts(rows, str(args.table))
    tables = rates_by(rows, args.by)
    for table in tables:
        print(printable(table.to_text(), lines=True))
    if args.page is None:
        return 0
    from cac_align.corpus.gallery import chosen_rows, render_gallery, row_card
    from reward_model.files import write_text
    from reward_model.video.clip import VideoError

    cards = {}
    sections = chosen_rows(rows, args.videos)
    for k in dict.fromkeys(k for section in sections for end in section.ends.values() for k in end):
        try:
            cards[k] = row_card(rows[k], args.table.parent, k)
        except VideoError as error:
            print(f"cac-align: left out of the page: {printable(error)}", file=sys.stderr)
    write_text(args.page, render_gallery(rows, sections, cards, tables, str(args.table)))
    print(printable(args.page))
    return 0
