"""``cac-align data``: look after annotated videos. One sub-subcommand per step, from the annotators to the splits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.commands import data_formats, data_show
from cac_align.commands.steps import add_steps, run_step
from reward_model.files import check_output_folder
from reward_model.terminal.program import printable

if TYPE_CHECKING:
    from reward_model.data.validation import Problem

#: Problems of a file that are printed unless more are asked for.
SHOWN = 50
NAME, HELP = "data", "Validate, split, count, show, review, import, export and make annotated videos (JSONL)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_steps(parser, STEPS)


def run(args: argparse.Namespace) -> int:
    return run_step(args)


def add_source(parser: argparse.ArgumentParser) -> None:
    """The annotation file and how far it is checked."""
    parser.add_argument("annotations", type=Path, metavar="JSONL", help="annotation file, one video per line")
    parser.add_argument(
        "--video-root", type=Path, metavar="DIR", help="folder of the videos (default: that of the file)"
    )
    parser.add_argument("--no-videos", action="store_true", help="do not look at the video files")


def read_source(args: argparse.Namespace) -> list[Any]:
    """The records of the annotation file; every problem is listed if there is one."""
    from reward_model.data.annotations import read_annotations

    return read_annotations(args.annotations, video_root=args.video_root, check_videos=not args.no_videos)


def print_problems(problems: Iterable[Problem]) -> None:
    """One line each on stderr."""
    for problem in problems:
        print(printable(problem), file=sys.stderr)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--json", action="store_true", help="print all problems as one JSON list")
    parser.add_argument(
        "--show", type=int, default=SHOWN, metavar="N", help=f"print the first N problems; 0: all (default: {SHOWN})"
    )


def _validate(args: argparse.Namespace) -> int:
    from reward_model.data.validation import validate_annotations

    report = validate_annotations(
        args.annotations, video_root=args.video_root, check_videos=not args.no_videos, strict=args.strict
    )
    if args.json:
        print(json.dumps([p.__dict__ for p in report.problems], indent=1))
    else:
        shown = report.problems[: args.show or None]
        for problem in shown:
            print(printable(problem))
        if more := len(report.problems) - len(shown):
            print(f"... and {more} more; --show 0 prints all")
        counts = f"{len(report.errors)} errors, {len(report.warnings)} warnings"
        print(f"{args.annotations}: {len(report.records)} valid videos, {counts}")
    return 0 if report.ok else 1


def _add_split(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="PATH", help="a .jsonl file, or a folder for one file per split"
    )
    parser.add_argument(
        "--proportions",
        nargs="+",
        metavar="NAME=WEIGHT",
        help="splits and their weights (default: stage1=20 stage2=35 stage3=7.5)",
    )
    parser.add_argument(
        "--test",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the footage for a split 'test' that no stage trains on, such as 0.1 (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument(
        "--balance",
        choices=("drop", "error", "keep"),
        default="drop",
        help="classes per split: drop the surplus, demand 1:1, or keep all (default: drop)",
    )


def _split(args: argparse.Namespace) -> int:
    from reward_model.data.annotations import rebase, write_annotations
    from reward_model.data.splits import STAGE_PROPORTIONS, split_records

    if args.output.suffix not in ("", ".jsonl") and not args.output.is_dir():
        raise ValueError(f"--output {str(args.output)!r} must end in .jsonl, or be a folder's name without an ending")
    proportions = _proportions(args.proportions) if args.proportions else STAGE_PROPORTIONS
    outcome = split_records(read_source(args), proportions, seed=args.seed, balance=args.balance, test=args.test)
    if args.output.suffix == ".jsonl":
        files = {args.output: outcome.records}
    else:
        splits = outcome.counts()
        files = {args.output / f"{s}.jsonl": [r for r in outcome.records if r.split == s] for s in splits}
    for path, records in files.items():
        print(write_annotations(path, rebase(records, args.annotations, path, args.video_root)))
    for split, counts in outcome.counts().items():
        print(f"{split:<12}{counts['normal']:>8} normal {counts['abnormal']:>8} abnormal")
    if outcome.dropped:
        print(f"{len(outcome.dropped)} videos left out for balance")
    return 0


def _proportions(words: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        name, _, weight = word.partition("=")
        try:
            value = float(weight)
        except ValueError:
            raise ValueError(f"--proportions {word!r} must read like train=0.9") from None
        if name in found or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"--proportions {word!r}: each split needs its own name, of letters and digits")
        found[name] = value
    return found


def _add_stats(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--split", help="count this split only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them: .png, .svg or .pdf")


def _stats(args: argparse.Namespace) -> int:
    from reward_model.data.statistics import dataset_statistics
    from reward_model.data.statistics_plot import plot_statistics
    from reward_model.files import write_text

    records = read_source(args)
    if args.split is not None:
        splits = sorted({r.split for r in records})
        records = [r for r in records if r.split == args.split]
        if not records:
            raise ValueError(f"--split {args.split!r} is empty; the file has {', '.join(map(repr, splits))}")
    counted = dataset_statistics(records)
    print(counted.to_text(), end="")
    if args.json:
        write_text(args.json, json.dumps(counted.to_dict(), indent=1, allow_nan=False) + "\n")
    if args.markdown:
        write_text(args.markdown, counted.to_markdown())
    if args.plot:
        plot_statistics(counted, args.plot)
    return 0


def _add_spot_check(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--reviewers", nargs="+", required=True, metavar="NAME", help="who may check")
    parser.add_argument("--fraction", type=float, default=0.1, help="share of each batch (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--output", type=Path, required=True, metavar="JSONL", help="the videos to check again")


def _spot_check(args: argparse.Namespace) -> int:
    from reward_model.data.annotations import rebase, write_annotations
    from reward_model.data.review import CHECKER_KEY, draw_spot_check

    drawn = draw_spot_check(read_source(args), args.reviewers, fraction=args.fraction, seed=args.seed)
    print(write_annotations(args.output, rebase(drawn, args.annotations, args.output, args.video_root)))
    for name in args.reviewers:
        print(f"{name:<20}{sum(r.extra[CHECKER_KEY] == name for r in drawn):>6} videos")
    return 0


def _add_agreement(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("annotations", type=Path, metavar="JSONL", help="the annotations under review")
    parser.add_argument("checked", type=Path, metavar="CHECKED", help="what the reviewers found, JSONL")
    parser.add_argument("--threshold", type=float, default=0.95, help="a batch is kept above this (default: 0.95)")
    parser.add_argument("--min-window-iou", type=float, default=0.5, help="windows agree above this (default: 0.5)")
    parser.add_argument("--min-box-iou", type=float, default=0.5, help="boxes agree above this (default: 0.5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _agreement(args: argparse.Namespace) -> int:
    from reward_model.data.annotations import read_annotations
    from reward_model.data.review import review_agreement

    first, second = (read_annotations(p, check_videos=False) for p in (args.annotations, args.checked))
    result = review_agreement(
        first,
        second,
        threshold=args.threshold,
        min_window_iou=args.min_window_iou,
        min_box_iou=args.min_box_iou,
    )
    from reward_model.statistics.table import plain_text

    print(json.dumps(result.to_dict(), indent=1) if args.json else plain_text(result.to_markdown()).rstrip())
    return 0 if all(b.kept for b in result.batches) else 1


def _add_corrupt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", type=Path, nargs="+", metavar="PATH", help="a folder of real videos, or files")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="videos and annotations.jsonl")
    parser.add_argument("--per-video", type=int, default=2, metavar="N", help="pairs per video (default: 2)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds or types of anomalies (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--no-normal", action="store_true", help="make no normal twins")
    parser.add_argument("--people", action="store_true", help="the things that move in these videos are people")
    parser.add_argument("--max-frames", type=int, metavar="N", help="use a stretch of at most this many frames")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--restart", action="store_true", help="make all pairs again instead of resuming")
    parser.set_defaults(resumes=True)


def _corrupt(args: argparse.Namespace) -> int:
    from reward_model.data.corruptions.folder import corrupt_folder

    for name in ("per_video", "max_frames", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name}={getattr(args, name)} must be at least 1")
    absent = [p for p in args.videos if not p.exists()]
    if absent:
        raise ValueError(f"no file or folder at {str(absent[0])!r}; name a folder of videos, or video files")
    check_output_folder(args.output)
    folder = len(args.videos) == 1 and args.videos[0].is_dir()
    path = corrupt_folder(
        args.videos[0] if folder else args.videos,
        args.output,
        per_video=args.per_video,
        kinds=args.kinds,
        seed=args.seed,
        normal=not args.no_normal,
        people=args.people,
        max_frames=args.max_frames,
        resume=not args.restart,
        workers=args.workers,
    )
    print(path)
    return 0


def _add_views(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--stage", choices=("stage1", "stage2"), required=True)
    parser.add_argument("--split", help="videos of this split only")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--count", type=int, metavar="N", help="number of samples (default: as many as balance allows)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the answers of the first N samples")


def _views(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from reward_model.data.annotations import video_path
    from reward_model.data.views import StageViews

    records = [r for r in read_source(args) if args.split is None or r.split == args.split]
    found = [replace(r, video=str(video_path(r, args.annotations, args.video_root).absolute())) for r in records]
    views = StageViews(found, args.annotations)
    rows = views.rows(args.stage, seed=args.seed, count=args.count)
    for task in sorted(set(rows["task"])):
        statuses = [s for t, s in zip(rows["task"], rows["status"], strict=True) if t == task]
        print(f"{task:<8}{statuses.count('normal'):>8} normal {statuses.count('abnormal'):>8} abnormal")
    for row in list(rows)[: args.show]:
        truth = records[row["record"]].truth
        frames = ", ".join(map(str, row["indices"]))
        print(f"\n{row['task']} of {truth.video_id}, native frames {frames}\n{views.text(row).answer}")
    return 0


def _add_domain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a judge; domain.safetensors is put there")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--videos", nargs="+", type=Path, metavar="VIDEO", help="video files or folders of the kind it was trained on"
    )
    given.add_argument("--world", type=int, metavar="N", help="N training videos of the procedural world instead")
    parser.add_argument("--footage", default="", metavar="TEXT", help="the kind of footage in words, for judge.json")
    parser.add_argument("--device", help="device of the model (default: CUDA if available)")


def _domain(args: argparse.Namespace) -> int:
    from cac_align.metrics.videos import SUFFIXES
    from reward_model.training.domain_file import LEAST_VIDEOS, procedural_videos, write_domain

    if not args.model.is_dir():
        raise ValueError(f"{str(args.model)!r} must be the folder of a judge: its statistics are written there")
    if args.videos is None:
        videos: Iterable[Any] = procedural_videos(args.world)
        count = args.world
    else:
        absent = [p for p in args.videos if not p.exists()]
        if absent:
            raise ValueError(f"no file or folder at {str(absent[0])!r}; name a folder of videos, or video files")
        found = [p for given in args.videos for p in (sorted(given.rglob("*")) if given.is_dir() else [given])]
        files = [str(p) for p in found if p.is_file() and p.suffix.lower() in SUFFIXES]
        count, videos = len(files), files
    if count < LEAST_VIDEOS:
        raise ValueError(
            f"{count} videos are too few to know a domain by; give at least {LEAST_VIDEOS}, better some hundred"
        )
    print(write_domain(args.model, videos, footage=args.footage, device=args.device))
    return 0


STEPS = [
    ("validate", "List every problem of an annotation file; exit code 1 if one is an error.", _add_validate, _validate),
    ("split", "Give every video a split: disjoint by source footage, 1:1, the same each time.", _add_split, _split),
    ("stats", "Count types, saliency, spans, items and areas; tables, JSON, a figure.", _add_stats, _stats),
    ("spot-check", "Draw a random share of each batch for other reviewers.", _add_spot_check, _spot_check),
    (
        "agreement",
        "Compare a spot check with the annotations; exit code 1 if a batch goes back.",
        _add_agreement,
        _agreement,
    ),
    ("corrupt", "Insert exactly annotated anomalies into real videos, with normal twins.", _add_corrupt, _corrupt),
    ("show", "Show a random sample of annotated videos on one page.", data_show.add_show, data_show.run_show),
    ("views", "Show the samples that a training stage derives from annotated videos.", _add_views, _views),
    ("domain", "Write the statistics by which a judge knows unfamiliar videos.", _add_domain, _domain),
    ("import", "Make an annotation file from another format.", data_formats.add_import, data_formats.run_import),
    ("export", "Write pre-annotated tasks for an annotation tool.", data_formats.add_export, data_formats.run_export),
]
