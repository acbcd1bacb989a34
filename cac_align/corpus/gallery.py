"""A page of a table of verdicts: its rates, and for each type of anomaly the videos at both ends of the scores.

One HTML file that needs nothing else. What the judge wrote, prompts and names are data, escaped as on the report's
page, and no script runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cac_align.corpus.rates import Row, judged_rows, types_in
from cac_align.report.page import content_policy, page_file, page_template, small_copy
from cac_align.report.view import spread
from reward_model.statistics.table import Table, show
from reward_model.terminal.program import score_text
from reward_model.video.clip import Video, load_video, shrunk_size, thinned
from reward_model.video.writing import thumbnail_uri

#: Most frames of a copy on the page, those of a longer video evenly thinned; height of it and of a still in pixels.
_FRAMES, _COPY_HEIGHT, _STILL_HEIGHT = 480, 288, 200
_STILLS = 4


class GallerySection(NamedTuple):
    """A heading, and under each of its ends the numbers of rows, the most telling first."""

    title: str
    num: int
    ends: dict[str, list[int]]


def chosen_rows(rows: Sequence[Row], num: int) -> list[GallerySection]:
    """The rows to look at: of each type those with the lowest and the highest scores, and of the videos called normal
    likewise; no row at both ends.
    """
    scored = [k for k, row in enumerate(rows) if row["score"] is not None]
    ranked = sorted(scored, key=lambda k: (rows[k]["score"], k))
    groups = {kind: [k for k in ranked if kind in (rows[k]["types"] or ())] for kind in types_in(rows)}
    groups["Called normal"] = [k for k in ranked if rows[k]["status"] == "normal"]
    return [_section(title, found, num) for title, found in groups.items() if found]


def _section(title: str, ranked: Sequence[int], num: int) -> GallerySection:
    low = list(ranked[:num])
    high = [k for k in reversed(ranked[-num:]) if k not in low]
    return GallerySection(title, len(ranked), {"Lowest scores": low, **({"Highest scores": high} if high else {})})


def row_card(row: Row, folder: Path, index: int) -> dict[str, Any]:
    """One row as the template reads it.

    Args:
        row: of a table of verdicts.
        folder: that of the table, from which a relative path counts.
        index: its number in the table, from 0.

    Raises:
        VideoError: if the video is gone or broken.
    """
    video = load_video(folder / row["video"], row.get("fps"))
    anomalies = [dict(a) for a in row.get("anomalies") or ()]
    start, end = row.get("window_start_s"), row.get("window_end_s")
    return {
        "index": index,
        "video": row["video"],
        "prompt": row.get("prompt") or "",
        "status": row["status"],
        "score": score_text(row["score"]),
        "facts": [f"{video.num_frames} frames at {video.fps:g} fps", f"{video.size[1]} × {video.size[0]} px"],
        "src": _copy(video),
        "window": None if start is None or end is None else _span(start, end, video),
        "spans": [_span(a["start_s"], a["end_s"], video) for a in anomalies],
        "anomalies": [{**a, "when": f"{a['start_s']:.2f} s to {a['end_s']:.2f} s"} for a in anomalies],
        "stills": _stills(row, video),
        "unlike": row.get("domain_reason") or "",
    }


def render_gallery(
    rows: Sequence[Row],
    sections: Sequence[GallerySection],
    cards: Mapping[int, dict[str, Any]],
    tables: Iterable[Table],
    name: str,
) -> str:
    """The page as HTML text.

    Args:
        rows: of the table.
        sections: of :func:`chosen_rows`.
        cards: of :func:`row_card`, by the number of the row; those whose video is gone are left out.
        tables: of :func:`cac_align.corpus.rates.rates_by`.
        name: of the table.
    """
    style = page_file("cac_align.report", "report.css") + page_file(__package__, "gallery.css")
    unjudged = [row for row in rows if row["score"] is None]
    return str(
        page_template(__package__, "gallery.html.j2").render(
            facts=[name, *_facts(rows)],
            tables=[
                {"title": t.title, "columns": t.columns, "rows": [list(map(show, r)) for r in t.rows], "notes": t.notes}
                for t in tables
            ],
            sections=_shown(sections, cards),
            unjudged=[{"video": row["video"], "error": row.get("error") or ""} for row in unjudged[:20]],
            unjudged_count=len(unjudged),
            style=style,
            policy=content_policy(style),
        )
    )


def _facts(rows: Sequence[Row]) -> list[str]:
    """The number of videos, who judged them, and how many of them."""
    models = sorted({str(row["model"]) for row in rows if row.get("model")})
    return [
        f"{len(rows)} {'video' if len(rows) == 1 else 'videos'}",
        *([f"judged by {', '.join(models)}"] if models else []),
        f"{len(judged_rows(rows))} judged",
    ]


def _shown(sections: Sequence[GallerySection], cards: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The sections with their cards; a video that was shown before is only named."""
    seen: set[int] = set()
    shown = []
    for section in sections:
        ends = []
        for title, numbers in section.ends.items():
            there = [k for k in numbers if k in cards]
            ends.append({"title": title, "cards": [{**cards[k], "again": k in seen} for k in there]})
            seen.update(there)
        shown.append({"title": section.title, "count": section.num, "ends": ends})
    return shown


def _copy(video: Video) -> str:
    """The video as an inline MP4; a long one has fewer frames a second, and lasts as long."""
    indices = thinned(range(video.num_frames), _FRAMES)
    frames = video.take(indices, shrunk_size(video.size, _COPY_HEIGHT))
    return small_copy(frames, video.fps * len(indices) / video.num_frames, _COPY_HEIGHT)


def _span(start_s: float, end_s: float, video: Video) -> dict[str, float]:
    """Position on the time axis, in percent."""
    seconds = video.num_frames / video.fps
    return {"x": round(100 * start_s / seconds, 2), "width": round(100 * (end_s - start_s) / seconds, 2)}


def _stills(row: Row, video: Video) -> list[dict[str, Any]]:
    """Some frames on which the judge drew boxes."""
    boxes: dict[int, list[Mapping[str, Any]]] = {}
    for box in row.get("boxes") or ():
        if box["frame"] < video.num_frames:
            boxes.setdefault(box["frame"], []).append(box)
    indices = spread(sorted(boxes), _STILLS)
    return [
        {
            "frame": k,
            "time": f"{k / video.fps:.2f} s",
            "picture": thumbnail_uri(frame, _STILL_HEIGHT),
            "boxes": [[b["x0"], b["y0"], b["x1"] - b["x0"], b["y1"] - b["y0"]] for b in boxes[k]],
        }
        for k, frame in zip(indices, video.take(indices) if indices else (), strict=True)
    ]
