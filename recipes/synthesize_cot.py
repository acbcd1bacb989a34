"""Reasoning for annotated videos: a teacher writes it, the annotation verifies it, at most five rounds per sample.

    python recipes/synthesize_cot.py --world 50 --noise 0.4
    python recipes/synthesize_cot.py --annotations data/annotations.jsonl --teacher gemini-2.5-pro \\
        --base-url https://host/v1 --price-in 1.25 --price-out 10 --output outputs/cot
    python recipes/synthesize_cot.py --annotations data/a.jsonl --backend local --teacher models/vl --verify rule

The first runs offline, on procedural videos and a teacher that knows them and errs on purpose. Every finished call is
written to OUTPUT/ledger.jsonl at once: a stopped run continues there and pays nothing twice. --dry-run only counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.files import check_output_folder
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import run_program

if TYPE_CHECKING:
    from reward_model.backends.base import Backend
    from reward_model.data.records import Record
    from reward_model.data.synthesis.config import AskConfig
    from reward_model.data.synthesis.tasks import Task
    from reward_model.video.clip import Video


def main(arguments: list[str] | None = None) -> int:
    """Plans, says what it will do, asks, verifies, writes the files and prints the table."""
    args = parser().parse_args(arguments)
    check(args)

    from tqdm import tqdm

    from reward_model.data.annotations import read_annotations, video_path
    from reward_model.data.synthesis import AskConfig, Price, RuleConfig, estimate, plan, synthesize, write_outputs
    from reward_model.data.synthesis.world_records import write_world_records
    from reward_model.statistics.table import plain_text
    from reward_model.video.clip import load_video

    annotations = args.annotations or write_world_records(args.output / "world", args.world)
    records = read_annotations(annotations, video_root=args.video_root)
    ask = AskConfig(crop=args.crop, max_crops=args.crops, temperature=args.temperature, seed=args.seed)
    rules = RuleConfig(verify=args.verify, boundary=args.boundary, zoom_window=args.zoom_window)
    most = estimate(tasks := plan(records, ask), rules)
    print(
        f"{most.videos} videos, {most.samples} samples, {most.frames_once} frames shown per round of all.\n"
        f"At most {most.teacher_calls} teacher calls ({most.frames_at_most} frames) and {most.judge_calls} judge "
        f"calls, verify={args.verify}. Ledger: {args.output / 'ledger.jsonl'}",
        flush=True,
    )
    if args.dry_run:
        return 0

    def load(record: Record) -> Video:
        return load_video(video_path(record, annotations, args.video_root), record.truth.fps)

    teacher, judge = _models(args, tasks, load, ask)
    local = args.backend == "local" and not args.world
    with tqdm(total=len(tasks), unit="sample") as bar:
        done = synthesize(
            records,
            teacher,
            args.output,
            load=load,
            judge=judge,
            ask=ask,
            rules=rules,
            mode="batched" if local else "parallel",
            workers=args.workers,
            batch_size=args.batch_size,
            accept_new_rules=args.accept_new_rules,
            on_outcome=lambda _: bar.update(),
        )
    write_outputs(
        done,
        args.output,
        annotations,
        video_root=args.video_root,
        keep_partial=args.keep_partial,
        price=Price(args.price_in, args.price_out),
        judge_price=Price(args.judge_price_in, args.judge_price_out) if args.judge else None,
    )
    page = plain_text((args.output / "report.md").read_text(encoding="utf-8"))
    print(f"\n{page}\nwritten: cot.jsonl, annotations_with_saliency.jsonl and discarded.jsonl in {args.output}")
    if waiting := sum(o.decision == "open" for o in done.outcomes):
        print(f"{waiting} samples are still open (discarded.jsonl says why); run again to ask for them")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for what cannot work, before anything is read."""
    if args.annotations and not args.teacher and not args.dry_run:
        raise ValueError("--annotations needs --teacher: the model that writes the reasoning")
    if args.annotations and not args.annotations.is_file():
        raise ValueError(f"--annotations: there is no file {str(args.annotations)!r}")
    if args.annotations:
        for name in ("noise", "three_steps", "blunt"):
            if getattr(args, name):
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} is for --world, whose teacher we write; leave it out with --annotations")
    check_output_folder(args.output)
    for name, low in (("workers", 1), ("batch_size", 1), ("crops", 0), ("world", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"{name}={value} must be at least {low}")


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--annotations", type=Path, help="JSONL of annotated videos")
    source.add_argument("--world", type=int, metavar="N", help="N procedural videos and a teacher that knows them")
    parser.add_argument("--video-root", type=Path, default=None, help="folder of relative video paths")
    parser.add_argument("--noise", type=float, default=0.0, help="with --world: share of faulty answers")
    parser.add_argument(
        "--three-steps", action="store_true", help="with --world: reasoning in the full-size form, step by step"
    )
    parser.add_argument(
        "--blunt", action="store_true", help="with --world: windows and boxes as roughly as people draw them"
    )
    parser.add_argument("--teacher", default=None, help="served name, folder or hub id of the teacher")
    parser.add_argument("--judge", default=None, help="reviewer (default: the teacher)")
    parser.add_argument(
        "--backend", choices=("openai", "local"), default="openai", help="backend of teacher and reviewer"
    )
    parser.add_argument("--base-url", default=None, help="address of the server; the key is read from $OPENAI_API_KEY")
    parser.add_argument(
        "--verify", choices=("rule", "judge", "both"), default="both", help="who checks (default: both)"
    )
    parser.add_argument("--boundary", action="store_true", help="also apply the reviewer's limits in time")
    parser.add_argument(
        "--zoom-window",
        choices=("annotated", "either"),
        default="annotated",
        help="what a clip's time region may be: the annotated range, or the whole clip as well",
    )
    parser.add_argument("--crop", choices=("hull", "per_window"), default="hull", help="clips of several anomalies")
    parser.add_argument("--crops", type=int, default=8, help="enlarged parts shown with abnormal clips, 0: none")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="sampling temperature of the teacher (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of samples and world videos (default: 0)")
    parser.add_argument("--workers", type=int, default=8, help="samples requested from a server at once")
    parser.add_argument("--batch-size", type=int, default=4, help="samples in one batch of a local model")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds per request")
    parser.add_argument("--keep-partial", action="store_true", help="keep verified samples of videos that lost another")
    parser.add_argument("--accept-new-rules", action="store_true", help="check recorded answers against changed rules")
    for name in ("--price-in", "--price-out", "--judge-price-in", "--judge-price-out"):
        parser.add_argument(name, type=float, default=0.0, help="per million tokens")
    parser.add_argument("--dry-run", action="store_true", help="count samples and calls, and stop")
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/cot"), help="output folder; a stopped run resumes there"
    )
    return parser


def _models(
    args: argparse.Namespace, tasks: Sequence[Task], load: Callable[[Record], Video], ask: AskConfig
) -> tuple[Backend, Backend | None]:
    """Teacher and judge."""
    if args.world:
        from reward_model.data.synthesis.narrator_teacher import NarratorJudge, NarratorTeacher
        from reward_model.data.synthesis.noise import Noise

        narrator = NarratorTeacher(
            tasks, load, ask, Noise.even(args.noise), args.seed, full=args.three_steps, blunt=args.blunt
        )
        return narrator, NarratorJudge(tasks)
    if args.backend == "local":
        from reward_model.backends.local import LocalBackend
        from reward_model.backends.source import announce_demo_scale

        teacher, judge = LocalBackend(args.teacher), LocalBackend(args.judge) if args.judge else None
        for backend in (teacher, judge):
            if backend is not None:
                announce_demo_scale(backend.model_id, backend.config.demo_scale)
        return teacher, judge
    from reward_model.backends.openai import OpenAIBackend

    options: dict[str, Any] = {"timeout_s": args.timeout, "deadline_s": None}
    teacher = OpenAIBackend(args.teacher, base_url=args.base_url, **options)
    return teacher, OpenAIBackend(args.judge, base_url=args.base_url, **options) if args.judge else None


if __name__ == "__main__":
    sys.exit(run_program(main, "synthesize_cot", options=names_as_typed(parser()), resumes=True))
