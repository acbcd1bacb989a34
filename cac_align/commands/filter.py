"""``cac-align filter``: rows of a table of verdicts that meet a condition, as a manifest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward_model.terminal.program import printable

NAME, HELP = "filter", "Keep rows of a table by a condition or a quantile, and write them as a manifest."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE", help="table of cac-align score --table, or a manifest")
    parser.add_argument(
        "--where", metavar="CONDITION", help="""condition on columns, such as 'score > 0.8 and status == "normal"'"""
    )
    parser.add_argument(
        "--quantile", type=float, metavar="Q", help="of the rest, rows at or above this quantile: 0.9 is the top tenth"
    )
    parser.add_argument("--by", default="score", metavar="COLUMN", help="column of the quantile (default: score)")
    parser.add_argument("--within", metavar="COLUMN", help="a quantile for each value of this column, such as prompt")
    parser.add_argument("--lowest", action="store_true", help="rows at or below the quantile instead")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="manifest to write: .parquet, .jsonl or .csv"
    )


def run(args: argparse.Namespace) -> int:
    from cac_align.corpus.table_files import Own, check_table_name, read_table_rows, rebased, write_table
    from cac_align.corpus.verdict_rows import KINDS
    from reward_model.files import check_output_folder

    _check(args)
    check_table_name(args.output, "--output")
    check_output_folder(args.output.parent)
    rows = read_table_rows(args.table, KINDS)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    kept = _kept(rows, columns, args)
    if not kept:
        print(f"cac-align: none of {len(rows)} rows is kept; {printable(args.output)} is not written", file=sys.stderr)
        return 1
    for row in kept:
        if isinstance(row.get("video"), str):
            row["video"] = rebased(row["video"], args.table.parent, args.output.parent)
    kinds: dict[str, Any] = {name: KINDS.get(name) or Own([row.get(name) for row in kept]) for name in columns}
    write_table(args.output, ({name: row.get(name) for name in columns} for row in kept), kinds)
    print(f"{printable(args.output)}: {len(kept)} of {len(rows)} rows")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for options that cannot be meant."""
    if args.where is None and args.quantile is None:
        raise ValueError("nothing to keep rows by; give --where, --quantile or both")
    if args.quantile is None and (args.within or args.lowest):
        raise ValueError("--within and --lowest are for --quantile")
    if args.output.exists() and args.table.exists() and args.output.samefile(args.table):
        raise ValueError(f"--output {str(args.output)!r} is the table itself; name another file")


def _kept(rows: list[dict[str, Any]], columns: Sequence[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that hold by the condition, and of these those beyond the quantile."""
    from cac_align.corpus.conditions import RowCondition, beyond_quantile

    if args.where is not None:
        holds = RowCondition(args.where, columns)
        rows = [row for row in rows if holds(row)]
    if args.quantile is None or not rows:
        return rows
    keeps = beyond_quantile(rows, args.quantile, by=args.by, within=args.within, lowest=args.lowest)
    return [row for row, keep in zip(rows, keeps, strict=True) if keep]
