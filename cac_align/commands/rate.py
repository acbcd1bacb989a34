"""``cac-align rate``: people judge videos, or review annotations, on a local web page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cac_align.commands.judge_options import add_judge_arguments, build_judge_reward

if TYPE_CHECKING:
    from cac_align.rating.study import Study

NAME, HELP = "rate", "Let people judge videos, or review annotations, on a local web page."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="folder of videos; answers go to DIR/ratings")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8808, help="port; 0 takes any free one (default: 8808)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name by which others reach this machine"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of each person's order (default: 0)")
    parser.add_argument("--export", action="store_true", help="write the results to DIR/ratings and stop")
    parser.add_argument(
        "--verdicts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the judge's verdicts (score --json, or result.json of best-of-n), shown after a person has answered",
    )
    parser.add_argument(
        "--judge", action="store_true", help="judge the videos first; verdicts are kept in DIR/ratings/verdicts.json"
    )
    group = parser.add_argument_group("review")
    group.add_argument(
        "--review", type=Path, metavar="JSONL", help="accept or return these annotations of DIR's videos"
    )
    group.add_argument(
        "--spot-check", nargs="+", metavar="NAME", help="round two: these people check a share of what was accepted"
    )
    group.add_argument("--fraction", type=float, default=0.1, help="share of each batch checked (default: 0.1)")
    group.add_argument("--threshold", type=float, default=0.95, help="a batch is kept above this (default: 0.95)")
    add_judge_arguments(parser)


def run(args: argparse.Namespace) -> int:
    _check(args)
    study = _open(args)
    try:
        for note in study.notes:
            print(f"cac-align: {note}", file=sys.stderr)
        return _export(study) if args.export else _serve(study, args)
    finally:
        study.close()


def _check(args: argparse.Namespace) -> None:
    if args.spot_check and not args.review:
        raise ValueError("--spot-check needs --review JSONL: the annotations whose review is checked")
    if args.review and (args.verdicts or args.judge):
        raise ValueError("--review shows the annotator's work; --verdicts and --judge belong to plain rating")


def _open(args: argparse.Namespace) -> Study:
    from cac_align.rating.study import open_rating, open_review, open_spot_check

    if args.spot_check:
        return open_spot_check(
            args.directory,
            args.review,
            args.spot_check,
            fraction=args.fraction,
            seed=args.seed,
            threshold=args.threshold,
        )
    if args.review:
        return open_review(args.directory, args.review, seed=args.seed, threshold=args.threshold)
    verdicts = list(args.verdicts or [])
    if args.judge:
        verdicts.append(_judge(args))
    return open_rating(args.directory, seed=args.seed, verdicts=verdicts)


def _judge(args: argparse.Namespace) -> Path:
    """Judges every video that has no verdict yet; returns the file of verdicts."""
    from cac_align.rating.folder import RATINGS, find_ratable_videos, inside
    from reward_model.data.formats.verdicts import read_entries
    from reward_model.files import write_text

    path = inside(args.directory, f"{RATINGS}/verdicts.json")
    known = read_entries(path) if path.is_file() else []
    done = {entry["video"] for entry in known}
    videos = [v for v in find_ratable_videos(args.directory)[0] if v.path not in done]
    if videos:
        print(f"judging {len(videos)} video(s)", file=sys.stderr)
        paths = [str(inside(args.directory, v.path)) for v in videos]
        verdicts = build_judge_reward(args).judge_batch(paths, [v.prompt for v in videos])
        known += [
            {"video": v.path, "score": w.score, "status": w.status, "error": w.error, "verdict": w.to_dict()}
            for v, w in zip(videos, verdicts, strict=True)
        ]
        write_text(path, json.dumps(known, indent=1) + "\n")
    return path


def _export(study: Study) -> int:
    for path in study.export():
        print(path)
    return 0


def _serve(study: Study, args: argparse.Namespace) -> int:
    try:
        import werkzeug  # noqa: F401
    except ImportError as error:
        raise ImportError("cac-align rate needs a web library: pip install 'cac-align[rate]'") from error
    from cac_align.rating.server import address, open_server

    server = open_server(study, args.host, args.port, args.allow_host)
    print(f"{len(study.store.items)} video(s) to judge at {address(server, args.host)}", flush=True)
    print(f"every answer is kept in {args.directory / 'ratings'}; Ctrl-C stops", flush=True)
    server.serve_forever()  # returns on Ctrl-C, and closes its socket
    print("stopped; start again to go on, or write the results with --export", flush=True)
    return 0
