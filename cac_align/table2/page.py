"""Before and after, side by side (the paper's Figure S3): one HTML file with the table, the curves and pairs of videos
with the judge's window, boxes and reasons. Prompts and the judge's words are data and are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cac_align.report.overlay import draw_overlay
from cac_align.report.page import content_policy, page_file, page_template
from cac_align.table2.curves import CURVES, DARK_CURVES
from cac_align.table2.job import TableJob
from cac_align.table2.matrix import Chosen, Matrix
from reward_model.files import write_text
from reward_model.schema import Anomaly, Verdict
from reward_model.shipped import package_version
from reward_model.statistics.table import Table, show
from reward_model.video.writing import data_uri, write_mp4


def write_page(job: TableJob, matrix: Matrix, tables: Sequence[Table], path: Path) -> Path:
    """Writes the page and returns its path.

    Args:
        job: whose videos are shown.
        matrix: which video stands for a row.
        tables: shown as they are.
        path: path of the HTML file; ``curves.png`` beside it is built in if it exists, and its dark twin.
    """
    style, script = page_file(__package__, "table2.css"), page_file(__package__, "table2.js")
    text = page_template(__package__, "table2.html.j2").render(
        title=f"Alignment of {job.settings.video.model}",
        tables=[_table(t) for t in tables],
        curves=_picture(path.with_name(CURVES)),
        dark_curves=_picture(path.with_name(DARK_CURVES)),
        examples=[_example(job, matrix, place) for place in example_places(matrix)],
        rows=[r.name for r in job.settings.table_rows],
        style=style,
        script=script,
        policy=content_policy(style, script),
        version=package_version(),
    )
    write_text(path, text)
    return path


def _picture(path: Path) -> str | None:
    return data_uri(path.read_bytes(), "image/png") if path.is_file() else None


def example_places(matrix: Matrix) -> list[int]:
    """Items worth showing: those on which base and last row differ most in the judge's score, gains and losses in
    turn, so that the page does not show successes alone. Without a judge, the first ones.
    """
    settings = matrix.settings
    count, rows = settings.examples, settings.table_rows
    before, after = matrix.chosen(rows[0])[0], matrix.chosen(rows[-1])[0]
    gaps: dict[int, float] = {}
    for place, pair in enumerate(zip(before, after, strict=True)):
        first, last = (_judged(matrix, video) for video in pair)
        if first is not None and last is not None:
            gaps[place] = last - first
    if not gaps:
        return [k for k, video in enumerate(before) if video is not None][:count]
    return _in_turn(gaps)[:count]


def _in_turn(gaps: Mapping[int, float]) -> list[int]:
    """The largest gain, the largest loss, the second largest gain, and so on; of one kind alone, what is left."""
    order = sorted(gaps, key=lambda k: (-gaps[k], k))
    losses = [k for k in reversed(order) if gaps[k] < 0]
    gains = [k for k in order if k not in losses]
    mixed = [k for pair in zip(gains, losses, strict=False) for k in pair]
    return [*mixed, *(k for k in (*gains, *losses) if k not in mixed)]


def _judged(matrix: Matrix, video: Chosen | None) -> float | None:
    judge = matrix.settings.judge
    return None if video is None or judge is None else matrix.values_of(video).get(judge)


def _example(job: TableJob, matrix: Matrix, place: int) -> dict[str, Any]:
    """An item with the video of every row; of trained rows the first training seed's."""
    item = job.draws.items[place]
    videos = [(row, matrix.chosen(row)[0][place]) for row in job.settings.table_rows]
    shown: dict[tuple[str, int], int] = {}
    cards: list[dict[str, Any]] = []
    for row, video in videos:
        if video is None:
            continue
        key = (video.source.name, video.index)
        same = shown.setdefault(key, len(cards)) if key in shown else None
        shown.setdefault(key, len(cards))
        same_as = None if same is None else cards[same]["row"]
        cards.append(_card(job, matrix, row.name, video, same_as))
    return {"prompt": item.prompt, "seed": item.seed, "cards": cards}


def _card(job: TableJob, matrix: Matrix, row: str, video: Chosen, same_as: str | None) -> dict[str, Any]:
    verdict = _verdict(job, video)
    values = matrix.values_of(video)
    scores = [(name, values.get(name)) for name in job.settings.reward_specs]
    return {
        "row": row,
        "same_as": same_as,
        "candidate": video.index,
        "src": None if same_as else _video(job, video, verdict),
        "status": None if verdict is None else verdict.status or "none",
        "window": None
        if verdict is None or verdict.window_s is None
        else "{:.2f} to {:.2f} s".format(*verdict.window_s),
        "findings": [] if verdict is None else [_finding(a, verdict.fps) for a in verdict.anomalies],
        "cot": _cot(verdict),
        "scores": [f"{name} {'-' if s is None else f'{s:.3f}'}" for name, s in scores],
        "rule": _rule(values),
    }


def _verdict(job: TableJob, video: Chosen) -> Verdict | None:
    judge = job.settings.judge
    answer = None if judge is None else job.scores.answer(video.source, video.item, video.index, judge)
    return Verdict.from_dict(answer["verdict"]) if answer and answer.get("verdict") else None


def _finding(anomaly: Anomaly, fps: float) -> dict[str, str]:
    start, end = anomaly.frames.start / fps, (anomaly.frames.end + 1) / fps
    return {"type": anomaly.type.value, "when": f"{start:.2f} to {end:.2f} s", "reason": anomaly.reason}


def _cot(verdict: Verdict | None) -> str:
    reports = [t.report.cot for t in verdict.turns if t.report] if verdict else []
    return "\n\n".join(text for text in reports if text)


def _rule(values: Mapping[str, float | None]) -> str | None:
    """Verdict of the independent rule: its faults, or "no fault"; None if it was not applied."""
    if "world/anomaly" not in values:
        return None
    faults = [k.removeprefix("world/fault ") for k, v in values.items() if k.startswith("world/fault") and v]
    return ", ".join(faults) or "no fault"


def _video(job: TableJob, video: Chosen, verdict: Verdict | None) -> str:
    """The video with the judge's boxes and window drawn in, inside the page."""
    frames = job.draws.load(video.source, video.item, video.index)
    shown = frames if verdict is None else draw_overlay(frames, verdict)
    path = job.folder / ".page" / f"{video.name}.mp4"
    write_mp4(path, shown, job.draws.config.fps)
    data = path.read_bytes()
    path.unlink()
    return data_uri(data, "video/mp4")


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [[show(cell) for cell in row] for row in table.rows],
        "notes": table.notes,
    }
