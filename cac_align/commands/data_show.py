"""``cac-align data show``: a random sample of annotated videos on one page, for a person to look at."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.terminal.program import printable

if TYPE_CHECKING:
    import numpy as np

    from reward_model.data.records import Record
    from reward_model.schema import Anomaly

PAGE_FILE = "index.html"
#: Frames shown of each window, and the height of their pictures and of the copy of the video in pixels.
WINDOW_FRAMES, PICTURE_HEIGHT, VIDEO_HEIGHT = 6, 200, 288


def add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("annotations", type=Path, metavar="JSONL", help="annotation file, one video per line")
    parser.add_argument(
        "--video-root", type=Path, metavar="DIR", help="folder of the videos (default: that of the file)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for index.html")
    parser.add_argument("--num", type=int, default=12, metavar="N", help="number of videos (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sample (default: 0)")
    parser.add_argument("--normal", action="store_true", help="include normal videos")


def run_show(args: argparse.Namespace) -> int:
    from reward_model.data.annotations import read_annotations, video_path
    from reward_model.files import write_text

    records = read_annotations(args.annotations, check_videos=False)
    drawn = draw_sample(records, args.num, seed=args.seed, normal=args.normal, place=str(args.annotations))
    cards = []
    for number, record in enumerate(drawn):
        try:
            cards.append(card(record, video_path(record, args.annotations, args.video_root), number))
        except ValueError as error:  # a VideoError is one
            if number == len(drawn) - 1 and not cards:
                raise
            print(printable(f"left out: {record.truth.video_id}: {error}"), file=sys.stderr)
    facts = [str(args.annotations), f"{len(cards)} of {len(records)} videos", f"seed {args.seed}"]
    write_text(args.output / PAGE_FILE, render_sample(cards, facts))
    print(args.output / PAGE_FILE)
    return 0


def draw_sample(
    records: Sequence[Record], num: int, *, seed: int = 0, normal: bool = False, place: str = "the file"
) -> list[Record]:
    """At most ``num`` records with anomalies (with ``normal``, of all records) by chance, in their order.

    Raises:
        ValueError: if ``num`` is below 1, or there is nothing to draw from.
    """
    if num < 1:
        raise ValueError(f"--num {num} must be at least 1")
    known = [r for r in records if normal or r.truth.anomalies]
    if not known:
        raise ValueError(f"no video of {place} has an anomaly; --normal shows normal videos")
    chosen = sorted(random.Random(seed).sample(range(len(known)), min(num, len(known))))
    return [known[k] for k in chosen]


def card(record: Record, path: Path, index: int) -> dict[str, Any]:
    """One video as the template reads it.

    Raises:
        VideoError: if the video is missing or broken.
        ValueError: if it has fewer frames than its annotation says.
    """
    from cac_align.report.page import small_copy
    from reward_model.data.records import MAKER_KEY, ORIGIN_KEY
    from reward_model.video.clip import load_video

    truth, video = record.truth, load_video(path, record.truth.fps)
    if len(video.frames) < truth.num_frames:
        raise ValueError(
            f"{path} has {len(video.frames)} frames and its annotation {truth.num_frames}; "
            "cac-align data validate lists such lines"
        )
    # A slice would decode all of a long video at once.
    frames = video.frames if len(video.frames) == truth.num_frames else video.frames[: truth.num_frames]
    return {
        "index": index,
        "video_id": truth.video_id,
        "video": record.video,
        "status": truth.status,
        "origin": str(record.extra.get(ORIGIN_KEY, "")),
        "maker": str(record.extra.get(MAKER_KEY, "")),
        "prompt": truth.prompt,
        "facts": [f"{len(frames)} frames at {truth.fps:g} fps", f"{truth.width} × {truth.height} px"],
        "src": small_copy(frames, truth.fps, VIDEO_HEIGHT),
        "spans": [_span(a, len(frames)) for a in truth.anomalies],
        "anomalies": [_anomaly(a, frames, truth.fps) for a in truth.anomalies],
        "stills": [] if truth.anomalies else _stills(_spread(range(len(frames)), 8), frames, truth.fps, None),
    }


def render_sample(cards: Sequence[dict[str, Any]], facts: Sequence[str]) -> str:
    """The page: one HTML file that needs nothing else, its texts escaped."""
    from cac_align.report.page import content_policy, page_file, page_template

    style = page_file("cac_align.report", "report.css") + page_file("cac_align.commands", "data_show.css")
    template = page_template("cac_align.commands", "data_show.html.j2")
    return str(template.render(cards=cards, facts=facts, style=style, policy=content_policy(style)))


def shown_frames(anomaly: Anomaly, num_frames: int, fps: float) -> list[int]:
    """A few frames of the window, the two before it and the two after it: next to it and a third of a second away."""
    start, end, step = anomaly.frames.start, anomaly.frames.end, max(2, round(fps / 3))
    around = {start - step, start - 1, end + 1, end + step}
    inside = _spread(list(anomaly.frames.frames()), WINDOW_FRAMES)
    return sorted({k for k in (*around, *inside) if 0 <= k < num_frames})


def _anomaly(anomaly: Anomaly, frames: np.ndarray, fps: float) -> dict[str, Any]:
    first, last = anomaly.frames.start, anomaly.frames.end
    return {
        "type": anomaly.type.value,
        "frames": f"frames {first} to {last}" if last > first else f"frame {first}",
        "when": f"{first / fps:.2f} s to {(last + 1) / fps:.2f} s, {(last + 1 - first) / fps:.2f} s long",
        "reason": anomaly.reason,
        "objects": ", ".join(anomaly.objects),
        "region": anomaly.region,
        "stills": _stills(shown_frames(anomaly, len(frames), fps), frames, fps, anomaly),
    }


def _stills(indices: Iterable[int], frames: np.ndarray, fps: float, anomaly: Anomaly | None) -> list[dict[str, Any]]:
    from reward_model.video.writing import thumbnail_uri

    return [
        {
            "frame": k,
            "time": f"{k / fps:.2f} s",
            "picture": thumbnail_uri(frames[k], PICTURE_HEIGHT),
            "inside": anomaly is not None and k in anomaly.frames,
            "boxes": [b.as_list() for b in anomaly.boxes.get(k, ())] if anomaly else [],
        }
        for k in indices
    ]


def _span(anomaly: Anomaly, num_frames: int) -> dict[str, float]:
    """Position of the window on the time axis, in percent."""
    start, length = anomaly.frames.start, len(anomaly.frames)
    return {"x": round(100 * start / num_frames, 2), "width": round(100 * length / num_frames, 2)}


def _spread(items: Sequence[int], count: int) -> list[int]:
    from cac_align.report.view import spread

    return spread(items, count)
