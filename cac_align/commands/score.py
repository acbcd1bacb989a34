"""``cac-align score``: judge video files, one by one on the screen or a corpus of them into a table."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.commands.judge_options import add_judge_arguments, build_judge_reward, check_judge
from cac_align.commands.score_corpus import add_corpus_arguments, check_corpus, score_corpus
from cac_align.commands.score_rows import ScoreRows, check_rows_file, open_rows, record, video_digest
from reward_model.files import check_output_folder
from reward_model.terminal.program import printable, score_text

if TYPE_CHECKING:
    from tqdm import tqdm

    from cac_align.corpus.sources import CorpusVideo
    from cac_align.rewards.cac import CaCReward
    from reward_model.schema import Verdict

NAME, HELP = "score", "Score video files: P(normal), and what is wrong where."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="video files, folders of them, patterns in quotes, or manifests: JSONL, CSV or Parquet with columns video "
        "and prompt",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="the text the videos were made from; once for all, or once per video",
    )
    parser.add_argument("--fps", type=float, help="frames per second (default: the rate stated in each file)")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="JSONL",
        help="also write a line for each video as it is judged; the same command resumes from there",
    )
    parser.add_argument(
        "--overlay", type=Path, metavar="DIR", help="also write each video with boxes and window drawn into it"
    )
    add_corpus_arguments(parser)
    add_judge_arguments(parser)
    parser.set_defaults(resumes=True)


def run(args: argparse.Namespace) -> int:
    from cac_align.corpus.sources import find_corpus

    check_corpus(args)
    clips = find_corpus(args.videos, args.prompt, args.fps)
    for problem in _check(args, [clip.video for clip in clips]):
        print(f"cac-align: {printable(problem)}", file=sys.stderr)
    if args.table is not None:
        return score_corpus(args, clips)
    reward, paths = build_judge_reward(args), [clip.video for clip in clips]
    missing = 0
    with _open(args.output) as rows, _bar(len(paths)) as bar, _printer(args, paths) as show:
        for part in _batches(args, reward, clips, rows, bar):
            for row, verdict, path in part:
                missing += row["score"] is None
                with bar.external_write_mode(file=sys.stdout):
                    show(row, verdict, path)
    return 1 if missing else 0


# --- before anything loads --------------------------------------------------------------------------------------------


def _check(args: argparse.Namespace, paths: Sequence[str]) -> list[str]:
    """Refuses what cannot work before a model loads; absent files are errors if there is no other.

    Raises:
        ValueError: if a number is out of range, every file is missing, or a folder cannot be written to.
    """
    from reward_model.video.clip import check_fps

    if args.fps is not None:
        check_fps(args.fps)
    check_judge(args)
    if args.overlay is not None:
        check_output_folder(args.overlay, "--overlay")
    if args.output is not None:
        check_rows_file(args.output)
    absent = [path for path in paths if not Path(path).exists()]
    if len(absent) == len(paths):
        more = f", nor at {len(absent) - 1} other paths" if len(absent) > 1 else ""
        raise ValueError(f"no video file at {absent[0]!r}{more}")
    if not absent:
        return []
    return [f"{len(absent)} of {len(paths)} files are missing, the first {absent[0]!r}; they get no score"]


# --- judging ----------------------------------------------------------------------------------------------------------


def _batches(
    args: argparse.Namespace, reward: CaCReward, clips: Sequence[CorpusVideo], rows: ScoreRows | None, bar: tqdm[Any]
) -> Iterator[list[tuple[dict[str, Any], Verdict | None, str]]]:
    """(row, verdict, path) of each video in order, as many at a time as the judge takes at once; rows that an earlier
    run wrote come without a verdict.
    """
    size = reward.judge_model.config.batch_size
    paths = [clip.video for clip in clips]
    asked, done = _asked_and_done(_settings(args, reward), clips, rows) if rows is not None else ({}, {})
    waiting: list[int] = []
    for k in range(len(clips)):
        waiting.append(k)
        new = [j for j in waiting if j not in done]
        if len(new) < size and k + 1 < len(clips):
            continue
        judged = dict(zip(new, _judge(reward, [clips[j] for j in new]), strict=True))
        part: list[tuple[dict[str, Any], Verdict | None, str]] = []
        for j in waiting:
            row = done[j] if j in done else record(judged[j], paths[j], asked.get(j))
            if rows is not None and j not in done:
                rows.add(row)
            part.append((row, judged.get(j), paths[j]))
        bar.update(len(waiting))
        waiting = []
        yield part


def _asked_and_done(
    settings: dict[str, Any], clips: Sequence[CorpusVideo], rows: ScoreRows
) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """By the number of a video: what its row depends on, and the row itself if an earlier run wrote it."""
    asked = {
        k: {**settings, "fps": clip.fps, "prompt": clip.prompt, "bytes": video_digest(clip.video)}
        for k, clip in enumerate(clips)
    }
    done = {k: row for k, clip in enumerate(clips) if (row := rows.find(clip.video, asked[k])) is not None}
    return asked, done


def _judge(reward: CaCReward, clips: Sequence[CorpusVideo]) -> list[Verdict]:
    if not clips:
        return []
    from reward_model.schema import Verdict
    from reward_model.video.clip import VideoError

    prompts = [clip.prompt for clip in clips]
    texts = None if all(p is None for p in prompts) else prompts
    # Asked as a judge, not as a reward: a file that is not there is one of many here, not the caller's mistake.
    try:
        rates: list[Any] = [clip.fps for clip in clips]
        verdicts: list[Verdict] = reward.judge_model.judge([clip.video for clip in clips], texts, fps=rates)
    except VideoError as error:  # one that states no frame rate
        if len(clips) == 1:
            return [Verdict(status=None, score=None, error=str(error))]
        return [_judge(reward, [clip])[0] for clip in clips]
    return verdicts


def _settings(args: argparse.Namespace, reward: CaCReward) -> dict[str, Any]:
    """Settings that a row depends on beside the video and its prompt."""
    from reward_model.digests import model_fingerprint

    names = ("backend", "base_url", "revision", "no_reasoning", "scan_fps", "zoom_fps")
    model, config = str(reward.model), reward.judge_model.config
    # Without a cascade it is not named: rows of earlier versions stay known.
    cascade = [config.cascade, config.normal_above, config.abnormal_below] if config.cascade != "off" else None
    mark = model_fingerprint(model)[:16] if Path(model).is_dir() else model
    return {"model": mark, "readout": config.readout, **{name: getattr(args, name) for name in names}} | (
        {} if cascade is None else {"cascade": cascade}
    )


# --- showing ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open(output: Path | None) -> Iterator[ScoreRows | None]:
    if output is None:
        yield None
        return
    with open_rows(output) as rows:
        yield rows


def _bar(count: int) -> tqdm[Any]:
    """A bar on stderr, where somebody looks and there is more than one video."""
    from tqdm import tqdm

    return tqdm(total=count, desc="judging", unit="video", disable=None if count > 1 else True, leave=False)


@contextlib.contextmanager
def _printer(args: argparse.Namespace, paths: Sequence[str]) -> Iterator[Any]:
    """``show(row, verdict, path)``: prints a video, and draws its overlay. The JSON list ends even if the run does not
    come to its end.
    """
    shown = 0
    names = _names(paths)

    def show(row: dict[str, Any], verdict: Verdict | None, path: str) -> None:
        nonlocal shown
        if args.json:
            print("[" if shown == 0 else ",", end="\n")
            print(json.dumps({k: v for k, v in row.items() if k != "asked"}, indent=1), end="", flush=True)
        shown += 1
        if row["score"] is None:
            print(f"cac-align: {printable(path)}: {printable(row['error'])}", file=sys.stderr)
        elif not args.json:
            print(_line(row, verdict or _verdict(row), path), flush=True)
        if args.overlay is not None and row["status"] is not None:
            _overlay(args, names[path], path, verdict or _verdict(row))

    try:
        yield show
    finally:
        if args.json:
            with contextlib.suppress(BrokenPipeError):
                print("\n]" if shown else "[]", flush=True)


def _verdict(row: dict[str, Any]) -> Verdict:
    from reward_model.schema import Verdict

    return Verdict.from_dict(row["verdict"])


def _line(row: dict[str, Any], verdict: Verdict, path: str) -> str:
    from cac_align.report.view import domain_note, readout_note

    times = [(a.frames.start / verdict.fps, (a.frames.end + 1) / verdict.fps) for a in verdict.anomalies]
    shown = "; ".join(
        f"{a.type.value} {start:.2f}-{end:.2f} s" + (f": {a.reason}" if a.reason else "")
        for a, (start, end) in zip(verdict.anomalies, times, strict=True)
    )
    note = readout_note(verdict, verdict.score)
    said = [path, shown, *(f"({text})" for text in (note, domain_note(verdict)) if text)]
    return f"{score_text(row['score'])}  {verdict.status or '-':<8}  " + "  ".join(printable(s) for s in said if s)


def _names(paths: Sequence[str]) -> dict[str, str]:
    """A file name for each video's overlay, different ones for videos of the same name."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for path in paths:
        stem = Path(path).stem
        name = next(n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(paths) + 2))) if n not in taken)
        taken.add(name)
        names.setdefault(path, name)
    return names


def _overlay(args: argparse.Namespace, name: str, path: str, verdict: Verdict) -> None:
    """Decodes one video and writes it with what was found."""
    from cac_align.report.overlay import write_overlay
    from reward_model.video.clip import VideoError, load_video

    try:
        frames = load_video(path, args.fps).frames
        written = write_overlay(args.overlay / f"{name}.mp4", frames, verdict, verdict.fps)
    except VideoError as error:
        print(f"cac-align: {printable(path)}: no overlay: {printable(error)}", file=sys.stderr)
        return
    print(printable(written), file=sys.stderr)
