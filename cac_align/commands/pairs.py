"""``cac-align pairs``: judged candidates as preference pairs, in the formats others train on."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reward_model.terminal.program import printable

if TYPE_CHECKING:
    import numpy as np

    from cac_align.corpus.conditions import Row
    from cac_align.corpus.pair_files import JudgedPair
    from cac_align.rewards.unified import UnifiedReward

NAME, HELP = "pairs", "Make preference pairs of judged candidates of the same prompt."
UNIFIED = "unified"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder of cac-align best-of-n, or with such folders below it, or table of cac-align score --table",
    )
    parser.add_argument(
        "--by",
        nargs="+",
        default=["score"],
        metavar="COLUMN",
        help="columns of scores that must all prefer the same video: of a table, or members of a composite reward "
        "(default: score)",
    )
    parser.add_argument(
        "--margin",
        nargs="+",
        type=float,
        default=[0.0],
        metavar="M",
        help="least difference: one for all columns, or one for each (default: 0, and a tie is never a pair)",
    )
    parser.add_argument(
        "--pick",
        choices=("widest", "random", "all"),
        default="widest",
        help="of each prompt, the pair farthest apart by the first column, one drawn, or all (default: widest)",
    )
    parser.add_argument(
        "--rank-by",
        choices=("verdict", "score"),
        default="verdict",
        help="verdict: a video judged abnormal is never chosen over another; score: scores alone (default: verdict)",
    )
    parser.add_argument(
        "--within", nargs="+", default=[], metavar="COLUMN", help="columns that both videos must share, beside prompt"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")
    parser.add_argument(
        "--format",
        choices=("preference", "labelled", "winners"),
        default="preference",
        help="prompt/chosen/rejected as in TRL; caption/video_0/video_1/label_0 as in Pick-a-Pic; or the chosen videos "
        "alone, for fine-tuning (default: preference)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="file to write: .jsonl, .parquet or .csv"
    )
    _add_unified_arguments(parser)


def _add_unified_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a UnifiedReward model, which must agree")
    group.add_argument(
        "--unified",
        choices=("point", "pair"),
        help="ask it too: for a score of each video, or to compare two, in both orders; those two must agree",
    )
    group.add_argument(
        "--unified-margin",
        type=float,
        default=0.0,
        metavar="M",
        help="its least difference of scores, or of the shares of the two videos (default: 0)",
    )
    group.add_argument("--unified-model", metavar="MODEL", help="folder, hub id or name on a server")
    group.add_argument(
        "--unified-protocol", metavar="NAME", help="protocol of the checkpoint: aps, video5, think_pair, flex_pair, ..."
    )
    group.add_argument(
        "--unified-backend", choices=("local", "openai", "replay"), default="local", help="who runs it (default: local)"
    )
    group.add_argument("--unified-url", metavar="URL", help="address of its server")


def run(args: argparse.Namespace) -> int:
    from cac_align.corpus.judged import column_names, group_candidates, read_candidates
    from cac_align.corpus.pair_files import write_pairs
    from cac_align.corpus.table_files import check_table_name
    from reward_model.files import check_output_folder

    margins = _margins(args)
    check_table_name(args.output, "--output")
    check_output_folder(args.output.parent)
    _check_not_a_source(args)
    unified = _open_unified(args)
    rows = read_candidates(args.sources)
    columns = column_names(rows)
    if missing := [name for name in args.by if name not in columns]:
        raise ValueError(f"--by {missing[0]!r} is not a column of the candidates; columns: {', '.join(columns)}")
    groups = group_candidates(rows, args.within)
    pairs: list[JudgedPair] = []
    left_out: Counter[str] = Counter()
    for group in groups:
        found, reasons = _pairs_of(group, args, margins, unified)
        pairs += found
        left_out += reasons
    told = ", ".join(f"{count} {_REASONS[reason]}" for reason, count in sorted(left_out.items()))
    others = f"; left out: {told}" if told else ""
    if not pairs:
        print(
            f"cac-align: {len(rows)} candidates of {len(groups)} prompts make no pair{others}; "
            f"{printable(args.output)} is not written",
            file=sys.stderr,
        )
        return 1
    count = write_pairs(args.output, pairs, args.format, args.seed)
    kind = "winners" if args.format == "winners" else "pairs"
    print(f"{printable(args.output)}: {kind}: {count}, of {len(rows)} candidates, {len(groups)} prompts{others}")
    return 0


_REASONS = {
    "close": "closer than the margin",
    "disagree": "on which judges disagree",
    "spare": "not picked",
    "unjudged": "not judged",
    "verdict": "whose better score has the worse verdict",
}


def _margins(args: argparse.Namespace) -> list[float]:
    """The margin of each judge."""
    if len(args.margin) not in (1, len(args.by)):
        raise ValueError(f"--margin has {len(args.margin)} numbers for {len(args.by)} columns; give one, or one each")
    if len(set(args.by)) < len(args.by):
        raise ValueError("--by names a column twice")
    margins = args.margin * len(args.by) if len(args.margin) == 1 else args.margin
    return margins + ([args.unified_margin] if args.unified else [])


def _check_not_a_source(args: argparse.Namespace) -> None:
    for source in args.sources:
        if args.output.exists() and Path(source).is_file() and args.output.samefile(source):
            raise ValueError(f"--output {str(args.output)!r} is one of the tables itself; name another file")


def _open_unified(args: argparse.Namespace) -> UnifiedReward | None:
    if args.unified is None:
        given = [n for n in ("unified_model", "unified_protocol", "unified_url") if getattr(args, n) is not None]
        if given or args.unified_margin:
            name = (given or ["unified_margin"])[0].replace("_", "-")
            raise ValueError(f"--{name} is for a model that is asked; add --unified point or --unified pair")
        return None
    from cac_align.rewards.unified import POINT_PROTOCOLS, UnifiedReward

    protocol = args.unified_protocol or "aps"
    if args.unified == "point" and protocol not in POINT_PROTOCOLS:
        raise ValueError(
            f"--unified-protocol {protocol!r} scores no single videos; use --unified pair, or one of "
            f"{', '.join(POINT_PROTOCOLS)}"
        )
    return UnifiedReward(args.unified_model, backend=args.unified_backend, protocol=protocol, base_url=args.unified_url)


def _pairs_of(
    group: Sequence[Row],
    args: argparse.Namespace,
    margins: Sequence[float],
    unified: UnifiedReward | None,
) -> tuple[list[JudgedPair], Counter[str]]:
    """The pairs of one prompt, and the reasons of the others."""
    from cac_align.corpus.judged import scores_of
    from cac_align.corpus.pair_files import JudgedPair
    from cac_align.corpus.pairs import find_pairs, score_differences

    judges = list(args.by)
    tables = [score_differences(scores_of(group, name)) for name in judges]
    abnormal = [row.get("status") == "abnormal" for row in group] if args.rank_by == "verdict" else None
    if unified is not None:
        so_far = find_pairs(tables, margins[:-1], abnormal, pick="all").pairs
        asked = sorted({k for pair in so_far for k in (pair.chosen, pair.rejected)})
        tables, judges = [*tables, _ask(unified, group, asked, args.unified)], [*judges, UNIFIED]
    seed = f"{args.seed} {group[0]['prompt']}"
    found = find_pairs(tables, margins, abnormal, pick=args.pick, seed=seed)
    made = [
        JudgedPair(group[p.chosen], group[p.rejected], dict(zip(judges, p.differences, strict=True)))
        for p in found.pairs
    ]
    return made, found.left_out


def _ask(reward: UnifiedReward, group: Sequence[Row], asked: Sequence[int], protocol: str) -> np.ndarray:
    """Its differences, (N, N): only candidates that some pair needs are asked about, NaN elsewhere."""
    import numpy as np

    from cac_align.corpus.pairs import unified_differences

    found = np.full((len(group), len(group)), np.nan)
    if asked:
        videos = [group[k]["video"] for k in asked]
        found[np.ix_(asked, asked)] = unified_differences(reward, videos, group[0]["prompt"], protocol)
    return found
