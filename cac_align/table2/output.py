"""Everything a table's folder shows in the end, written from what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.prompts import read_prompts
from cac_align.table2.job import TableJob
from cac_align.table2.matrix import Chosen, Matrix
from cac_align.table2.ratings import FOLDER
from cac_align.table2.results import FILE, Results
from cac_align.table2.tables import TableMaker, tables_to_dict
from reward_model.files import write_json, write_text
from reward_model.statistics.table import Table
from reward_model.video.writing import write_mp4


def write_table_files(job: TableJob) -> list[Path]:
    """Writes tables, correlations, curves, the page and the videos for people; one process at a time, so that the last
    one to come has seen everything.

    Returns:
        The files, the table first.
    """
    with job.alone("tables"):
        matrix = Matrix(job)
        if not matrix.stored:
            raise ValueError(f"{job.folder} holds no scores yet; run with --parts train draw score")
        results = matrix.results()
        written, tables = write_result_tables(results, job.folder)
        written.append(results.save(job.folder / FILE))
        written += _correlations(job, matrix)
        written += _curves(job)
        written += _pace(job)
        written += _page(job, matrix, tables)
        _videos(job, matrix)
    return written


def write_result_tables(results: Results, folder: Path) -> tuple[list[Path], list[Table]]:
    """Writes the tables of some results as Markdown, LaTeX and JSON; returns the files, Markdown first, and the
    tables.
    """
    maker = TableMaker(results)
    tables = maker.all()
    written = write_tables(folder / "table2", tables)
    return [*written, write_json(folder / "table2.json", tables_to_dict(maker, tables))], tables


def write_tables(stem: Path, tables: Sequence[Table]) -> list[Path]:
    """The tables as Markdown and LaTeX."""
    markdown, latex = stem.with_suffix(".md"), stem.with_suffix(".tex")
    write_text(markdown, "\n".join(table.to_markdown() for table in tables))
    text = "\n".join(table.to_latex() for table in tables)
    write_text(latex, text.replace("\u2191", r"$\uparrow$").replace("\u2193", r"$\downarrow$"))
    return [markdown, latex]


def _correlations(job: TableJob, matrix: Matrix) -> list[Path]:
    from cac_align.table2.correlations import correlate, correlation_tables
    from cac_align.table2.spread import spread_table, spreads

    pairs, within = correlate(matrix), spreads(matrix)
    contents: dict[str, Sequence[Any]] = {"within_prompts": within, "correlations": pairs}
    path = job.folder / "correlations"
    tables = [spread_table(within), *correlation_tables(pairs)]
    write_text(path.with_suffix(".md"), "\n".join(t.to_markdown() for t in tables))
    write_json(path.with_suffix(".json"), {key: [e.to_dict() for e in found] for key, found in contents.items()})
    return [path.with_suffix(".md"), path.with_suffix(".json")]


def _curves(job: TableJob) -> list[Path]:
    from cac_align.table2.curves import plot_curves

    return plot_curves(list(job.trainings.values()), job.folder)


def _pace(job: TableJob) -> list[Path]:
    reach = job.settings.reach
    if reach is None:
        return []
    from cac_align.table2.pace import pace_table, plot_pace, row_paces

    row = job.settings.row(reach)
    found = row_paces(list(job.trainings.values()))
    if row.name not in found:  # not trained yet: as the curves, it comes later
        return []
    config = next(t.config for t in job.trainings.values() if t.row == row)
    made = pace_table(found, row.name, _evaluated(config))
    path = write_text(job.folder / "pace.md", made.to_markdown())
    return [path, *plot_pace(found, row.name, job.folder)]


def _evaluated(config: FlowGRPOConfig) -> int:
    """Videos of an evaluation of a training."""
    assert config.eval_prompts is not None
    return min(config.eval_num_prompts, len(read_prompts(config.eval_prompts)))


def _page(job: TableJob, matrix: Matrix, tables: Sequence[Table]) -> list[Path]:
    from cac_align.table2.page import write_page

    return [write_page(job, matrix, tables, job.folder / "table2.html")]


def _videos(job: TableJob, matrix: Matrix) -> None:
    """Every video that stands for some row, once, for people to rate: ``cac-align rate OUTPUT/videos-mp4``."""
    chosen: dict[str, Chosen] = {
        video.name: video
        for row in job.settings.table_rows
        for videos in matrix.chosen(row)
        for video in videos
        if video is not None
    }
    for name, video in chosen.items():
        path = job.folder / FOLDER / f"{name}.mp4"
        if not path.is_file():
            write_mp4(path, job.draws.load(video.source, video.item, video.index), job.draws.config.fps)
    write_json(job.folder / FOLDER / "prompts.json", {f"{n}.mp4": v.item.prompt for n, v in sorted(chosen.items())})
