"""Boxes on every frame against boxes at ticks: vIoU, tokens and seconds, by tick and by the frame rate of turn two.

    python recipes/track_table.py --models per_frame=assets/cac-mini 0.5s=outputs/tracks/stage2 --fps 4 8 16
    python recipes/track_table.py --models sft=outputs/a,outputs/b grpo=outputs/a3/judge,outputs/b3/judge \\
        --gain grpo:sft --cheats sft --output outputs/tracks/gains
    python recipes/track_table.py --limits          # what no judge can exceed: the truth, written at ticks and read

A name may have several checkpoints, one for each training seed, separated by commas. Writes tables.md, tables.tex and
tables.json, and rows/ with a row for every video; the same call continues a stopped run. Choose on --bench dev; read
main once.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.files import check_output_folder
from reward_model.shipped import located
from reward_model.terminal.parser import CommandParser, names_as_typed
from reward_model.terminal.program import quiet_bars, run_program

if TYPE_CHECKING:
    from reward_model.config import JudgeConfig
    from reward_model.evaluation.benches.bench import Bench
    from reward_model.evaluation.running.row import Row
    from reward_model.statistics.table import Table
    from reward_model.tracks.codec import TurnTwoCodec

# One thread for the minis: more of them spend their time waiting for each other. Must be set before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MINI = "assets/cac-mini"


def main(arguments: list[str] | None = None) -> int:
    """Judges what is not judged yet and writes the tables."""
    args = parser().parse_args(arguments)
    models = check(args)
    from reward_model.evaluation.benches.names import open_bench
    from reward_model.evaluation.tables.reports import write_report

    quiet_bars("transformers")
    warnings.filterwarnings("ignore", message="the embedded mini judge is demo-scale")
    name, bench = open_bench(args.bench, videos=args.videos)
    tables = []
    if args.limits:
        tables.append(limits(args, name, bench, next(iter(models.values()))[0]))
    if args.models:
        tables += measured(args, models, name, bench)
    written = write_report(args.output, tables, {})
    print("\n" + "\n".join(table.to_text() for table in tables))
    print("written: " + ", ".join(map(str, written)))
    return 0


def check(args: argparse.Namespace) -> dict[str, list[str]]:
    """The checkpoints by name. Raises ValueError for what cannot be meant, before a model loads."""
    from reward_model.evaluation.tables.ablation import folders_by_row

    check_output_folder(args.output)
    if not args.models and not args.limits:
        raise ValueError("nothing to measure: give --models NAME=FOLDER[,FOLDER...], or --limits")
    bad = [rate for rate in args.fps if not 0 < rate <= 1000]
    if bad or not args.fps:
        raise ValueError(f"fps={bad or args.fps} must be frames a second above 0 and at most 1000")
    if args.batch_size < 1:
        raise ValueError(f"batch_size={args.batch_size} must be at least 1")
    given = folders_by_row(args.models or [f"mini={MINI}"])
    models = {name: list(map(located, folders)) for name, folders in given.items()}
    _check_named(args, models)
    return models


def _check_named(args: argparse.Namespace, models: Mapping[str, list[str]]) -> None:
    named = [side for pair in args.gain for side in pair.split(":")] + ([args.cheats] if args.cheats else [])
    unknown = sorted(set(named) - set(models))
    if unknown or any(pair.count(":") != 1 for pair in args.gain):
        raise ValueError(f"--gain A:B and --cheats A must name judges of --models, which are {', '.join(models)}")


def measured(args: argparse.Namespace, models: Mapping[str, list[str]], name: str, bench: Bench) -> list[Table]:
    """The tables of judges."""
    from reward_model.evaluation.running.contestants import judge_contestant, parse_source
    from reward_model.evaluation.running.suite import measured_rows, run_suite
    from reward_model.evaluation.tables.track_table import track_gain_table, track_table

    options = {"device": args.device} if args.device else {}
    contestants = {}
    for model, folders in models.items():
        for k, folder in enumerate(folders, 1):
            source = parse_source(f"x={folder}", options=options)[1]
            for rate in args.fps:
                settings = {**settings_at(folder, rate), "batch_size": args.batch_size, "all_readouts": False}
                contestants[model, rate, k] = judge_contestant(f"{model} {k}, {rate:g} fps", source, settings)
    results = run_suite(list(contestants.values()), {name: bench}, args.output, batch_size=args.batch_size, say=_say)
    rows = {key: measured_rows(results[name][c.name]) for key, c in contestants.items()}
    lines: dict[tuple[str, float], list[list[Row]]] = {}
    for (model, rate, _), found in rows.items():
        lines.setdefault((model, rate), []).append(found)
    tables = [track_table(name, lines)]
    if args.gain:
        sides = [pair.split(":") for pair in args.gain]
        pairs = {f"{a} - {b}, {rate:g} fps": (lines[a, rate], lines[b, rate]) for a, b in sides for rate in args.fps}
        tables.append(track_gain_table(name, pairs))
    if args.cheats:
        tables.append(cheats(args, name, bench, models[args.cheats][0]))
    return tables


def settings_at(folder: str, rate: float) -> dict[str, Any]:
    """The settings of a judge whose turn two sees so many frames a second, for as many seconds as before."""
    config = known_settings(folder)
    share = rate / config.zoom_fps
    frames = max(config.min_zoom_frames, round(config.max_zoom_frames * share))
    settings: dict[str, Any] = {"zoom_fps": rate, "max_zoom_frames": frames}
    if config.demo_scale:
        from reward_model.minis.tokenizer import MAX_FRAMES

        settings["max_zoom_frames"] = min(frames, MAX_FRAMES)  # it knows no marks of further frames
    if config.max_zoom_tokens is not None and share > 1:
        settings["max_zoom_tokens"] = round(config.max_zoom_tokens * share)
    return settings


def known_settings(folder: str) -> JudgeConfig:
    """Settings by which the checkpoint says that it is asked."""
    from reward_model.backends.checkpoint import settings_folder
    from reward_model.config import load_judge_config

    return load_judge_config(settings_folder(folder))


def limits(args: argparse.Namespace, name: str, bench: Bench, folder: str) -> Table:
    """The table of the truth at ticks, in the wording and tokens of a checkpoint."""
    from transformers import AutoTokenizer

    from reward_model.evaluation.tables.track_table import codec_limit, limit_table
    from reward_model.tracks.codec import STEPS, PerFrame, Ticks
    from reward_model.world.narration import narrate_zoom

    wording = known_settings(folder).prompts
    tokenizer = AutoTokenizer.from_pretrained(folder)
    count = partial(_length, tokenizer)
    codecs: dict[str, TurnTwoCodec] = {
        "per_frame": PerFrame(),
        **{track: Ticks(step, wording) for track, step in STEPS.items()},
    }
    found = {
        (track, rate): codec_limit(bench, codec, rate, count, narrate_zoom)
        for track, codec in codecs.items()
        for rate in args.fps
    }
    return limit_table(name, found)


def _length(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False))


def cheats(args: argparse.Namespace, name: str, bench: Bench, folder: str) -> Table:
    """The table of answers made to please the verifier, from those of a judge."""
    from reward_model.backends.local import LocalBackend
    from reward_model.evaluation.running.row import rollout_of
    from reward_model.evaluation.tables.track_table import cheat_overlaps, cheat_table
    from reward_model.grounding import join_boxes
    from reward_model.judge import TwoTurnJudge
    from reward_model.video.clip import sample_indices

    rate = args.fps[0]
    config = known_settings(folder).override(**settings_at(folder, rate), batch_size=args.batch_size)
    judge = TwoTurnJudge(LocalBackend(folder, **({"device": args.device} if args.device else {})), config)
    videos = [video for video in (bench[k] for k in range(len(bench))) if video.truth.status == "abnormal"]
    rates = [v.truth.fps for v in videos]
    verdicts = judge.judge([v.frames for v in videos], [v.truth.prompt for v in videos], fps=rates)
    answers = []
    for video, verdict in zip(videos, verdicts, strict=True):
        rollout = rollout_of(verdict)
        grid = sorted({*rollout.clip_indices, *sample_indices(video.truth.num_frames, video.truth.fps, rate)})
        drawn = join_boxes(rollout.zoom.anomalies) if rollout.zoom is not None else {}
        tube = {grid.index(rollout.clip_indices[k]): boxes for k, boxes in drawn.items()}
        answers.append((tube, join_boxes(video.truth.on_grid(grid)), len(grid)))
    return cheat_table(name, cheat_overlaps([a for a in answers if a[0]]))


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", action="extend", default=[], metavar="NAME=FOLDER[,FOLDER]", help="judges by name"
    )
    parser.add_argument(
        "--fps", nargs="+", type=float, default=[8.0], help="frames per second of turn two (default: 8)"
    )
    parser.add_argument("--limits", action="store_true", help="the truth at ticks, by tick and frame rate")
    parser.add_argument(
        "--gain", nargs="+", action="extend", default=[], metavar="A:B", help="t_IoU + mv_IoU of A over B, by seeds"
    )
    parser.add_argument("--cheats", metavar="A", help="answers of A turned into cheats, scored beside the honest ones")
    parser.add_argument(
        "--bench",
        default="dev",
        help="bench of recipes/evaluate_reward.py, or an annotation file (default: dev)",
    )
    parser.add_argument("--videos", type=int, default=None, help="number of videos; even, half of them normal")
    parser.add_argument("--batch-size", type=int, default=32, help="videos judged at once; 4 to 8 for an 8B model")
    parser.add_argument("--device", default=None, help="device of the models (default: CUDA if available)")
    parser.add_argument("--output", type=Path, default=Path("outputs/tracks/table"), help="folder of tables and rows")
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main, "track_table", options=names_as_typed(parser()), resumes=True))
