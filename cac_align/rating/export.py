"""Ratings to files: annotations one can train on, rates and agreement, and where people and judge differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cac_align.rating.folder import RATINGS, inside
from cac_align.rating.store import Store
from cac_align.rating.suggestions import Suggestion
from cac_align.rating.tally import consensus, finished_records, judge_disagreements, summarise_ratings
from reward_model.data.annotations import rebase, write_annotations
from reward_model.data.records import Record
from reward_model.files import write_json, write_text


def export_ratings(root: Path, store: Store, suggestions: Mapping[str, Suggestion]) -> list[Path]:
    """Writes to ``ratings/``: ``raters/NAME.jsonl``, ``consensus.jsonl``, ``summary.json``, ``summary.md`` and, with
    verdicts, ``differences.jsonl``. Nobody's half-done answers are in them.

    Raises:
        ValueError: if nobody has finished a video.
    """
    people = finished_records(store)
    if not people:
        raise ValueError("nobody has finished a video yet; there is nothing to export")
    written = [
        write_records(root, f"raters/{person}.jsonl", records.values()) for person, records in sorted(people.items())
    ]
    agreed, _ = consensus(store)
    place = inside(root, f"{RATINGS}/consensus.jsonl")
    if agreed:
        written.append(write_records(root, place.name, agreed.values()))
    else:
        place.unlink(missing_ok=True)
    summary = summarise_ratings(store, suggestions)
    write_json(inside(root, f"{RATINGS}/summary.json"), summary)
    write_text(inside(root, f"{RATINGS}/summary.md"), summary_table(summary))
    written += [inside(root, f"{RATINGS}/summary.{kind}") for kind in ("json", "md")]
    if suggestions:
        lines = [json.dumps(row, ensure_ascii=False) for row in judge_disagreements(store, suggestions)]
        write_text(inside(root, f"{RATINGS}/differences.jsonl"), "".join(f"{line}\n" for line in lines))
        written.append(inside(root, f"{RATINGS}/differences.jsonl"))
    return written


def write_records(root: Path, name: str, records: Iterable[Record]) -> Path:
    """Records whose videos are relative to ``root``, as an annotation file in ``ratings/``."""
    path = inside(root, f"{RATINGS}/{name}")
    return write_annotations(path, rebase(records, root.resolve() / "-", path))


def summary_table(summary: Mapping[str, Any]) -> str:
    """The summary for people: rates, then agreement beyond chance."""
    from reward_model.evaluation import Estimate, Interval, Table

    def row(name: str, tally: Mapping[str, Any]) -> tuple[Any, ...]:
        if tally["rate"] is None:
            return name, None, tally["abnormal"], tally["num"]
        return name, Estimate(tally["rate"], Interval(tally["low"], tally["high"])), tally["abnormal"], tally["num"]

    head = ("", "anomaly rate", "abnormal", "videos")
    undecided = summary["undecided"]
    notes = (f"People are split evenly on {len(undecided)} video(s), which no rate includes.",) if undecided else ()
    folders = [row(name or "(top folder)", found) for name, found in summary["folders"].items()]
    blocks = [[row("all videos, by majority", summary["all"])]]
    blocks += [folders] if len(folders) > 1 else []
    blocks.append([row(name, found) for name, found in summary["types"].items()])
    tables = [
        Table("Anomaly rates", head, blocks, notes),
        Table("By rater", head, [[row(name, found) for name, found in summary["raters"].items()]]),
    ]
    agreement = summary["agreement"]
    if agreement:
        rows = [(label, agreement["kappa"][label], agreement["alpha"][label]) for label in agreement["alpha"]]
        note = f"{agreement['num_shared']} video(s) have two raters or more."
        labels = ("label", "Cohen's kappa", "Krippendorff's alpha")
        tables.append(Table("Agreement beyond chance", labels, [rows], (note,)))
    return "\n".join(table.to_markdown() for table in tables)
