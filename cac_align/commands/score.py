"""``cac-align score``: judge video files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.commands.judge_options import add_judge_arguments, build_reward
from cac_align.readout_note import readout_note

if TYPE_CHECKING:
    from reward_model.schema import Verdict

NAME, HELP = "score", "Score video files: P(normal), and what is wrong where."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video files")
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="the text the videos were made from; once for all, or once per video",
    )
    parser.add_argument("--fps", type=float, help="frames per second (default: what each file says)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument(
        "--overlay", type=Path, metavar="DIR", help="also write each video with boxes and window drawn into it"
    )
    add_judge_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from reward_model.video import check_fps

    if args.fps is not None:
        check_fps(args.fps)
    prompts = args.prompt[0] if args.prompt and len(args.prompt) == 1 else args.prompt
    if isinstance(prompts, list) and len(prompts) != len(args.videos):
        raise ValueError(
            f"{len(prompts)} prompts for {len(args.videos)} videos; give --prompt once for all, or once per video"
        )
    # Decoded once, for the judge and for the overlays.
    videos = [_decoded(path, args.fps) for path in args.videos] if args.overlay else args.videos
    verdicts = build_reward(args).judge_batch(videos, prompts, fps=args.fps)
    if args.overlay:
        for path in _write_overlays(args.overlay, args.videos, videos, verdicts):
            print(path, file=sys.stderr)
    if args.json:
        print(json.dumps([_record(v, path) for v, path in zip(verdicts, args.videos, strict=True)], indent=1))
    for verdict, path in zip(verdicts, args.videos, strict=True):
        if verdict.score is None:
            print(f"cac-align: {path}: {verdict.error}", file=sys.stderr)
        elif not args.json:
            print(_line(verdict, path))
    return 1 if any(v.score is None for v in verdicts) else 0


def _line(verdict: Verdict, path: str) -> str:
    times = [(a.frames.start / verdict.fps, (a.frames.end + 1) / verdict.fps) for a in verdict.anomalies]
    found = "; ".join(
        f"{a.type.value} {start:.2f}-{end:.2f} s" + (f": {a.reason}" if a.reason else "")
        for a, (start, end) in zip(verdict.anomalies, times, strict=True)
    )
    note = readout_note(verdict, verdict.score)
    said = [path, found, f"({note})" if note else ""]
    return f"{verdict.score:.4f}  {verdict.status or '-':<8}  " + "  ".join(part for part in said if part)


def _record(verdict: Verdict, path: str) -> dict[str, Any]:
    return {
        "video": path,
        "score": verdict.score,
        "status": verdict.status,
        "types": [t.value for t in verdict.types],
        "window_s": verdict.window_s,
        "error": verdict.error,
        "verdict": verdict.to_dict(),
    }


def _decoded(path: str, fps: float | None) -> Any:
    """The video of a file; an unreadable one stays a path, and the judge says what is wrong with it."""
    from reward_model.video import VideoError, load_video

    try:
        return load_video(path, fps)
    except VideoError:
        return path


def _write_overlays(folder: Path, paths: list[str], videos: list[Any], verdicts: list[Verdict]) -> list[Path]:
    from cac_align.report.overlay import write_overlay

    taken: set[str] = set()
    written = []
    for path, video, verdict in zip(paths, videos, verdicts, strict=True):
        if verdict.status is None:
            continue
        stem = Path(path).stem
        name = next(n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(paths) + 2))) if n not in taken)
        taken.add(name)
        written.append(write_overlay(folder / f"{name}.mp4", video.frames, verdict, verdict.fps))
    return written
